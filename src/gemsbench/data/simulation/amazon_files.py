"""The simulated purchase log as raw files in the format of the McAuley 2014 release, oddities included.

Reviews: JSON lines with all published fields. Metadata: Python dict literals with missing fields, several category
paths, one-level paths, HTML entities, raw escapes, and products that nobody bought.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from gemsbench.data.kcore import k_core
from gemsbench.data.simulation import wording
from gemsbench.data.simulation.line_writing import Part, join, json_text, literal_text, write_lines
from gemsbench.data.simulation.phrases import pick
from gemsbench.data.simulation.raw_ids import asins, reviewer_ids
from gemsbench.data.simulation.search_files import write_searches
from gemsbench.data.simulation.shopping_habits import Habits
from gemsbench.data.simulation.topic_tree import TopicTree, make_tree
from gemsbench.data.simulation.world import IntArray, WorldSettings, make_world, purchases
from gemsbench.seeds import stream

ROOT = "Electronics"
REVIEWS = "reviews_Simulated_5.json.gz"
METADATA = "meta_Simulated.json.gz"
_CHUNK = 100_000  # lines made at a time; bounds memory


def write_amazon(
    folder: Path,
    settings: WorldSettings,
    seed: int,
    *,
    core: int,
    habits: Habits | None = None,
    searches: Path | None = None,
) -> None:
    """Write REVIEWS (a core-core log) and METADATA into folder; the bytes depend on settings, habits and seed only.

    searches: a folder for searches made of these reviews, see search_files.py.
    """
    world = make_world(
        settings.users, settings.items, settings.topics, settings.communities, stream(seed, "amazon world")
    )
    tree = make_tree(wording.DEPARTMENTS, wording.MODIFIERS, settings.topics, stream(seed, "category tree"))
    log = k_core(purchases(world, settings.purchases_per_user, core, seed, habits), core)
    unbought = max(settings.listed_items - settings.items, 0)
    extra = stream(seed, "unbought items").integers(settings.topics, size=unbought)
    item_topic = np.concatenate([world.item_topic, extra])
    write_lines(folder / REVIEWS, _review_lines(log, item_topic, tree, seed))
    write_lines(folder / METADATA, _metadata_lines(item_topic, tree, seed))
    if searches is not None:
        write_searches(searches, log, item_topic, tree, ROOT, seed)


def _review_lines(log: pl.DataFrame, item_topic: IntArray, tree: TopicTree, seed: int) -> Iterator[pl.Series]:
    ordered = log.sort("item", "day", "user")  # the real file lists product after product
    for number, chunk in enumerate(ordered.iter_slices(_CHUNK)):
        rng = stream(seed, "review texts", number)
        topic = pl.Series(item_topic[chunk["item"].to_numpy()])
        columns = {
            "reviewer": reviewer_ids(chunk["user"].to_numpy()),
            "asin": asins(chunk["item"].to_numpy()),
            "name": pick(wording.REVIEWERS, chunk.height, rng),
            "helpful": pl.Series(rng.integers(0, 4, chunk.height)),
            "opener": pick(wording.REVIEW_OPENERS, chunk.height, rng),
            "word": tree.word(topic, rng),
            "product": tree.column("product", topic).str.to_lowercase(),
            "closer": pick(wording.REVIEW_CLOSERS, chunk.height, rng),
            "summary": pick(wording.SUMMARIES, chunk.height, rng),
            "overall": chunk["rating"],
            "time": chunk["day"],
        }
        yield pl.DataFrame(columns).select(_review_line()).to_series()


def _review_line() -> pl.Expr:
    c = pl.col
    text = join(c("opener"), " ", c("word"), " of the ", c("product"), ',\n"', c("closer"), '"')
    return join(
        '{"reviewerID": "', c("reviewer"), '", "asin": "', c("asin"), '", "reviewerName": ', json_text(c("name")),
        ', "helpful": [', c("helpful"), ", ", c("helpful") + 1, '], "reviewText": ', json_text(text),
        ', "overall": ', c("overall"), '.0, "summary": ', json_text(c("summary")),
        ', "unixReviewTime": ', c("time"),
        ', "reviewTime": "', pl.from_epoch("time").dt.strftime("%m %-d, %Y"), '"}',
    )  # fmt: skip


def _metadata_lines(item_topic: IntArray, tree: TopicTree, seed: int) -> Iterator[pl.Series]:
    brands = [start + end for start in wording.BRAND_STARTS for end in wording.BRAND_ENDS]
    order = stream(seed, "metadata order").permutation(item_topic.size)
    for number, start in enumerate(range(0, order.size, _CHUNK)):
        rng = stream(seed, "metadata", number)
        item = order[start : start + _CHUNK]
        topic = pl.Series(item_topic[item])
        second = pl.Series(rng.integers(tree.table.height, size=item.size))  # topic of the second path, if any
        n = item.size
        columns = {
            "asin": asins(item),
            "related": asins(rng.integers(item_topic.size, size=n)),
            "brand": pick(tuple(brands), n, rng),
            "generic": pick(wording.GENERIC_NAMES, n, rng),
            "colour": pick(wording.COLOURS, n, rng),
            "feature": pick(wording.FEATURES, n, rng),
            "opener": pick(wording.OPENERS, n, rng),
            "closer": pick(wording.CLOSERS, n, rng),
            "word": tree.word(topic, rng),
            "other_word": tree.word(topic, rng),
            "model": pl.Series(rng.integers(100, 9_999, n)),
            "rank": pl.Series(rng.integers(1, 400_000, n)),
            **{name: tree.column(name, topic) for name in ("department", "group", "leaf", "modifier", "product")},
            **{f"second_{k}": tree.column(k, second) for k in ("department", "group", "leaf")},
            **{f"u{k}": pl.Series(rng.random(n)) for k in range(8)},
        }
        yield pl.DataFrame(columns).select(_metadata_line()).to_series()


def _metadata_line() -> pl.Expr:
    c = pl.col
    related = join(
        "{'also_bought': ['", c("related"), "'], 'buy_after_viewing': ['", c("asin"), "', '", c("related"), "']}"
    )
    fields = (
        _field("description", literal_text(_description()), c("u0") < 0.9),
        _field("title", literal_text(_title()), c("u1") < 0.97),
        _field("price", join(c("model") // 10, ".99"), c("u2") < 0.8),
        _field("imUrl", join("'http://images.invalid/", c("asin"), ".jpg'"), c("u2") < 0.99),
        _field("related", related, c("u3") < 0.7),
        _field("salesRank", join("{'", c("department"), "': ", c("rank"), "}"), c("u4") < 0.85),
        _field("brand", literal_text(c("brand")), c("u5") < 0.8),
        _field("categories", _categories(), c("u6") < 0.99),
    )
    return join("{'asin': '", c("asin"), "'", *fields, "}")


def _field(name: str, value: pl.Expr, present: pl.Expr) -> pl.Expr:
    return pl.when(present).then(join(f", '{name}': ", value)).otherwise(pl.lit(""))


def _title() -> pl.Expr:
    """Most titles name the product, some only the kind of thing: words of the query are helpful, not decisive."""
    c = pl.col
    modifier = pl.when(c("u7") < 0.6).then(join(c("modifier"), " ")).otherwise(pl.lit(""))
    product = pl.when(c("u7") > 0.15).then(c("product")).otherwise(c("generic"))
    size = pl.when(c("u0") < 0.1).then(pl.lit(' 7" screen &amp; case')).otherwise(pl.lit(""))
    mark = pl.when(c("u0") > 0.95).then(pl.lit("®")).otherwise(pl.lit(""))
    return join(c("brand"), mark, " ", modifier, product, " ", c("model"), ", ", c("colour"), size)


def _description() -> pl.Expr:
    """Words of the topic and its product among words that occur everywhere."""
    c = pl.col
    named = (
        pl.when(c("u7") < 0.5)
        .then(join("This ", c("leaf").str.to_lowercase(), " item has "))
        .otherwise(pl.lit("It has "))
    )
    owner = pl.when(c("u5") < 0.15).then(pl.lit("\tThe owner's manual is included.")).otherwise(pl.lit(""))
    return join(
        c("opener"), " ", c("word"), " and ", c("other_word"), " ", c("closer"), "\n", named, c("feature"), ".", owner
    )  # fmt: skip


def _categories() -> pl.Expr:
    """One path of four levels; some products have a second path, a one-level path besides, or only that."""
    c = pl.col

    def path(prefix: str) -> pl.Expr:
        levels = (literal_text(c(f"{prefix}{name}")) for name in ("department", "group", "leaf"))
        parts: list[Part] = [f"['{ROOT}'"]
        for level in levels:
            parts += [", ", level]
        return join(*parts, "]")

    root = f"['{ROOT}']"
    several = pl.when(c("u3") < 0.12).then(join(path(""), ", ", path("second_"))).otherwise(path(""))
    besides = pl.when(c("u4") < 0.05).then(join(several, ", ", root)).otherwise(several)
    return join("[", pl.when(c("u6") < 0.02).then(pl.lit(root)).otherwise(besides), "]")
