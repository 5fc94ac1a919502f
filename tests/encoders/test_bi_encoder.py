from __future__ import annotations

import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from gemsbench.config import load_settings
from gemsbench.encoders.bi_encoder import RATES, BiEncoder, BiEncoderSettings
from gemsbench.encoders.contract import Encoded
from gemsbench.errors import InputError
from gemsbench.protocol.pack import TrainingData

N_ITEMS, N_SUBJECTS, N_MOODS = 120, 8, 5
QUERIES = [letter * 3 for letter in "abcdefgh"]
SMALL = {"width": 32, "pieces": 400, "window": 3}
LOOP = {"epochs": 4, "batch_size": 48, "micro_batch_size": 48, "patience": 4, "warmup": 0.1}


def encode(data: TrainingData, checkpoint: Path, seed: int = 1, **settings: Any) -> Encoded:
    values = {**SMALL, **settings, "loop": {**LOOP, **settings.get("loop", {})}}
    return BiEncoder().encode(load_settings(BiEncoderSettings, values, "test"), data, seed, checkpoint)


def planted(world_of: Any) -> TrainingData:
    """Items with a subject, which searches ask for, and a mood, which users stick to; no word is in two texts' roles.

    An item's text names its subject by one of five words and its mood by one of twelve; a query names its subject by
    another word. So what belongs together shares few words or none, and has to be learned.
    """
    rng = np.random.default_rng(0)
    named = {
        (kind, which): ["".join(rng.choice(list(string.ascii_lowercase), 6)) for _ in range(n_words)]
        for kind, n_words in (("subject", 5), ("mood", 12))
        for which in range(max(N_SUBJECTS, N_MOODS))
    }
    number = np.arange(1, N_ITEMS + 1)
    subject, mood = number % N_SUBJECTS, number // N_SUBJECTS % N_MOODS
    texts = [
        f"{rng.choice(named['subject', of_subject])} {rng.choice(named['mood', of_mood])}"
        for of_subject, of_mood in zip(subject.tolist(), mood.tolist(), strict=True)
    ]
    events: list[tuple[int, int, str, int]] = []
    asked: list[tuple[int, str, int, str, list[int]]] = []
    histories: dict[int, list[tuple[int, int]]] = {}
    for user in range(60):
        own = rng.permutation(number[mood == user % N_MOODS]).tolist()
        histories[user] = [(item, 1) for item in own[:6]]
        events += [(user, item, "rec", 0) for item in own[:6]]
        found = rng.permutation(number[subject == user % N_SUBJECTS]).tolist()
        events += [(user, item, "src", user % N_SUBJECTS + 1) for item in found[:6]]
        others = rng.permutation(number[mood != user % N_MOODS])[:29].tolist()
        asked.append((user, "rec", 0, "valid", [own[6], *others]))
        others = rng.permutation(number[subject != user % N_SUBJECTS])[:29].tolist()
        asked.append((user, "src", user % N_SUBJECTS + 1, "valid", [found[6], *others]))
    data: TrainingData = world_of(events, asked, 60, N_ITEMS, histories).data
    queries = (
        data.queries[:1]
        .select(pl.all().repeat_by(N_SUBJECTS).explode())
        .with_columns(query_id=pl.int_range(1, N_SUBJECTS + 1, dtype=pl.Int32), text=pl.Series(QUERIES))
    )
    return replace(data, items=data.items.with_columns(text=pl.Series(texts)), queries=queries)


@pytest.fixture(scope="module")
def data(world_of: Any) -> TrainingData:
    return planted(world_of)


@pytest.fixture(scope="module")
def made(data: TrainingData, tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    return encode(data, tmp_path_factory.mktemp("bi-encoder"))


class TestTuning:
    def test_both_recalls_rise_against_the_untuned_encoder(self, made: Encoded) -> None:
        before, after = made.record["recall@10"]["untuned"], made.record["recall@10"]["tuned"]
        assert after["src"] > before["src"] + 0.3
        assert after["rec"] > before["rec"] + 0.2

    def test_searches_alone_do_not_raise_recommendation(
        self, data: TrainingData, made: Encoded, tmp_path: Path
    ) -> None:
        alone = encode(data, tmp_path, rec_weight=0.0).record["recall@10"]
        assert alone["tuned"]["src"] > alone["untuned"]["src"] + 0.3
        assert alone["tuned"]["rec"] < alone["untuned"]["rec"] + 0.05
        assert alone["tuned"]["rec"] < made.record["recall@10"]["tuned"]["rec"] - 0.2

    def test_the_best_weights_are_kept(self, data: TrainingData, tmp_path: Path) -> None:
        wild = encode(data, tmp_path, learning_rate=30.0)
        lines = [line for line in wild.log if line["stage"] == "train"]
        names = ("valid_recall@10_src", "valid_recall@10_rec")
        means = [np.mean([line[name] for name in names]) for line in lines]
        best = lines[int(np.argmax(means))]
        assert wild.record["best_step"] == best["step"]
        assert wild.record["recall@10"]["tuned"] == {name[-3:]: best[name] for name in names}
        assert np.isfinite(wild.vectors).all()


class TestOutput:
    def test_known_items_have_unit_vectors(self, made: Encoded) -> None:
        assert made.vectors.shape == (N_ITEMS + 1, SMALL["width"])
        assert made.vectors.dtype == np.float32
        assert np.linalg.norm(made.vectors[1:], axis=1) == pytest.approx(1, abs=1e-5)
        assert made.known.tolist() == [False, *[True] * N_ITEMS]

    def test_items_without_text_have_none_and_equal_texts_equal_ones(self, data: TrainingData, tmp_path: Path) -> None:
        text = pl.when(pl.col("item_id") == 4).then(pl.lit("")).otherwise(pl.col("text"))
        text = pl.when(pl.col("item_id").is_in([8, 9])).then(pl.lit("one text")).otherwise(text)
        other = encode(replace(data, items=data.items.with_columns(text=text)), tmp_path, loop={"epochs": 1})
        assert np.flatnonzero(~other.known).tolist() == [0, 4]
        assert not other.vectors[4].any()
        assert other.vectors[8].tobytes() == other.vectors[9].tobytes()

    def test_it_says_how_it_went(self, made: Encoded) -> None:
        assert 60 < made.record["pairs"]["src"] <= N_ITEMS
        assert made.record["pairs"]["rec"] > 300
        assert made.record["tells_src"]["ndcg@10"] > 2 * made.record["tells_src"]["chance"]
        assert made.record["learning_rate"] == RATES["static"]
        assert made.log[0]["step"] == 0
        assert made.log[-1]["stage"] == "end"


class TestDeterminism:
    def test_equal_inputs_in_any_order_of_rows_give_equal_bits(
        self, data: TrainingData, made: Encoded, tmp_path: Path
    ) -> None:
        names = ("items", "queries", "events", "cases", "valid_candidates")
        rows = {name: getattr(data, name).sample(fraction=1.0, shuffle=True, seed=3) for name in names}
        again = encode(replace(data, **rows), tmp_path)
        assert again.vectors.tobytes() == made.vectors.tobytes()
        assert again.record == made.record

    def test_another_seed_gives_other_vectors(self, data: TrainingData, made: Encoded, tmp_path: Path) -> None:
        other = encode(data, tmp_path, seed=2, loop={"epochs": 1})
        assert not np.allclose(other.vectors, made.vectors, atol=0.1)

    def test_a_killed_training_ends_with_the_same_bits(
        self, data: TrainingData, made: Encoded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from gemsbench.encoders.contrastive import PairBatches

        class KilledError(Exception):
            pass

        step, taken = PairBatches.step, list[tuple[int, int]]()

        def stops(self: PairBatches, epoch: int, number: int) -> Any:
            taken.append((epoch, number))
            if len(taken) == 25:
                raise KilledError
            return step(self, epoch, number)

        with monkeypatch.context() as patched:
            patched.setattr(PairBatches, "step", stops)
            with pytest.raises(KilledError):
                encode(data, tmp_path, loop={"checkpoint_seconds": 0.0})
        first = list(taken)

        def counts(self: PairBatches, epoch: int, number: int) -> Any:
            taken.append((epoch, number))
            return step(self, epoch, number)

        monkeypatch.setattr(PairBatches, "step", counts)
        resumed = encode(data, tmp_path, loop={"checkpoint_seconds": 0.0})
        assert taken[len(first) + 1] == first[-1]  # after the look at the first step, on from where it was killed
        assert resumed.vectors.tobytes() == made.vectors.tobytes()
        assert resumed.record == made.record

    def test_a_checkpoint_of_other_texts_is_not_gone_on_from(
        self, data: TrainingData, made: Encoded, tmp_path: Path
    ) -> None:
        other = replace(data, items=data.items.with_columns(text=pl.col("text") + " more"))
        encode(other, tmp_path, loop={"checkpoint_seconds": 0.0})
        assert any(tmp_path.iterdir())
        again = encode(data, tmp_path, loop={"checkpoint_seconds": 0.0})
        assert again.vectors.tobytes() == made.vectors.tobytes()


def problem_of(data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the loop would be given."""
    seen: list[Any] = []

    def stops(problem: Any, *_: Any) -> Any:
        seen.append(problem)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("gemsbench.encoders.bi_encoder.train", stops)
        with pytest.raises(KeyboardInterrupt):
            encode(data, tmp_path)
    return seen[0]


class TestProblem:
    @pytest.mark.parametrize("changed", ["hist_items", "hist_tasks", "query_id"])
    def test_other_validation_cases_are_another_fit(
        self, data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
    ) -> None:
        other = {
            "hist_items": pl.col("hist_items").list.tail(3),  # a shorter history_length
            "hist_tasks": pl.col("hist_tasks").list.eval(pl.element() + 1),
            "query_id": pl.when(pl.col("query_id") == 1).then(2).otherwise("query_id").cast(pl.Int32),
        }[changed]
        valid = pl.col("split") == "valid"
        cases = data.cases.with_columns(pl.when(valid).then(other).otherwise(changed).alias(changed))
        reordered = replace(data, cases=data.cases.sample(fraction=1.0, shuffle=True, seed=3))
        prints = [
            problem_of(one, tmp_path, monkeypatch).fingerprint for one in (data, reordered, replace(data, cases=cases))
        ]
        assert prints[0] == prints[1] != prints[2]

    def test_other_texts_of_the_queries_are_another_fit(
        self, data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two queries change places that no training pair asks, so the pairs stay as they are."""
        events = data.events.filter(~pl.col("query_id").is_in([1, 2]))
        swapped = pl.col("query_id").replace({1: 2, 2: 1})
        one, other = (
            problem_of(replace(data, events=events, queries=queries), tmp_path, monkeypatch).fingerprint
            for queries in (data.queries, data.queries.with_columns(query_id=swapped))
        )
        assert one != other

    def test_lists_cut_elsewhere_are_another_fit(
        self, data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A negative at the end of one list goes to the beginning of the next: the flat items stay as they are."""
        lists = data.valid_candidates.sort("case_id")
        cases = data.cases.filter(split="valid", task="rec").sort("case_id")["case_id"].to_list()[:2]
        items = {case: lists.filter(case_id=case)["items"][0].to_list() for case in cases}
        moved = {cases[0]: items[cases[0]][:-1], cases[1]: [items[cases[0]][-1], *items[cases[1]]]}
        assert items[cases[0]][-1] not in lists.filter(pl.col("case_id").is_in(cases))["positives"].explode().to_list()
        other = lists.with_columns(
            items=pl.Series(
                [moved.get(case, own) for case, own in lists.select("case_id", "items").iter_rows()],
                dtype=lists.schema["items"],
            )
        )
        one, two = (
            problem_of(replace(data, valid_candidates=table), tmp_path, monkeypatch).fingerprint
            for table in (lists, other)
        )
        assert one != two

    def test_another_device_is_another_fit_and_batches_are_not_cut(
        self, data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        here = problem_of(data, tmp_path, monkeypatch)
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("sentence_transformers.base.model.get_device_name", lambda: "cpu")
        assert problem_of(data, tmp_path, monkeypatch).fingerprint != here.fingerprint
        assert not here.divisible


class TestBadInput:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"window": 1}, "window is 1"),
            ({"rec_weight": -1.0}, "rec_weight is -1.0"),
            ({"scale": 0.0}, "scale is 0.0"),
            ({"model": "mpnet"}, "unknown text model 'mpnet'"),
            ({"loop": {"batch_size": 64}}, "each other's negatives"),
        ],
    )
    def test_wrong_settings_are_named(self, data: TrainingData, settings: Any, message: str, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=message):
            encode(data, tmp_path, **settings)

    def test_no_validation_case_is_an_error(self, data: TrainingData, tmp_path: Path) -> None:
        train_only = replace(data, cases=data.cases.filter(pl.col("split") == "train"))
        with pytest.raises(InputError, match="no validation cases"):
            encode(train_only, tmp_path)

    def test_no_training_pair_is_an_error(self, data: TrainingData, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no two pairs"):
            encode(replace(data, events=data.events.head(1)), tmp_path)


def test_a_model_of_a_folder_is_tuned(data: TrainingData, tmp_path: Path) -> None:
    from gemsbench.encoders.static_model import build_static_model, train_tokenizer
    from gemsbench.encoders.text_models import embed_texts

    texts = [*data.items["text"], *QUERIES]
    start = build_static_model(train_tokenizer(texts, 400, 16), texts, 24, 5)
    start.save(str(tmp_path / "mine"))
    made = encode(data, tmp_path / "checkpoint", folder=str(tmp_path / "mine"), learning_rate=0.01)
    assert made.record["model"] == "mine"
    assert made.vectors.shape == (N_ITEMS + 1, 24)
    assert made.record["recall@10"]["tuned"]["src"] > made.record["recall@10"]["untuned"]["src"] + 0.3
    untuned = embed_texts(start, data.items["text"].to_list())
    assert not np.allclose(made.vectors[1:], untuned, atol=0.1)
