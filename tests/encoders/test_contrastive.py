from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from gemsbench.encoders.contrastive import PairBatches, TextFeatures, ranking_loss
from gemsbench.encoders.static_model import build_static_model, train_tokenizer
from gemsbench.errors import InputError

TEXTS = pl.Series(
    [f"{first} {second}" for first in ("red", "blue", "grey", "gold") for second in ("cup", "lamp", "rug")]
)
SRC = np.stack([np.arange(30) % 6, 10 + np.arange(30)], axis=1)
REC = np.arange(200).reshape(100, 2)
EVEN = {"src": 1.0, "rec": 1.0}


@pytest.fixture(scope="module")
def model() -> Any:
    texts = TEXTS.to_list()
    return build_static_model(train_tokenizer(texts, 200, 32), texts, 16, 7)


def batch_of(anchors: list[int], positives: list[int], weight: float = 1.0) -> dict[str, torch.Tensor]:
    rows = torch.tensor([anchors, positives])
    weights = torch.full((len(anchors),), weight)
    return {"anchors": rows[0], "positives": rows[1], "labels": torch.zeros_like(rows[0]), "weight": weights}


def anchors_of(batches: PairBatches, epoch: int, step: int) -> torch.Tensor:
    return batches.step(epoch, step)[0].tensors["anchors"]


class TestPairBatches:
    def test_tasks_take_turns_and_each_batch_holds_pairs_of_its_task(self) -> None:
        batches = PairBatches({"src": SRC, "rec": REC}, EVEN, 20, 1)
        assert batches.steps_per_epoch == 2 * 5
        for step in range(10):
            (batch,) = batches.step(0, step)
            assert batch.task == ("src", "rec")[step % 2]
            pairs = torch.stack([batch.tensors["anchors"], batch.tensors["positives"]], 1).tolist()
            known = (SRC if batch.task == "src" else REC).tolist()
            assert all(pair in known for pair in pairs)
            assert len(np.unique(pairs)) == 2 * len(pairs)  # no text stands twice

    def test_an_epoch_is_one_pass_of_the_larger_task(self) -> None:
        batches = PairBatches({"src": SRC, "rec": REC}, EVEN, 20, 1)
        seen = torch.cat([batches.step(3, step)[0].tensors["anchors"] for step in range(1, 10, 2)])
        assert sorted(seen.tolist()) == REC[:, 0].tolist()

    def test_the_smaller_task_goes_through_its_pairs_again_in_another_order(self) -> None:
        batches = PairBatches({"src": SRC, "rec": REC}, EVEN, 20, 1)
        drawn = [tuple(batches.step(0, step)[0].tensors["positives"].tolist()) for step in range(0, 10, 2)]
        assert len(set(drawn)) == 5  # 30 pairs of 6 queries: a pass has 5 batches at most

    def test_a_batch_is_a_function_of_epoch_and_step(self) -> None:
        one, other = (PairBatches({"src": SRC, "rec": REC}, EVEN, 20, 1) for _ in range(2))
        for epoch, step in ((2, 3), (0, 7), (2, 4)):
            assert torch.equal(
                one.step(epoch, step)[0].tensors["anchors"], other.step(epoch, step)[0].tensors["anchors"]
            )
        assert not torch.equal(one.step(0, 1)[0].tensors["anchors"], one.step(1, 1)[0].tensors["anchors"])
        reseeded = PairBatches({"src": SRC, "rec": REC}, EVEN, 20, 2)
        assert not torch.equal(one.step(0, 1)[0].tensors["anchors"], reseeded.step(0, 1)[0].tensors["anchors"])

    def test_a_task_of_weight_zero_or_without_pairs_is_left_out(self) -> None:
        searches_only = PairBatches({"src": SRC, "rec": REC}, {"src": 1.0, "rec": 0.0}, 20, 1)
        assert {searches_only.step(0, step)[0].task for step in range(searches_only.steps_per_epoch)} == {"src"}
        items_only = PairBatches({"src": SRC[:0], "rec": REC}, EVEN, 20, 1)
        assert {items_only.step(0, step)[0].task for step in range(items_only.steps_per_epoch)} == {"rec"}

    def test_nothing_to_tell_apart_is_an_error(self) -> None:
        with pytest.raises(InputError, match="no two pairs"):
            PairBatches({"src": SRC[:0], "rec": REC[:1]}, EVEN, 20, 1)


class TestRankingLoss:
    def test_it_is_the_softmax_over_the_positives_of_the_batch(self, model: Any) -> None:
        anchors, positives = [0, 4, 9], [7, 2, 11]
        vectors = torch.from_numpy(model.encode(TEXTS.to_list(), show_progress_bar=False)).double()
        x, y = vectors[anchors], vectors[positives]
        wanted = 0.0
        for k in range(3):
            cosines = [float(x[k] @ y[m] / (x[k].norm() * y[m].norm())) for m in range(3)]
            wanted -= 20 * cosines[k] - np.log(sum(np.exp(20 * cosine) for cosine in cosines))
        loss = ranking_loss(TextFeatures(model, TEXTS), 20.0)
        assert float(loss(model, batch_of(anchors, positives)).detach()) == pytest.approx(wanted, rel=1e-5)
        assert float(loss(model, batch_of(anchors, positives, 0.5)).detach()) == pytest.approx(wanted / 2, rel=1e-5)

    def test_the_gradient_reaches_both_towers(self, model: Any) -> None:
        loss = ranking_loss(TextFeatures(model, TEXTS), 20.0)
        model.zero_grad()
        loss(model, batch_of([0, 3], [7, 11])).backward()  # red cup, blue cup -> grey lamp, gold rug
        touched = model[0].embedding.weight.grad.norm(dim=1)
        ids = {word: model[0].tokenizer.encode(word, add_special_tokens=False).ids for word in ("red", "gold", "grey")}
        assert all(touched[token] > 0 for word in ids.values() for token in word)
        assert touched.gt(0).sum() < len(touched)


class TestTextFeatures:
    def test_kept_tokens_are_those_of_the_model(self, model: Any) -> None:
        features = TextFeatures(model, TEXTS)
        assert features.tokens is not None
        rows = [5, 0, 11, 5]
        own, wanted = features.of(torch.tensor(rows)), model.preprocess(TEXTS.gather(rows).to_list())
        assert torch.equal(own["input_ids"], wanted["input_ids"])
        assert torch.equal(own["offsets"], wanted["offsets"])


class TestStaticModel:
    def test_the_tokenizer_does_not_depend_on_order_and_repetition_of_texts(self) -> None:
        texts = TEXTS.to_list()
        one, other = train_tokenizer(texts, 40, 8), train_tokenizer(texts[::-1] + texts[-1:] * 50, 40, 8)
        assert one.to_str() == other.to_str()
        assert one.get_vocab_size() <= 40

    def test_characters_of_any_script_are_pieces(self) -> None:
        tokenizer = train_tokenizer(["红色 水杯", "蓝色 水杯", "Größe Ärmel"], 100, 8)
        assert "水杯" in tokenizer.get_vocab()  # a pair that recurs is merged
        assert "[UNK]" not in tokenizer.encode("红水 ärmel GRÖßE", add_special_tokens=False).tokens
        assert tokenizer.encode("獺", add_special_tokens=False).tokens == ["[UNK]"]

    def test_texts_are_cut(self) -> None:
        tokenizer = train_tokenizer(["one two three four five six"], 100, 4)
        assert len(tokenizer.encode("one two three four five six", add_special_tokens=False).ids) == 4

    def test_the_first_weights_are_a_function_of_the_seed_and_touch_no_random_state(self) -> None:
        texts = TEXTS.to_list()
        tokenizer = train_tokenizer(texts, 200, 32)
        torch.manual_seed(3)
        before = torch.get_rng_state()
        one, other = (build_static_model(tokenizer, texts, 16, 7).state_dict() for _ in range(2))
        assert torch.equal(torch.get_rng_state(), before)
        assert all(torch.equal(one[name], other[name]) for name in one)
        third = build_static_model(tokenizer, texts, 16, 8).state_dict()
        assert not any(torch.equal(one[name], third[name]) for name in one if one[name].any())

    def test_before_training_shared_rare_words_count_more_than_shared_frequent_ones(self) -> None:
        texts = [f"common {word}" for word in ("apple", "pear", "plum", "quince", "medlar", "fig")] * 3
        model = build_static_model(train_tokenizer(texts, 300, 32), texts, 512, 1)
        a, b, c = model.encode(["common apple", "apple", "common fig"], show_progress_bar=False)
        assert a @ b > a @ c + 0.5  # 0.2 with equal weights
        assert np.linalg.norm([a, b, c], axis=1) == pytest.approx(1, abs=1e-5)
