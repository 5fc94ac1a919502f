"""Python literals of metadata lines: the fast reader says what the literal parser says, and nothing is ever run."""

from __future__ import annotations

import ast
import gzip
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from gemsbench import seeds
from gemsbench.data import literals
from gemsbench.data.gzip_lines import LineCheck
from gemsbench.data.literals import wanted_records

PIECES = [
    "Lens", "7\" screen", "owner's", "both ' and \"", "a\\b", "tab\there", "two\nlines", "\r", "\b\f", "\x00", "\x07",
    "é", "\u7528", "\ud83d", "\U0001f600", "&amp;", "{'asin': 'B9'}", "[", "]", ", ", "'related': {", "\\n", "\\u0041",
    "/", "\\/", "", "\x7f", "\u2028",
]  # fmt: skip
VALUES = [
    3,
    -2.5,
    1e300,
    0,
    None,
    True,
    False,
    (1, "x"),
    [],
    {},
    [["Electronics", "Cables"], ["Electronics"]],
    {"a": 1},
]


def read(
    folder: Path, lines: Iterable[str], wanted: Iterable[str] = ("B001",)
) -> tuple[list[dict[str, Any]], LineCheck]:
    path = folder / "meta.json.gz"
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass")))
    check = LineCheck(path)
    return list(wanted_records(path, pl.Series(list(wanted), dtype=pl.String), check)), check


def test_random_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    rng = seeds.stream(0, "literals")
    records = []
    for number in range(400):
        text = {
            name: "".join(PIECES[i] for i in rng.integers(len(PIECES), size=rng.integers(4)))
            for name in ("title", "description", "brand")
        }
        odd = VALUES[rng.integers(len(VALUES))]
        records.append({"asin": f"B{number:03}", **text, "categories": [["Electronics", text["title"]]], "x": odd})
    found, check = read(tmp_path, map(repr, records), [record["asin"] for record in records])
    assert check.malformed == 0
    assert found == records


PLAIN = {
    "simple": "{'asin': 'B001', 'title': 'Lens', 'price': 3.5, 'salesRank': {'Camera': 12}}",
    "apostrophe": "{'asin': 'B001', 'title': \"owner's\", 'categories': [['A', 'B'], ['C']]}",
    "escapes": r"{'asin': 'B001', 'title': 'a\tb\n\\c', 'brand': "
    r'"it\"s"}',
}
ONLY_PYTHON = {
    "inch": "{'asin': 'B001', 'title': '7\" screen'}",
    "raw escape": r"{'asin': 'B001', 'title': 'Zen\xae \u2019'}",
    "slash": r"{'asin': 'B001', 'title': 'a\/b'}",
    "escaped apostrophe": r"{'asin': 'B001', 'title': 'it\'s'}",
    "pair of surrogates": r"{'asin': 'B001', 'title': '\ud83d\ude00'}",
    "name": "{'asin': 'B001', 'title': None}",
    "prefix": "{'asin': 'B001', 'title': u'x'}",
    "adjacent": "{'asin': 'B001', 'title': 'x' \"y\"}",
    "triple": "{'asin': 'B001', 'title': '''x'''}",
    "tuple": "{'asin': 'B001', 'title': ('x', 'y')}",
    "number as key": "{'asin': 'B001', 1: 2}",
    "plus": "{'asin': 'B001', 'price': +1.}",
    "trailing comma": "{'asin': 'B001', 'title': 'x',}",
    "tab": "{'asin': 'B001',\t'title': 'a\tb'}",
}


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@pytest.mark.parametrize("line", [*PLAIN.values(), *ONLY_PYTHON.values()], ids=[*PLAIN, *ONLY_PYTHON])
def test_a_line_means_what_python_says(tmp_path: Path, line: str) -> None:
    found, check = read(tmp_path, [line])
    assert found == [ast.literal_eval(line)]
    assert (check.malformed, check.judged) == (0, 1)


@pytest.mark.parametrize("name", [*PLAIN, *ONLY_PYTHON])
def test_plain_lines_take_the_fast_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def refuse(line: str) -> None:
        raise ValueError("slow")

    monkeypatch.setattr(literals.ast, "literal_eval", refuse)
    found, _ = read(tmp_path, [{**PLAIN, **ONLY_PYTHON}[name]])
    assert len(found) == (name in PLAIN)


@pytest.mark.parametrize(
    "value", ["true", "null", "NaN", "Infinity", "b", "01", "1 2", "[1, 2", "'x", "{1: }", "1e", "e5"]
)
def test_json_that_is_no_literal_is_malformed(tmp_path: Path, value: str) -> None:
    found, check = read(tmp_path, [f"{{'asin': 'B001', 'x': {value}}}"])
    assert found == []
    assert check.malformed == 1
    assert "not a Python literal (" in check.listed[0]


def test_lines_that_are_no_dict(tmp_path: Path) -> None:
    found, check = read(tmp_path, ["['asin', {'asin': 'B001'}]", "\"'asin': 'B001'\""])
    assert found == []
    assert [line.split(": ", 1)[1] for line in check.listed] == ["not a dict", "not a dict"]


CODE = [
    "__import__('pathlib').Path({mark!r}).write_text('x')",
    "[open({mark!r}, 'w') for _ in 'x']",
    "(lambda: open({mark!r}, 'w'))()",
    "f\"{{open({mark!r}, 'w')}}\"",
    "(x := open({mark!r}, 'w'))",
    "open({mark!r}, 'w') or ''",
    "exec(\"open({mark!r}, 'w')\")",
    "{{**open({mark!r}, 'w')}}",
    "[*open({mark!r}, 'w')]",
    "'x'.__class__(open({mark!r}, 'w'))",
]


@pytest.mark.parametrize("code", CODE)
@pytest.mark.parametrize("place", ["'title': {}", "'related': {{'also_bought': {}}}", "{}: 'title'"])
def test_code_in_a_line_is_never_run(tmp_path: Path, code: str, place: str) -> None:
    mark = tmp_path / "run"
    line = f"{{'asin': 'B001', {place.format(code.format(mark=str(mark)))}}}"
    compile(line, "line", "eval")  # it would run if it were evaluated
    found, check = read(tmp_path, [line])
    assert not mark.exists()
    assert (found, check.malformed) == ([], 1)


@pytest.mark.parametrize(
    "related",
    ["{}", "{'also_bought': ['B002', 'B003'], 'buy_after_viewing': []}", "{'also_bought': ['B002']}"],
)
@pytest.mark.parametrize(
    "place", ["{{'asin': 'B001', 'related': {}, 'title': 'x'}}", "{{'asin': 'B001', 'title': 'x', 'related': {}}}"]
)
def test_lists_of_ids_are_left_out(tmp_path: Path, related: str, place: str) -> None:
    found, _ = read(tmp_path, [place.format(related)])
    assert found == [{"asin": "B001", "title": "x"}]


def test_only_wanted_lines_are_parsed(tmp_path: Path) -> None:
    found, check = read(tmp_path, ["{'asin': 'B9', broken", "{'asin': 'B001'}", "{'asin': 'B001', 'title': 'again'}"])
    assert found == [{"asin": "B001"}]
    assert (check.lines, check.judged, check.malformed) == (3, 1, 0)
