"""journey-small: The Complete Journey 2.0 (84.51), sample of grocery transactions; 5-core of first purchases."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from gemsbench.data.item_text import UNKNOWN_ITEM, clean_text, compose
from gemsbench.data.kcore import k_core
from gemsbench.data.queries import add_queries
from gemsbench.data.recipe import RawLog, Recipe
from gemsbench.errors import InputError

K_CORE = 5
_TRANSACTIONS = ("household_id", "basket_id", "product_id", "transaction_timestamp")
_PRODUCTS = ("product_id", "department", "brand", "product_category", "product_type", "package_size")


@dataclass(frozen=True)
class JourneySettings:
    """No switch: the counts of this recipe are pinned."""


def load(folder: Path, settings: JourneySettings) -> RawLog:
    """First purchases of the 5-core; the shop's clock is read as UTC, seconds.

    Query: department and product category. Text: product type, package size, brand.
    """
    transactions = _read(folder / "transactions_sample.rda", "transactions_sample", _TRANSACTIONS)
    products = _read(folder / "products.rda", "products", _PRODUCTS)
    first = _first_purchases(transactions)
    core = k_core(first, K_CORE)
    items = _items(core.select(product_id="item").unique(), products)
    counts = {
        "raw transactions": transactions.height,
        "raw households": transactions["household_id"].n_unique(),
        "raw products sold": transactions["product_id"].n_unique(),
        "raw products": products.height,
        "first purchases": first.height,
        "5-core users": core["user"].n_unique(),
        "5-core items": core["item"].n_unique(),
        "5-core purchases": core.height,
        "5-core items without product row": items.filter(pl.col("text") == UNKNOWN_ITEM).height,
    }
    return RawLog(core, items, counts)


def _read(path: Path, name: str, columns: tuple[str, ...]) -> pl.DataFrame:
    import pyreadr

    if not path.is_file():
        raise InputError(f"{path}: no such file. Run `gemsbench data fetch journey-small` first.")
    try:
        tables = pyreadr.read_r(path, output_format="polars")
    except pyreadr.LibrdataError as error:
        raise InputError(f"{path}: not a readable R data file ({error}). Delete it and fetch it again.") from error
    table: pl.DataFrame = tables.get(name, pl.DataFrame())
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise InputError(
            f"{path}: missing columns {', '.join(missing)} in '{name}' (it has {', '.join(table.columns)})."
        )
    return table.select(columns)


def _first_purchases(transactions: pl.DataFrame) -> pl.DataFrame:
    ordered = transactions.sort("transaction_timestamp", "basket_id")
    first = ordered.unique(["household_id", "product_id"], keep="first", maintain_order=True)
    return first.select(
        user="household_id",
        item="product_id",
        task=pl.lit("rec"),
        query=pl.lit(""),
        query_source=pl.lit(""),
        timestamp=pl.col("transaction_timestamp").dt.epoch("s"),
        pair=pl.concat_str("household_id", "product_id", separator=" "),
        group="basket_id",
        rating=pl.lit(None, dtype=pl.Float32),
        position=pl.lit(0, dtype=pl.Int32),
    )


def _items(sold: pl.DataFrame, products: pl.DataFrame) -> pl.DataFrame:
    rows = sold.join(products.cast(pl.String), on="product_id", how="left")
    rows = rows.with_columns(clean_text(rows[column]) for column in _PRODUCTS if column != "product_id")
    levels = [pl.when(pl.col(column) != "").then(pl.col(column)) for column in ("department", "product_category")]
    path = pl.concat_list(levels).list.drop_nulls()
    return add_queries(
        rows.select(
            raw_id="product_id",
            title="product_type",
            description="package_size",
            brand="brand",
            text=compose("product_type", "package_size", "brand"),
            category_paths=pl.when(path.list.len() > 0)
            .then(path.implode().over(pl.int_range(pl.len())))
            .otherwise(pl.lit([], dtype=pl.List(pl.List(pl.String)))),
        )
    )


RECIPE = Recipe(
    name="journey-small",
    title="The Complete Journey",
    settings=JourneySettings,
    load=load,
    split_unit="pair",
    time_kind={"rec": "exact", "src": "exact"},
    licence="CC0 (R package completejourney); the 84.51 source files carry their own terms",
    citation="84.51, The Complete Journey 2.0, as shipped by the R package completejourney 1.1.1",
    sources=("journey-small",),
    pins={
        "raw transactions": 75_000,
        "raw households": 2_377,
        "raw products sold": 20_902,
        "raw products": 92_331,
        "first purchases": 69_254,
        "5-core users": 1_809,
        "5-core items": 3_299,
        "5-core purchases": 38_799,
    },
    k_core=K_CORE,
    min_shares={"title": 0.99, "category_paths": 0.99},
)
