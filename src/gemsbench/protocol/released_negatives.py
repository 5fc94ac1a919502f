"""Whether the negatives of a released recipe are all there and none the row's own, held against the log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import polars as pl

from gemsbench.data import schema
from gemsbench.data.canonical import hashed_users
from gemsbench.data.invariants import SHOWN, Violation
from gemsbench.data.released_log import ReleasedLog

CHUNK = 40_000  # cases whose candidates are looked at together; bounds the memory, does not change the result
SHORTER = "released: candidate lists with fewer negatives"  # stage of the funnel
_ROW = ["user_id", "task", "item_id"]  # a user has one test row per task


def is_shorter(negatives: int) -> pl.Expr:
    """True for a list (items, positives) with fewer negatives than were drawn."""
    return pl.col("items").list.len() < pl.col("positives").list.len() + negatives


def short_list_violations(
    lists: pl.DataFrame, items: pl.DataFrame, log: ReleasedLog, negatives: int
) -> Iterator[Violation]:
    """C1: a list with fewer negatives than two entries of one item explain.

    Negatives are drawn as distinct entries, so an item of a list has stood for at most as many as it has in the
    corpus. lists: case_id, items, positives; items: item_id, raw_id.
    """
    entries = log.corpus.select("raw_id").join(items.select("item_id", "raw_id"), on="raw_id")
    further = entries.group_by("item_id").agg(further=pl.len().cast(pl.Int64) - 1).filter(pl.col("further") > 0)
    found = []
    for chunk in lists.filter(is_shorter(negatives)).iter_slices(CHUNK):
        shown = chunk.select("case_id", item_id="items").explode("item_id", empty_as_null=False, keep_nulls=False)
        may = shown.join(further, on="item_id").group_by("case_id").agg(pl.col("further").sum())
        absent = pl.col("positives").list.len().cast(pl.Int64) + negatives - pl.col("items").list.len()
        told = chunk.join(may, on="case_id", how="left").with_columns(pl.col("further").fill_null(0))
        found.append(told.filter(absent > pl.col("further")))
    rows = pl.concat(found) if found else pl.DataFrame()
    if rows.height:
        yield Violation(
            "C1", f"fewer than {negatives} negatives without a reason ({rows.height} rows).", rows.head(SHOWN)
        )


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
    people = pl.DataFrame({"user": names, "raw_id": hashed_users(names)})
    people = people.join(users.select("raw_id", "user_id"), on="raw_id").select("user", "user_id")
    entries = tested.select("user", pl.col("task").cast(schema.TASK), entry=pl.concat_list("targets", "history"))
    each = entries.explode("entry", empty_as_null=False, keep_nulls=False).unique()
    return each.join(people, on="user").select("user_id", "task", "entry")
