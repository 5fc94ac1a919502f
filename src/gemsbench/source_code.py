"""Which source files a piece of the package runs, found by reading imports and never by importing.

The workflow lists these files as inputs of a job and hashes them into its identity, so an edit reruns
the jobs that can see it and no others.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from gemsbench.errors import InputError

# Tables of names. What a job takes from them (a target, its settings) is part of the job's settings,
# so a new line in these files reruns nothing.
INDEX_MODULES = frozenset({"gemsbench.registry", "gemsbench.profile"})


def source_files(*targets: str) -> tuple[Path, ...]:
    """The files behind targets ("package.module" or "package.module:Name") and all they import, sorted.

    Followed: imports at any depth of nesting, also inside functions, within the top-level package of each target;
    the `__init__` of every parent package. Not followed: `if TYPE_CHECKING` blocks, imports by computed name,
    INDEX_MODULES. A name taken from a package that looks its names up when asked (`__getattr__`) is followed to the
    module that the package's own `if TYPE_CHECKING` block names for it. A data file counts when a module of a package
    names it in a string, relative to the module's folder; naming a folder without Python files counts all files in it.
    Raises InputError for a module that is not there.
    """
    found: dict[str, Path] = {}
    extra: set[Path] = set()
    todo = [target.partition(":")[0] for target in targets]
    for module in todo:
        if _locate(module) is None:
            raise InputError(f"'{module}': no such module. Correct the target, or install the package that holds it.")
    while todo:
        module = todo.pop()
        path = _locate(module)
        if module in found or path is None or module in INDEX_MODULES:
            continue
        found[module] = path
        parsed = _parse(path, *_stamp(path))
        todo.extend(_parents(module))
        todo.extend(_imported(module, path, parsed))
        extra.update(_data_files(path, parsed.strings))
    return tuple(sorted(set(found.values()) | extra))


def source_sha256(*targets: str) -> str:
    """sha256 over names and bytes of source_files(*targets); "" without targets. Does not depend on where it lies."""
    if not targets:
        return ""
    digest = hashlib.sha256()
    # The innermost root first: a method's folder may be the one that holds this package's.
    roots = sorted({_root(target).parent for target in targets}, key=lambda root: -len(root.parts))
    for path in source_files(*targets):
        root = next(root for root in roots if path.is_relative_to(root))
        digest.update(f"{path.relative_to(root).as_posix()}\x1f{_file_sha256(path, *_stamp(path))}\n".encode())
    return digest.hexdigest()


class _Parsed:
    """What one file says: absolute and relative imports, and its string constants."""

    def __init__(self, tree: ast.Module) -> None:
        self.imports: list[tuple[int, str, tuple[str, ...]]] = []  # level, module, names
        self.strings: set[str] = set()
        self.homes = _homes(tree)
        self._walk(tree)

    def _walk(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            self.imports.extend((0, alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            self.imports.append((node.level, node.module or "", tuple(alias.name for alias in node.names)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            self.strings.add(node.value)
        children = (
            node.orelse if isinstance(node, ast.If) and _only_for_types(node.test) else ast.iter_child_nodes(node)
        )
        for child in children:
            self._walk(child)


def _homes(tree: ast.Module) -> dict[str, str]:
    """Name -> module of what a file looks up only when asked for it; empty without a `__getattr__` of its own."""
    if not any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body):
        return {}
    blocks = [node for node in tree.body if isinstance(node, ast.If) and _only_for_types(node.test)]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom) and not node.level]
    return {alias.asname or alias.name: node.module or "" for node in imports for alias in node.names}


def _only_for_types(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")
    return name == "TYPE_CHECKING"


def _imported(module: str, path: Path, parsed: _Parsed) -> Iterator[str]:
    top = module.partition(".")[0]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for level, name, names in parsed.imports:
        base = ".".join([*package[: len(package) - level + 1], *([name] if name else [])]) if level else name
        if base.partition(".")[0] == top:
            yield base
            yield from (f"{base}.{child}" for child in names)
            yield from _looked_up(base, names)


def _looked_up(package: str, names: tuple[str, ...]) -> Iterator[str]:
    path = _locate(package)
    if path is not None:
        homes = _parse(path, *_stamp(path)).homes
        yield from (homes[name] for name in names if name in homes)


def _parents(module: str) -> Iterator[str]:
    parts = module.split(".")
    return (".".join(parts[:end]) for end in range(1, len(parts)))


def _data_files(module_path: Path, strings: set[str]) -> Iterator[Path]:
    if not (module_path.parent / "__init__.py").is_file():
        return  # a loose module: its folder holds anything
    for text in strings:
        if not 0 < len(text) < 120 or "\n" in text or text.startswith(("/", ".")):
            continue
        path = module_path.parent / text
        if path.is_file() and path.suffix != ".py":
            yield path
        elif path.is_dir() and not any(path.rglob("*.py")):
            yield from (file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)


@functools.cache
def _root_of_top(top: str) -> Path | None:
    spec = importlib.util.find_spec(top)  # finds a top-level name without running it
    if spec is None or spec.origin is None:
        return None
    origin = Path(spec.origin)
    return origin.parent if origin.name == "__init__.py" else origin


def _root(target: str) -> Path:
    root = _root_of_top(target.partition(":")[0].partition(".")[0])
    if root is None:
        raise InputError(f"'{target}': no such package. Install it, or put its folder on PYTHONPATH.")
    return root


def _locate(module: str) -> Path | None:
    top, *rest = module.split(".")
    root = _root_of_top(top)
    if root is None or root.suffix == ".py":
        return root if not rest else None
    path = root.joinpath(*rest)
    for candidate in (path / "__init__.py", path.with_suffix(".py")):
        if (candidate.parent != root.parent) and candidate.is_file():
            return candidate
    return None


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=4096)
def _parse(path: Path, _mtime: int, _size: int) -> _Parsed:
    try:
        return _Parsed(ast.parse(path.read_bytes(), filename=str(path)))
    except SyntaxError as error:
        raise InputError(f"{path}:{error.lineno}: not valid Python ({error.msg}). Correct it.") from error


@functools.lru_cache(maxsize=4096)
def _file_sha256(path: Path, _mtime: int, _size: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
