from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from gemsbench.config import load_settings
from gemsbench.data.item_text import UNKNOWN_ITEM
from gemsbench.encoders.contract import Encoded
from gemsbench.encoders.item_text import ItemText, ItemTextSettings
from gemsbench.encoders.making import make_vectors
from gemsbench.encoders.tf_idf import TfIdf
from gemsbench.errors import InputError
from gemsbench.files import read_json
from gemsbench.protocol.pack import TrainingData

N_ITEMS = 60  # of `world`; item 59 has no text


def encode(data: TrainingData, seed: int = 1, **settings: Any) -> Encoded:
    return ItemText().encode(load_settings(ItemTextSettings, settings, "test"), data, seed, Path("unused"))


def with_texts(data: TrainingData, texts: dict[int, str]) -> TrainingData:
    text = pl.col("item_id").replace_strict(texts, default=pl.col("text"), return_dtype=pl.String)
    return replace(data, items=data.items.with_columns(text=text))


class TestItemText:
    def test_known_items_have_unit_vectors_and_others_zeros(self, world: Any) -> None:
        made = encode(with_texts(world.data, {7: UNKNOWN_ITEM}))
        assert made.vectors.dtype == np.float32
        assert np.flatnonzero(~made.known).tolist() == [0, 7, N_ITEMS - 1]
        assert np.linalg.norm(made.vectors[made.known], axis=1) == pytest.approx(1, abs=1e-5)
        assert not made.vectors[~made.known].any()
        assert made.record["without_text"] == 2

    def test_two_runs_and_any_order_of_rows_give_equal_bits(self, world: Any, reordered: TrainingData) -> None:
        one, again, other = encode(world.data), encode(world.data), encode(reordered)
        assert one.vectors.tobytes() == again.vectors.tobytes() == other.vectors.tobytes()
        assert one.record == other.record

    def test_equal_texts_have_equal_vectors(self, world: Any) -> None:
        made = encode(with_texts(world.data, {3: "lamp number 1", 50: "lamp number 1", 51: "lamp number 2"}))
        assert made.vectors[3].tobytes() == made.vectors[50].tobytes() != made.vectors[51].tobytes()

    def test_like_texts_are_near(self, world: Any) -> None:
        made = encode(world.data)
        cosines = made.vectors[1:] @ made.vectors[1:].T
        taste = np.arange(1, N_ITEMS + 1) % 3
        same = (taste[:, None] == taste) & ~np.eye(N_ITEMS, dtype=bool) & made.known[1:] & made.known[1:, None]
        other = (taste[:, None] != taste) & made.known[1:] & made.known[1:, None]
        assert cosines[same].mean() > cosines[other].mean() + 0.2

    def test_it_says_what_text_tells_of_searches(self, world: Any) -> None:
        told = encode(world.data)
        assert told.record["tells_src"]["n"] == 30
        assert 0 < told.record["tells_src"]["chance"] < 1

    def test_no_vector_depends_on_events_or_queries(self, world: Any) -> None:
        other = replace(
            world.data,
            events=world.data.events.head(5),
            queries=world.data.queries.with_columns(text=pl.lit("something else")),
        )
        assert encode(world.data).vectors.tobytes() == encode(other).vectors.tobytes()

    @pytest.mark.parametrize("texts", [["lamp number 1"], ["red cup", "cup red"]])
    def test_a_catalogue_that_says_one_thing_only_has_no_variance(
        self, world: Any, texts: list[str], tmp_path: Path
    ) -> None:
        same = with_texts(world.data, {item: texts[item % len(texts)] for item in range(1, N_ITEMS + 1)})
        stats = make_vectors("item-text", {}, same, 1, tmp_path / "out", "test")
        assert stats["explained_variance"] == 0.0
        assert stats["known"] == N_ITEMS
        assert read_json(tmp_path / "out" / "stats.json") == stats

    def test_no_text_at_all_is_an_error(self, world: Any) -> None:
        with pytest.raises(InputError, match="no item has a text"):
            encode(replace(world.data, items=world.data.items.with_columns(text=pl.lit(UNKNOWN_ITEM))))

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"width": 0}, "width is 0"),
            ({"threads": 0}, "threads is 0"),
            ({"model": "sentence-t5-bas"}, "Did you mean 'sentence-t5-base'"),
            ({"model": "sentence-t5-base", "folder": "x"}, "Give one of them"),
        ],
    )
    def test_wrong_settings_are_named(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            ItemTextSettings(**settings)


TEXTS = ["red cup of clay", "blue cup of clay", "red wool rug", "blue wool rug", "old oak chair", "old oak table"] * 2


class TestTfIdf:
    def test_with_all_directions_cosines_are_those_of_the_whole_matrix(self) -> None:
        fitted = TfIdf.fit(TEXTS, 1000, 0, 1)
        matrix = fitted.vectoriser.transform(TEXTS).toarray()
        wanted = matrix @ matrix.T / np.outer(*[np.linalg.norm(matrix, axis=1)] * 2)
        vectors = fitted.embed(TEXTS)
        assert vectors @ vectors.T == pytest.approx(wanted, abs=1e-5)
        assert fitted.explained == pytest.approx(1, abs=1e-4)

    def test_the_width_is_at_most_the_number_of_texts(self) -> None:
        assert TfIdf.fit(TEXTS, 3, 0, 1).embed(["cup"]).shape == (1, 3)
        assert TfIdf.fit(TEXTS, 300, 0, 1).embed(["cup"]).shape == (1, len(TEXTS))

    def test_the_largest_entry_of_each_direction_is_positive(self) -> None:
        directions = TfIdf.fit(TEXTS, 4, 0, 1).directions
        assert (directions[np.abs(directions).argmax(axis=0), range(4)] > 0).all()

    def test_fewer_directions_keep_the_largest_ones(self) -> None:
        few, many = (TfIdf.fit(TEXTS, width, 0, 1).explained for width in (2, 4))
        assert 0 < few < many < 1

    def test_a_text_without_anything_in_common_gets_zeros(self) -> None:
        fitted = TfIdf.fit(TEXTS, 4, 0, 1)
        assert fitted.embed(["xyzzy", "cup"]).any(axis=1).tolist() == [False, True]

    def test_misspelt_and_unsegmented_words_are_near_their_like(self) -> None:
        fitted = TfIdf.fit([*TEXTS, "红色水杯", "蓝色水杯", "木头椅子", "木头桌子"], 100, 0, 1)
        for query, near, far in (("chairs", "old oak chair", "blue wool rug"), ("水杯", "红色水杯", "木头椅子")):
            one, two, three = fitted.embed([query, near, far])
            assert one @ two > one @ three + 0.1
