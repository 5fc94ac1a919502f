"""Index files of the LETTER / LC-Rec line: written as there, read back as they were, refused where they are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from gemsbench.errors import InputError
from gemsbench.identifiers.codes import ItemCodes
from gemsbench.identifiers.index_file import item2id_beside, read_index, write_index

RAW_IDS = ["B00X", "a b", "水瓶", '"7"']
CODES = [[12, 0, 3], [7, -1, -1], [12, 0, 0], [0, 5, -1]]


def items(raw_ids: list[str] | None = None) -> pl.DataFrame:
    names = RAW_IDS if raw_ids is None else raw_ids
    return pl.DataFrame({"item_id": range(1, len(names) + 1), "raw_id": names}, schema_overrides={"item_id": pl.Int32})


def table(rows: list[list[int]] | None = None, sizes: tuple[int, ...] = (13, 6, 4)) -> ItemCodes:
    rows = CODES if rows is None else rows
    return ItemCodes("made-up", np.array([[-1] * len(rows[0]), *rows], np.int32), sizes)


def written(folder: Path, content: object, numbers: str | None = None) -> Path:
    """An index file of the content (text as it is), beside an item2id file if numbers are given."""
    path = folder / "Some.index.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    if numbers is not None:
        (folder / "Some.item2id").write_text(numbers, encoding="utf-8")
    return path


def test_a_golden_file_of_the_published_form(tmp_path: Path) -> None:
    numbers = "B2\t1\nB1\t0\r\n\n"
    index = written(tmp_path, '{"0": ["<a_12>", "<b_0>"], "1": ["<a_3>", "<b_255>"]}', numbers)
    raw = read_index(index, items(["B2", "B1"]))
    assert raw.codes.tolist() == [[-1, -1], [3, 255], [12, 0]]
    assert (raw.codes.dtype, raw.sizes) == (np.int32, (13, 256))


def test_both_files_are_written_as_published(tmp_path: Path) -> None:
    index, numbers = write_index(table(), items().sample(fraction=1, shuffle=True, seed=2), tmp_path, "Some")
    assert (index.name, numbers.name) == ("Some.index.json", "Some.item2id")
    assert numbers == item2id_beside(index)
    assert json.loads(index.read_text(encoding="utf-8")) == {
        "0": ["<a_12>", "<b_0>", "<c_3>"],
        "1": ["<a_7>"],
        "2": ["<a_12>", "<b_0>", "<c_0>"],
        "3": ["<a_0>", "<b_5>"],
    }
    assert numbers.read_text(encoding="utf-8") == 'B00X\t0\na b\t1\n水瓶\t2\n"7"\t3\n'


def test_what_was_written_is_read_back_whatever_the_order_of_items_and_keys(tmp_path: Path) -> None:
    index, _ = write_index(table(), items(), tmp_path, "Some")
    entries = json.loads(index.read_text(encoding="utf-8"))
    index.write_text(json.dumps(dict(reversed(entries.items()))), encoding="utf-8")
    raw = read_index(index, items().sample(fraction=1, shuffle=True, seed=1))
    np.testing.assert_array_equal(raw.codes, table().codes)
    assert raw.sizes == (13, 6, 4)
    renumbered = read_index(index, items(RAW_IDS[::-1]))
    np.testing.assert_array_equal(renumbered.codes[1:], table().codes[:0:-1])


def test_many_items_of_four_levels_come_back(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (5000, 4)).astype(np.int32)
    codes = ItemCodes("made-up", np.concatenate([np.full((1, 4), -1, np.int32), rows]), (256,) * 4)
    catalogue = items([f"B{number}" for number in range(5000)])
    index, _ = write_index(codes, catalogue, tmp_path, "Some")
    np.testing.assert_array_equal(read_index(index, catalogue).codes, codes.codes)


def test_without_numbers_keys_are_raw_ids_and_numbers_may_stand_elsewhere(tmp_path: Path) -> None:
    index = written(tmp_path, {"1": ["<a_5>"], "0": ["<a_4>"]})
    assert read_index(index, items(["0", "1"])).codes.tolist() == [[-1], [4], [5]]
    elsewhere = tmp_path / "numbers.txt"
    elsewhere.write_text("1\t0\n0\t1\n", encoding="utf-8")
    assert read_index(index, items(["0", "1"]), elsewhere).codes.tolist() == [[-1], [5], [4]]
    with pytest.raises(
        InputError, match=r"Some.index.json: 2 identifiers of unknown items, the first is '1'\. .* raw ids as there"
    ):
        read_index(index, items(["x", "y"]))


def test_sizes_may_be_stated(tmp_path: Path) -> None:
    index = written(tmp_path, {"x": ["<a_5>", "<b_0>"]})
    assert read_index(index, items(["x"])).sizes == (6, 1)
    assert read_index(index, items(["x"]), sizes=(64, 64)).sizes == (64, 64)
    for wrong in ((5, 1), (64,), (64, 64, 64)):
        with pytest.raises(InputError, match=r"its codes need the sizes \[6, 1\], but sizes says"):
            read_index(index, items(["x"]), sizes=wrong)


GOOD = {"0": ["<a_1>", "<b_1>"], "1": ["<a_1>", "<b_2>"], "2": ["<a_2>", "<b_1>"]}
NUMBERS = "x\t0\ny\t1\nz\t2\n"
BAD_INDEX: dict[str, tuple[object, str]] = {
    "not JSON": ("{'0': []}", "not valid JSON"),
    "an endless number": ('{"0": ' + "9" * 5000 + "}", "not valid JSON"),
    "too deep": ("[" * 100_000, "not valid JSON"),
    "not an object": ([["<a_1>"]], "not a JSON object"),
    "a lone surrogate": ('{"0": ["\\ud800"]}', "lone surrogate"),
    "key twice": (
        '{"0": ["<a_1>"], "1": ["<a_2>"], "0": ["<a_3>"]}',
        "1 keys that occur more than once, the first is '0'",
    ),
    "empty list": ({**GOOD, "1": [], "2": []}, "2 keys without a list of tokens, the first is '1'"),
    "text for a list": ({**GOOD, "2": "<a_1>"}, "1 keys without a list of tokens, the first is '2'"),
    "number for a token": ({**GOOD, "2": ["<a_1>", 7]}, "1 keys without a list of tokens, the first is '2'"),
    "nothing for a list": ({**GOOD, "2": None}, "1 keys without a list of tokens, the first is '2'"),
    "an object for a list": ({**GOOD, "2": {"a": 1}}, "1 keys without a list of tokens, the first is '2'"),
    "unknown key": ({**GOOD, "3": ["<a_1>"], "9": ["<a_1>"]}, "2 keys that are not in .*item2id, the first is '3'"),
    "items left out": ({"1": ["<a_1>"]}, "2 items of this recipe without an identifier, the first is 'x'"),
    "nothing": ({}, "3 items of this recipe without an identifier, the first is 'x'"),
    "no token": ({**GOOD, "1": ["<a_1>", "b_2"]}, "1 tokens of another form, the first is 'b_2 of key 1'"),
    "leading zero": ({**GOOD, "1": ["<a_01>", "<b_2>"]}, "1 tokens of another form, the first is '<a_01> of key 1'"),
    "negative": ({**GOOD, "1": ["<a_-1>", "<b_2>"]}, "1 tokens of another form"),
    "more than a token": ({**GOOD, "1": ["<a_1>\n", "<b_2>"]}, "1 tokens of another form"),
    "digits of another script": ({**GOOD, "1": ["<a_\u0661>", "<b_2>"]}, "1 tokens of another form"),
    "letters in wrong order": (
        {**GOOD, "1": ["<b_1>", "<a_2>"]},
        "2 tokens of another level, the first is '<b_1> of key 1'",
    ),
    "letter twice": ({**GOOD, "2": ["<a_1>", "<a_1>"]}, "1 tokens of another level, the first is '<a_1> of key 2'"),
    "huge code": ({**GOOD, "2": ["<a_65536>"]}, "1 codes above 65,535, the first is '<a_65536> of key 2'"),
    "endless code": ({**GOOD, "2": [f"<a_{'9' * 40}>"]}, "codes above 65,535"),
    "more levels than letters": ({**GOOD, "2": ["<a_1>"] * 27}, "the identifier of '2' has 27 levels"),
}


@pytest.mark.parametrize(("content", "message"), BAD_INDEX.values(), ids=BAD_INDEX.keys())
def test_a_bad_index_is_refused_with_the_first_and_the_count(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        read_index(written(tmp_path, content, NUMBERS), items(["x", "y", "z"]))
    assert "Some.index.json" in str(refused.value)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ("x\t0\ny 1\nz\t2\n", "1 lines that are not raw_id, one tab, number, the first is 'y 1'"),
        ("x\t0\ny\t1\t1\nz\t2\n", "1 lines that are not"),
        ("x\t0\ny\tone\nz\t2\n", "1 keys that are no numbers, the first is 'one'"),
        ("x\t0\ny\t1\nz\t2\nx\t3\n", "1 raw_ids that occur more than once, the first is 'x'"),
        ("x\t0\ny\t1\nz\t1\n", "1 keys that occur more than once, the first is '1'"),
    ],
)
def test_bad_numbers_are_refused(tmp_path: Path, numbers: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        read_index(written(tmp_path, GOOD, numbers), items(["x", "y", "z"]))
    assert "Some.item2id" in str(refused.value)


def test_numbers_of_another_catalogue_are_refused(tmp_path: Path) -> None:
    index = written(tmp_path, GOOD, "x\t0\nv\t1\nw\t2\n")
    with pytest.raises(InputError, match="2 identifiers of unknown items, the first is 'v'"):
        read_index(index, items(["x", "y", "z"]))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Other.index.json: no such file"):
        read_index(tmp_path / "Other.index.json", items())
    index = written(tmp_path, GOOD)
    with pytest.raises(InputError, match=r"numbers: no such file"):
        read_index(index, items(), tmp_path / "numbers")
    index.write_bytes(b'{"\xff": []}')
    with pytest.raises(InputError, match=r"Some.index.json: not utf-8"):
        read_index(index, items())


def test_what_cannot_stand_in_the_files_is_not_written(tmp_path: Path) -> None:
    for raw_id in ("a\tb", "a\nb", "a\rb"):
        with pytest.raises(InputError, match="1 raw ids hold a tab or line break"):
            write_index(table([[0, 0, 0]]), items([raw_id]), tmp_path, "Some")
    with pytest.raises(InputError, match="27 levels"):
        write_index(table([[0] * 27], (1,) * 27), items(["x"]), tmp_path, "Some")
    with pytest.raises(InputError, match="4 identifiers for 1 items"):
        write_index(table(), items(["x"]), tmp_path, "Some")
    assert list(tmp_path.iterdir()) == []
