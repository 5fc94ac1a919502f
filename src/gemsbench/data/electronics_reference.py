"""The recipe `electronics-2014-reference`: Amazon Electronics as the released code of arXiv 2601.09496 builds it.

That code starts from files in the layout of GenSAR (arXiv 2504.05730), whose searches come from Ai et al. (SIGIR
2017). Leaks and all: its purpose is to be compared with published numbers, never with our own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from gemsbench.data import schema
from gemsbench.data.amazon import query_counts, read_items, read_reviews
from gemsbench.data.gems_examples import MAX_HISTORY, Examples, build_examples
from gemsbench.data.gensar_events import ordered_events, searches_of, split_per_task, with_both_before
from gemsbench.data.product_search import read_queries, read_triples
from gemsbench.data.recipe import Recipe
from gemsbench.data.released_log import ReleasedLog

SEARCHES = "product-search-electronics"  # the source beside that of the reviews
_LONG = 2000  # characters from which on GenSAR empties a text


@dataclass(frozen=True)
class ReferenceSettings:
    """What is drawn: one query where a product has several, and which training examples are kept."""

    draw_seed: int = 42


def load(folder: Path, settings: ReferenceSettings) -> ReleasedLog:
    """Read the reviews and metadata in folder and the searches in the folder beside it, product-search-electronics.

    Raises InputError when a file is missing, damaged, or has more than 0.1 % malformed lines.
    """
    reviews, review_check = read_reviews(folder)
    beside = folder.parent / SEARCHES
    queries = read_queries(beside)
    files = {split: read_triples(beside, split, queries.len()) for split in ("train", "test")}
    triples = pl.concat([table for table, _ in files.values()])
    searches = searches_of(triples, reviews, settings.draw_seed)
    items, item_check, item_counts = read_items(folder, reviews["item"], make_queries=False)
    items = _with_their_queries(items, triples, queries)
    checks = (review_check, item_check, *(check for _, check in files.values()))
    counts = {
        "review_lines": review_check.lines,
        "users_in_reviews": reviews["user"].n_unique(),
        "items_in_reviews": reviews["item"].n_unique(),
        **item_counts,
        **query_counts(items),
        "search_queries": queries.len(),
        **{f"search_triples_{split}": check.lines for split, (_, check) in files.items()},
        "searches": searches.height,
    }
    examples = build_examples(_split_events(reviews, searches, items, queries, counts), settings.draw_seed)
    _count_examples(examples, counts)
    universe = examples.universe
    items = items.join(universe, left_on="raw_id", right_on="item", how="semi")
    return ReleasedLog(
        examples=examples.table,
        corpus=universe.select(entry="item", raw_id="item", split="split"),
        items=items,
        counts=counts,
        max_history=MAX_HISTORY,
        skipped=tuple(line for check in checks for line in check.listed),
        malformed=sum(check.malformed for check in checks),
    )


def _split_events(
    reviews: pl.DataFrame, searches: pl.DataFrame, items: pl.DataFrame, queries: pl.Series, counts: dict[str, int]
) -> pl.DataFrame:
    """The events that GenSAR keeps, with their split and the query as text; adds the funnel to counts."""
    length = [pl.col(name).str.len_chars() for name in ("title", "description")]
    described = items.filter((length[0] > 0) | (length[1] > 0)).select(item="raw_id")
    # GenSAR's own filter leaves 62,882 products, fewer than the 62,909 of Table 4: so texts of any length count here.
    counts["items_with_short_text"] = items.filter(
        length[0].is_between(1, _LONG - 1) | length[1].is_between(1, _LONG - 1)
    ).height
    events = ordered_events(
        reviews.join(described, on="item", how="semi"), searches.join(described, on="item", how="semi")
    )
    _count(events, "of items with text and users with both", counts)
    counts["gensar: users with both"] = events["user"].n_unique()
    events = with_both_before(events)
    _count(events, "with both before", counts)
    events = split_per_task(events)
    _count(events, "kept", counts)
    for task in schema.TASKS:
        of_task = events.filter(pl.col("task") == task)
        counts[f"gensar: {task} users kept"] = of_task["user"].n_unique()
        for split in schema.SPLITS:
            counts[f"gensar: {task} {split}"] = of_task.filter(pl.col("split") == split).height
    text = queries.gather(events["query"].clip(0)).alias("text")
    return events.with_columns(query=pl.when(pl.col("task") == "rec").then(pl.lit("")).otherwise(text))


def _count(events: pl.DataFrame, stage: str, counts: dict[str, int]) -> None:
    for task in schema.TASKS:
        counts[f"gensar: {task} events {stage}"] = events.filter(pl.col("task") == task).height


def _count_examples(examples: Examples, counts: dict[str, int]) -> None:
    table = examples.table
    for task in schema.TASKS:
        counts[f"gems: {task} train examples before the subsample"] = examples.unsampled[task]
        for split in schema.SPLITS:
            counts[f"gems: {task} {split} examples"] = table.filter(
                pl.col("task") == task, pl.col("split") == split
            ).height
    leaking = table.filter(pl.col("history").list.contains(pl.col("targets").list.first()))
    for task in schema.TASKS:
        counts[f"gems: {task} test examples with the target in the history"] = leaking.filter(
            pl.col("task") == task, pl.col("split") == "test"
        ).height
    counts["Table 4: users"] = table["user"].n_unique()
    counts["Table 4: items"] = examples.universe.height
    for task in ("src", "rec"):
        counts[f"Table 4: inter_{task}"] = table.filter(pl.col("task") == task).height


def _with_their_queries(items: pl.DataFrame, triples: pl.DataFrame, queries: pl.Series) -> pl.DataFrame:
    """The items with the queries that Ai et al. made of their categories."""
    asked = triples.select(raw_id="item", number="query").unique().join(items, on="raw_id", how="semi")
    asked = asked.with_columns(queries=queries.gather(asked["number"]))
    per_item = asked.group_by("raw_id").agg(pl.col("queries").unique().sort())
    joined = items.drop("queries").join(per_item, on="raw_id", how="left", maintain_order="left")
    return joined.with_columns(pl.col("queries").fill_null(pl.lit([], dtype=pl.List(pl.String))))


RECIPE = Recipe(
    name="electronics-2014-reference",
    title="Amazon Electronics (2014), as the released code builds it",
    settings=ReferenceSettings,
    load=load,
    split_unit="task",
    time_kind={"rec": "day", "src": "day"},
    licence="none stated: published for research, not to be redistributed",
    citation=(
        "He and McAuley, WWW 2016; McAuley, Targett, Shi and van den Hengel, SIGIR 2015; searches: Ai, Zhang, Bi, Chen "
        "and Croft, SIGIR 2017; construction: GenSAR, arXiv 2504.05730, and GEMS, arXiv 2601.09496"
    ),
    sources=("electronics-2014", SEARCHES),
    # Printed by the public scripts that read the same files; what depends on the choice of item texts is not pinned.
    pins={
        "review_lines": 1_689_188,
        "users_in_reviews": 192_403,
        "items_in_reviews": 63_001,
        "metadata_lines": 498_196,
        "items_with_metadata": 63_001,
        "search_queries": 989,
        "search_triples_train": 1_344_310,
        "search_triples_test": 5_541,
        "searches": 1_280_465,
    },
    both_behaviours=False,
    released=True,
    paper_row="Amazon",
)
