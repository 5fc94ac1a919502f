"""Whether the negatives of a released recipe leave out what is the row's own, held against the log they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import polars as pl

from gemsbench.data import schema
from gemsbench.data.canonical import USER_SALT
from gemsbench.data.invariants import SHOWN, Violation
from gemsbench.data.released_log import ReleasedLog

CHUNK = 40_000  # cases whose candidates are looked at together; bounds the memory, does not change the result
_ROW = ["user_id", "task", "item_id"]  # a user has one test row per task


def own_entry_violations(tables: Mapping[str, pl.DataFrame], log: ReleasedLog) -> Iterator[Violation]:
    """C3: a test case has a negative that can only be drawn as an entry of its own history or targets.

    An item that has another entry beside the row's own may be drawn under that one; this is what the released code
    does, and no fault. tables: users, items, cases, candidates.
    """
    items = tables["items"].select("item_id", "raw_id")
    corpus = log.corpus.select("entry", "raw_id").join(items, on="raw_id").select("entry", "item_id")
    entries = corpus.group_by("item_id").agg(entries=pl.len())
    own = _own(log.examples, tables["users"]).join(corpus, on="entry")
    own = own.group_by(_ROW).agg(own=pl.len()).join(entries, on="item_id")
    closed = own.filter(pl.col("own") == pl.col("entries")).select(_ROW)
    asked = tables["cases"].filter(pl.col("split") == "test").select("case_id", "user_id", "task")
    lists = asked.join(tables["candidates"].select("case_id", "items", "positives"), on="case_id")
    found = []
    for chunk in lists.iter_slices(CHUNK):
        negatives = chunk.with_columns(item_id=pl.col("items").list.set_difference("positives"))
        each = negatives.select("case_id", *_ROW).explode("item_id", empty_as_null=False, keep_nulls=False)
        found.append(each.join(closed, on=_ROW, how="semi"))
    rows = pl.concat(found) if found else pl.DataFrame()
    if rows.height:
        message = f"a negative is the case's own history or target ({rows.height} rows)."
        yield Violation("C3", message, rows.head(SHOWN))


def _own(examples: pl.DataFrame, users: pl.DataFrame) -> pl.DataFrame:
    """user_id, task, entry of every test row, each once."""
    tested = examples.filter(pl.col("split").cast(pl.String) == "test")
    names = tested["user"].unique()
    hashed = [hashlib.sha256((USER_SALT + name).encode()).hexdigest() for name in names]
    people = pl.DataFrame({"user": names, "raw_id": pl.Series(hashed, dtype=pl.String)})
    people = people.join(users.select("raw_id", "user_id"), on="raw_id").select("user", "user_id")
    entries = tested.select("user", pl.col("task").cast(schema.TASK), entry=pl.concat_list("targets", "history"))
    each = entries.explode("entry", empty_as_null=False, keep_nulls=False).unique()
    return each.join(people, on="user").select("user_id", "task", "entry")
