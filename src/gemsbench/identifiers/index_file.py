"""The index files of LETTER and LC-Rec (arXiv 2405.07314, 2311.09049): identifiers as lists of letter tokens.

`<name>.index.json` maps a key to the tokens of an item, {"0": ["<a_12>", "<b_7>", ...]}: one letter per level, from a.
The keys are the numbers of `<name>.item2id`, lines of raw_id TAB number, where that file is; else they are raw ids.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gemsbench.errors import InputError
from gemsbench.files import write_text
from gemsbench.identifiers.codes import ABSENT, Int32Array, ItemCodes
from gemsbench.identifiers.scheme import RawCodes

INDEX = ".index.json"
ITEM_TO_ID = ".item2id"
MOST_LEVELS = 26  # one letter each
MOST_CODES = 65_536  # of a level; more only where there are more items
_LEVEL_A = ord("a")


def write_index(codes: ItemCodes, items: pl.DataFrame, folder: Path, name: str) -> tuple[Path, Path]:
    """Write <name>.index.json and <name>.item2id into the folder; keys are item_id - 1. Returns both paths.

    items: item_id 1..n in any row order, raw_id. Raises InputError for more than 26 levels, for items that are not
    those of the codes, and for a raw id that cannot stand in a line of item2id.
    """
    if len(codes.sizes) > MOST_LEVELS:
        raise InputError(f"identifiers '{codes.scheme}': {len(codes.sizes)} levels; an index file has {MOST_LEVELS}.")
    raw_ids = items.sort("item_id")["raw_id"]
    if len(raw_ids) != codes.n_items:
        raise InputError(f"identifiers '{codes.scheme}': {codes.n_items} identifiers for {len(raw_ids)} items.")
    broken = raw_ids.filter(raw_ids.str.contains(r"[\t\n\r]"))
    if len(broken):
        raise InputError(
            f"{len(broken)} raw ids hold a tab or line break, e.g. {broken[0]!r}: item2id is a table of lines and tabs."
        )
    level_tokens = (
        pl.when(pl.col(f"level_{level + 1}") != ABSENT).then(
            pl.format(f"<{chr(_LEVEL_A + level)}_{{}}>", pl.col(f"level_{level + 1}"))
        )
        for level in range(len(codes.sizes))
    )
    tokens = codes.table().select(pl.concat_list(*level_tokens).list.drop_nulls().alias("tokens"))["tokens"]
    keys = [str(number) for number in range(codes.n_items)]
    paths = folder / f"{name}{INDEX}", folder / f"{name}{ITEM_TO_ID}"
    lines = pl.select(pl.format("{}\t{}\n", raw_ids, pl.Series(keys))).to_series()
    write_text(paths[1], lines.str.join()[0])
    write_text(paths[0], json.dumps(dict(zip(keys, tokens.to_list(), strict=True))) + "\n")
    return paths


def read_index(index: Path, items: pl.DataFrame, item2id: Path | None = None, sizes: tuple[int, ...] = ()) -> RawCodes:
    """The codes of an index file for the items of a recipe (item_id 1..n in any row order, raw_id).

    item2id: None for the file of that name beside the index, where there is one. sizes: codes per level; () for the
    largest code of a level + 1. Lists may be of unequal length. Raises InputError, naming the first and how many, for
    items that are unknown, missing or repeated, and for lists that are not tokens of the letters a, b, c, ... in order.
    """
    keyed = _read_lists(index)
    beside = item2id_beside(index)
    keys_file = item2id or (beside if beside.is_file() else None)
    if keys_file is not None:
        keyed = _with_raw_ids(keyed, _read_item_numbers(keys_file), index, keys_file)
    else:
        keyed = keyed.with_columns(raw_id=pl.col("key"))
    joined = keyed.join(items.select("raw_id", "item_id"), on="raw_id", how="left", maintain_order="left")
    kind = f"raw ids of {keys_file}" if keys_file else f"keys, which are raw ids as there is no {beside},"
    hint = f"The {kind} must be items of this recipe."
    _reject(joined.filter(pl.col("item_id").is_null())["raw_id"], index, "identifiers of unknown items", hint)
    missing = items.sort("item_id").join(joined, on="raw_id", how="anti", maintain_order="left")["raw_id"]
    _reject(missing, index, "items of this recipe without an identifier", "Give every item one.")
    codes = _codes(joined.sort("item_id"), index, most=max(MOST_CODES, items.height))
    return RawCodes(codes, _sizes(codes, sizes, index))


def item2id_beside(index: Path) -> Path:
    """Where the item2id file of an index stands, if it has one: the same folder and name."""
    return index.with_name(index.name.removesuffix(INDEX).removesuffix(".json") + ITEM_TO_ID)


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as it stands in the file, repeated keys included."""


def _read_lists(path: Path) -> pl.DataFrame:
    """The key and the tokens (list of str) of every entry, in the order of the file."""
    try:
        pairs = json.loads(_text(path), object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error}). An index file is {_FORM}.") from error
    if not isinstance(pairs, _Pairs):
        raise InputError(f"{path}: not a JSON object. An index file is {_FORM}.")
    # polars would take a lone text for a list, so the kinds are checked on the parsed objects.
    wrong = [key for key, tokens in pairs if not _is_list_of_text(tokens)]
    schema = {"key": pl.String(), "tokens": pl.List(pl.String)}
    try:
        _reject(pl.Series(wrong, dtype=pl.String), path, "keys without a list of tokens", f"An index file is {_FORM}.")
        table = pl.DataFrame(list(pairs), schema=schema, orient="row")
    except UnicodeEncodeError as error:
        raise InputError(f"{path}: a lone surrogate among its texts ({error}). Write whole characters.") from error
    _reject(_repeated(table["key"]), path, "keys that occur more than once", "Keep one identifier per item.")
    return table


_FORM = '{"0": ["<a_12>", "<b_7>"], ...}'


def _is_list_of_text(tokens: Any) -> bool:
    return type(tokens) is list and len(tokens) > 0 and all(type(token) is str for token in tokens)


def _read_item_numbers(path: Path) -> pl.DataFrame:
    """raw_id and key (both str) of every line of an item2id file."""
    lines = pl.Series("line", _text(path).split("\n"))
    lines = lines.filter(lines != "")
    parts = lines.str.split("\t")
    _reject(lines.filter(parts.list.len() != 2), path, "lines that are not raw_id, one tab, number", "Write them so.")
    table = pl.DataFrame({"raw_id": parts.list.first(), "key": parts.list.last()})
    _reject(
        table.filter(~pl.col("key").str.contains(r"^[0-9]+$"))["key"],
        path,
        "keys that are no numbers",
        "Number items from 0.",
    )
    for column in ("raw_id", "key"):
        _reject(_repeated(table[column]), path, f"{column}s that occur more than once", "Keep one line per item.")
    return table


def _with_raw_ids(keyed: pl.DataFrame, numbers: pl.DataFrame, index: Path, item2id: Path) -> pl.DataFrame:
    joined = keyed.join(numbers, on="key", how="left", maintain_order="left")
    _reject(
        joined.filter(pl.col("raw_id").is_null())["key"], index, f"keys that are not in {item2id}", "Add their lines."
    )
    return joined


def _codes(joined: pl.DataFrame, path: Path, most: int) -> Int32Array:
    """Codes int32 [n_items + 1, L] of the tokens lists; joined is in the order of item_id."""
    lengths = joined["tokens"].list.len().to_numpy().astype(np.int64)
    longest = int(lengths.max())
    if longest > MOST_LEVELS:
        key = joined["key"][int(np.argmax(lengths))]
        raise InputError(f"{path}: the identifier of '{key}' has {longest} levels, more than there are letters.")
    parts = joined.explode("tokens").select(
        "key",
        "tokens",
        letter=pl.col("tokens").str.extract(_TOKEN, 1),
        code=pl.col("tokens").str.extract(_TOKEN, 2).cast(pl.Int64, strict=False),
    )
    item = np.repeat(np.arange(1, joined.height + 1), lengths)
    level = np.arange(len(item)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    expected = pl.Series(level).replace_strict({number: chr(_LEVEL_A + number) for number in range(longest)})
    shown = parts.select(pl.format("{} of key {}", "tokens", "key"))["tokens"]
    wrong = (
        (pl.col("letter").is_null(), "tokens of another form", "Write <letter_code>, e.g. <a_12>."),
        (pl.col("letter") != expected, "tokens of another level", "Write levels in the order a, b, c, ..."),
        (pl.col("code").is_null() | (pl.col("code") >= most), f"codes above {most - 1:,}", "Number codes from 0."),
    )
    for rows, what, remedy in wrong:
        _reject(shown.filter(parts.select(rows).to_series()), path, what, remedy)
    codes = np.full((joined.height + 1, longest), ABSENT, np.int32)
    codes[item, level] = parts["code"].to_numpy()
    return codes


_TOKEN = r"^<([a-z])_(0|[1-9][0-9]*)>$"


def _sizes(codes: Int32Array, stated: tuple[int, ...], path: Path) -> tuple[int, ...]:
    needed = tuple(int(size) for size in codes.max(axis=0) + 1)
    if not stated:
        return needed
    fits = len(stated) == len(needed) and all(have >= need for have, need in zip(stated, needed, strict=True))
    if not fits:
        raise InputError(f"{path}: its codes need the sizes {list(needed)}, but sizes says {list(stated)}.")
    return stated


def _repeated(values: pl.Series) -> pl.Series:
    return values.filter(values.is_duplicated()).unique(maintain_order=True)


def _reject(found: pl.Series, path: Path, what: str, remedy: str) -> None:
    """Raise InputError when anything was found; it says how many and names the first."""
    if len(found):
        raise InputError(f"{path}: {len(found)} {what}, the first is '{found[0]}'. {remedy}")


def _text(path: Path) -> str:
    """The text of a file, lines ended by a line feed whatever they were ended by."""
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"{path}: no such file. Name an existing one.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not utf-8 text ({error}). Save it as utf-8.") from error
