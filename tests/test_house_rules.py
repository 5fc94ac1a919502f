"""Rules of the house that a linter does not know: nothing is unpickled or evaluated, functions stay short."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "gemsbench"
FILES = sorted(SOURCE.rglob("*.py"))
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
MEANINGLESS = {"utils", "helpers", "common", "misc", "util", "helper"}
LONGEST_FUNCTION = 50


def identifier(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def unsafe(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            yield from (name for name in names if name.split(".")[0] in UNSAFE_MODULES)
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in {"eval", "exec", "compile", "__import__", "yaml.unsafe_load", "np.load"}:
                yield name
            safe = any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)
            if name == "torch.load" and not safe:
                yield name


def long_functions(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > LONGEST_FUNCTION:
                yield f"{node.name}: {length} lines"


@pytest.mark.parametrize("path", FILES, ids=identifier)
def test_a_source_file_keeps_the_rules(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert list(unsafe(tree)) == []
    assert list(long_functions(tree)) == []
    assert path.stem not in MEANINGLESS


@pytest.mark.parametrize(
    "code",
    ["import pickle", "from joblib import load", "eval('1')", "torch.load('x')", "torch.load('x', weights_only=False)"],
)
def test_the_rules_notice_what_they_forbid(code: str) -> None:
    assert list(unsafe(ast.parse(code)))


def test_the_package_imports_in_a_moment_and_alone() -> None:
    code = (
        "import sys; import gemsbench\n"
        "heavy = {'torch', 'polars', 'numpy', 'scipy', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(f'{heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_public_names_of_the_readme_exist() -> None:
    from gemsbench.evaluation import compare, evaluate
    from gemsbench.protocol import load_pack

    assert all(callable(name) for name in (compare, evaluate, load_pack))
