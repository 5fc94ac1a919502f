"""What must hold of candidate lists.

C1 distinct items, the target once, one list per valid and test case. C2 negatives that the user never touched in any
split or task. C4 the target's place is uniform. C5 the seed gives the same lists again. C6 the two tasks of a user
have different draws. C3 (negatives that match the query) is reported, not checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.special import chdtrc

from gemsbench.data.invariants import SHOWN, Violation
from gemsbench.protocol.candidates import build_candidates

CHUNK = 50_000  # lists looked at together; bounds the memory
AGAIN = 200_000  # lists made again together
UNIFORM_P = 1e-4
MIN_EXPECTED = 5  # targets per bin of the chi-square test
MIN_CHOICE = 2  # C6 needs this many times more items than negatives: else equal draws are no fault


def candidate_violations(
    tables: Mapping[str, pl.DataFrame], recipe: str, seed: int, negatives: int, *, regenerate: bool
) -> list[Violation]:
    """Broken invariants of the candidates; C4 and C6 are looked at when C1 and C2 hold, C5 when all others do."""
    held_out = tables["cases"].filter(pl.col("split") != "train")
    asked = held_out.select("case_id", "user_id", "task", "split", "target_item")
    lists = asked.join(tables["candidates"], on="case_id", how="full", coalesce=True).sort("case_id")
    found = [*_shape(lists, tables["items"].height, negatives)]
    if not found:
        found = [*_touched(lists, tables["interactions"])]
    if not found:
        found = [*place_violations(lists), *_same_draws(lists, tables["items"].height, negatives)]
    if not found and regenerate:
        found = [*_regenerated(tables, recipe, seed, negatives)]
    return found


def false_negative_share(tables: Mapping[str, pl.DataFrame]) -> float:
    """C3: share of search negatives that have the case's query, made from their text or searched by anyone."""
    searched = tables["interactions"].filter(pl.col("task") == "src").select("item_id", "query_id")
    made = tables["items"].select("item_id", query_id="query_ids").explode("query_id", empty_as_null=False)
    matching = pl.concat([searched, made]).unique()
    asked = tables["cases"].filter(pl.col("task") == "src").select("case_id", "query_id", "target_item")
    total = matched = 0
    for chunk in asked.join(tables["candidates"].select("case_id", item_id="items"), on="case_id").iter_slices(CHUNK):
        negatives = chunk.explode("item_id").filter(pl.col("item_id") != pl.col("target_item"))
        total += negatives.height
        matched += negatives.join(matching, on=["item_id", "query_id"], how="semi").height
    return matched / total if total else 0.0


def _violation(invariant: str, message: str, rows: pl.DataFrame) -> Iterator[Violation]:
    if rows.height:
        yield Violation(invariant, f"{message} ({rows.height} rows).", rows.head(SHOWN))


def _shape(lists: pl.DataFrame, n_items: int, negatives: int) -> Iterator[Violation]:
    alone = pl.col("items").is_null() | pl.col("target_item").is_null() | pl.col("case_id").is_duplicated()
    yield from _violation("C1", "not exactly one list per valid and test case", lists.filter(alone))
    items, positives = pl.col("items"), pl.col("positives")
    wrong = (
        (items.list.len() != negatives + positives.list.len())
        | (items.list.n_unique() != items.list.len())
        | ~positives.list.contains(pl.col("target_item"))
        | (positives.list.set_difference("items").list.len() > 0)
        | ~items.list.min().is_between(1, n_items)
        | ~items.list.max().is_between(1, n_items)
    )
    message = f"the items are not {negatives} distinct negatives and the target once"
    yield from _violation("C1", message, lists.filter(~alone).filter(wrong))


def _touched(lists: pl.DataFrame, events: pl.DataFrame) -> Iterator[Violation]:
    touched = events.select("user_id", items="item_id").unique()
    largest = pl.concat([lists["items"].list.max(), touched["items"]]).max()
    base = int(largest) + 1 if isinstance(largest, int) else 1
    known = touched.select(pl.col("user_id").cast(pl.Int64) * base + pl.col("items")).to_series().sort().to_numpy()
    found = []
    for chunk in lists.iter_slices(CHUNK):
        if not _any_known(chunk, base, known):
            continue
        each = chunk.select("case_id", "user_id", "target_item", "items").explode("items")
        negatives = each.filter(pl.col("items") != pl.col("target_item"))
        found.append(negatives.join(touched, on=["user_id", "items"], how="semi"))
    if found:
        yield from _violation("C2", "a negative was touched by the user", pl.concat(found))


def _any_known(lists: pl.DataFrame, base: int, known: npt.NDArray[np.int64]) -> bool:
    """Whether a negative is among the (sorted) pairs of a user and a touched item, user * base + item."""
    width = lists["items"].list.len().to_numpy()
    user, item = lists["user_id"].cast(pl.Int64).to_numpy() * base, lists["items"].explode().to_numpy()
    pairs = (np.repeat(user, width) + item)[item != np.repeat(lists["target_item"].to_numpy(), width)]
    pairs.sort()
    # A user has few touched items and many negatives: the few are looked up among the many.
    few = known[np.searchsorted(known, user.min()) : np.searchsorted(known, user.max() + base)]
    at = np.minimum(np.searchsorted(pairs, few), pairs.size - 1)
    return bool(pairs.size) and bool((pairs[at] == few).any())


def place_violations(lists: pl.DataFrame) -> Iterator[Violation]:
    """C4: chi-square test over the targets' places, in as many bins as hold enough expected targets.

    lists: items, target_item; every target is among its items.
    """
    widths = lists["items"].list.len().unique()
    if widths.len() != 1:  # several positives: lists of several lengths have no common place to test
        return
    width = int(widths[0])
    bins = min(width, lists.height // MIN_EXPECTED)
    if bins < 2:
        return
    ordered = lists["items"].explode().to_numpy().reshape(lists.height, -1)
    places = np.argmax(ordered == lists["target_item"].to_numpy()[:, None], axis=1)
    observed = np.bincount(places * bins // width, minlength=bins)
    expected = np.bincount(np.arange(width) * bins // width, minlength=bins) * lists.height / width
    p = float(chdtrc(bins - 1, np.sum((observed - expected) ** 2 / expected)))  # survival function
    if p <= UNIFORM_P:
        counts = pl.DataFrame({"bin": np.arange(bins), "targets": observed, "expected": expected})
        yield Violation(
            "C4", f"the target's place in its list is not uniform (chi-square p = {p:.1e}).", counts.head(SHOWN)
        )


def _same_draws(lists: pl.DataFrame, n_items: int, negatives: int) -> Iterator[Violation]:
    if n_items < MIN_CHOICE * negatives:
        return
    drawn = pl.col("items").list.sum().cast(pl.Int64) - pl.col("positives").list.sum().cast(pl.Int64)
    sums = lists.select("user_id", "split", "task", "case_id", "items", "positives", sum=drawn)
    rec, src = (sums.filter(pl.col("task") == task).drop("task") for task in ("rec", "src"))
    # Equal draws have equal sums: only where these are equal the lists themselves are compared.
    both = rec.join(src, on=["user_id", "split", "sum"], suffix="_src").with_columns(
        pl.col(f"items{end}").list.set_difference(f"positives{end}").list.sort().alias(f"drawn{end}")
        for end in ("", "_src")
    )
    same = both.filter(pl.col("drawn") == pl.col("drawn_src")).select("user_id", "split", "case_id", "case_id_src")
    yield from _violation("C6", "a user's negatives of the two tasks are the same draw", same)


def _regenerated(tables: Mapping[str, pl.DataFrame], recipe: str, seed: int, negatives: int) -> Iterator[Violation]:
    """Made again in parts, which is allowed since no list depends on the others, and bounds the memory."""
    stored = tables["candidates"].sort("case_id")
    cases = tables["cases"].filter(pl.col("split") != "train").sort("case_id")
    events = tables["interactions"].select("user_id", "item_id")
    differing = []
    for start in range(0, cases.height, AGAIN):
        part = cases.slice(start, AGAIN)
        again = build_candidates(
            part,
            events.join(part.select("user_id").unique(), on="user_id", how="semi"),
            tables["users"],
            tables["items"].height,
            seed=seed,
            recipe=recipe,
            negatives=negatives,
        )
        kept = stored.slice(start, AGAIN)
        if not kept.equals(again):
            both = kept.join(again, on="case_id", suffix="_again")
            changed = pl.any_horizontal(pl.col(c) != pl.col(f"{c}_again") for c in stored.columns if c != "case_id")
            differing.append(both.filter(changed))
    if differing:
        rows = pl.concat(differing)
        message = f"seed {seed} does not give these candidates again ({rows.height} lists differ)."
        yield Violation("C5", message, rows.head(SHOWN))
