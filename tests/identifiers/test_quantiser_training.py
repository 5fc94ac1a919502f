"""Training of the RQ-VAE: it learns, it wakes dead codes, and a kill or another order of rows changes no bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faiss
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor

from gemsbench.errors import InputError
from gemsbench.identifiers import quantiser_training
from gemsbench.identifiers.distinct_rows import Float32Array
from gemsbench.identifiers.quantiser_record import variance_left
from gemsbench.identifiers.quantiser_training import (
    CHECKPOINT,
    QuantiserSettings,
    start_codebooks,
    train_quantiser,
    untrained,
)
from gemsbench.identifiers.residual_quantiser import Quantised, ResidualQuantiser

SMALL = QuantiserSettings(hidden=(24,), latent=8, levels=3, codebook_size=16, batch_size=128, epochs=12)


def train(
    vectors: Float32Array, folder: Path, settings: QuantiserSettings = SMALL, seed: int = 0, **hooks: Any
) -> tuple[ResidualQuantiser, list[dict[str, Any]]]:
    return train_quantiser(vectors, np.arange(1, len(vectors) + 1), settings, seed, folder, **hooks)


def bits(model: ResidualQuantiser) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


def timeless(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name != "seconds"} for line in log]


def test_64_random_vectors_are_learned_by_heart(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(64, 24)).astype(np.float32)
    settings = QuantiserSettings(hidden=(64,), latent=16, codebook_size=64, epochs=150, learning_rate=1e-2)
    untouched = untrained(24, settings, 0)
    start_codebooks(untouched, torch.from_numpy(vectors), settings, 0)
    model, log = train(vectors, tmp_path, settings)
    codes = model.codes(torch.from_numpy(vectors))
    before = variance_left(untouched, vectors, untouched.codes(torch.from_numpy(vectors)))["reconstruction"]
    after = variance_left(model, vectors, codes)["reconstruction"]
    assert after < before / 10
    assert log[-1]["reconstruction"] < log[0]["reconstruction"] / 10
    assert len(np.unique(codes, axis=0)) == 64
    assert len(np.unique(codes[:, 0])) > 0.8 * 64


def test_levels_leave_less_and_less_and_the_first_one_is_the_coarse_group(
    planting: SimpleNamespace, tmp_path: Path
) -> None:
    vectors, coarse, _ = planting.planted(n=800, coarse=8, fine=6)
    settings = replace(SMALL, codebook_size=8, epochs=60)
    model, log = train(vectors, tmp_path, settings)
    codes = model.codes(torch.from_numpy(vectors))
    assert normalized_mutual_info_score(codes[:, 0].numpy(), coarse) > 0.8
    left = variance_left(model, vectors, codes)
    assert 1 > left["latent"][0] > left["latent"][1] > left["latent"][2] > 0
    with torch.no_grad():
        made = model(torch.from_numpy(vectors))
    variance = (made.latent - made.latent.mean(0)).square().sum()
    last = (made.residuals[:, -1] - made.codewords[:, -1]).square().sum()
    assert left["latent"][2] == pytest.approx(float(last / variance), rel=1e-3)
    assert left["reconstruction"] < 0.15
    assert log[-1]["loss"] == pytest.approx(log[-1]["reconstruction"] + log[-1]["quantisation"])
    assert [line["epoch"] for line in log] == list(range(1, 61))


class KilledError(Exception):
    """What a test raises in the middle of a training."""


@pytest.mark.parametrize("killed_at", [1, 7, 12])
def test_a_killed_training_ends_with_the_same_bits(planting: SimpleNamespace, tmp_path: Path, killed_at: int) -> None:
    vectors = planting.planted(n=500)[0]
    whole, whole_log = train(vectors, tmp_path / "whole")
    assert not (tmp_path / "whole").exists()  # too short for a checkpoint by the default interval
    seen: list[int] = []

    def kill(_: ResidualQuantiser, epoch: int) -> None:
        seen.append(epoch)
        if epoch == killed_at:
            raise KilledError

    often = replace(SMALL, checkpoint_seconds=0.0)
    if killed_at < SMALL.epochs:
        with pytest.raises(KilledError):
            train(vectors, tmp_path / "killed", often, on_epoch=kill)
    else:  # killed after the training, before its result was used
        train(vectors, tmp_path / "killed", often)
    resumed, log = train(vectors, tmp_path / "killed", often, on_epoch=lambda _, epoch: seen.append(epoch))
    assert bits(resumed) == bits(whole)
    assert timeless(log) == timeless(whole_log)
    assert seen == [*range(killed_at + 1), *range(killed_at, 12)] if killed_at < 12 else seen == []


def test_a_checkpoint_falls_only_after_a_multiple_of_save_every(planting: SimpleNamespace, tmp_path: Path) -> None:
    vectors = planting.planted(n=300)[0]

    def kill(_: ResidualQuantiser, epoch: int) -> None:
        if epoch == 8:
            raise KilledError

    often = replace(SMALL, checkpoint_seconds=0.0)
    with pytest.raises(KilledError):
        train(vectors, tmp_path, often, on_epoch=kill, save_every=5)
    seen: list[int] = []
    resumed, _ = train(vectors, tmp_path, often, on_epoch=lambda _, epoch: seen.append(epoch), save_every=5)
    assert seen == list(range(5, 12))
    assert bits(resumed) == bits(train(vectors, tmp_path / "whole")[0])


@pytest.mark.parametrize("other", ["settings", "seed", "vectors", "ids", "hooks"])
def test_a_checkpoint_of_something_else_is_not_used(planting: SimpleNamespace, tmp_path: Path, other: str) -> None:
    vectors, often = planting.planted(n=200)[0], replace(SMALL, checkpoint_seconds=0.0, epochs=3)
    train(vectors, tmp_path, often)
    assert (tmp_path / CHECKPOINT).is_file()
    epochs: list[int] = []
    arguments: dict[str, Any] = {"vectors": vectors, "ids": np.arange(1, 201), "settings": often, "seed": 0}
    change: Mapping[str, Any] = {
        "settings": {"settings": replace(often, weight_decay=0.0)},
        "seed": {"seed": 1},
        "vectors": {"vectors": vectors * np.float32(2)},
        "ids": {"ids": np.arange(2, 202)},
        "hooks": {"fingerprint_extra": {"alpha": 0.1}},
    }[other]
    train_quantiser(**{**arguments, **change}, checkpoint=tmp_path, on_epoch=lambda _, epoch: epochs.append(epoch))
    assert epochs == [0, 1, 2]


def test_the_order_of_rows_changes_no_bit(planting: SimpleNamespace, tmp_path: Path) -> None:
    vectors = planting.planted(n=500)[0]
    ids, order = np.arange(1, 501), np.random.default_rng(0).permutation(500)
    one, log = train_quantiser(vectors, ids, SMALL, 0, tmp_path)
    other, other_log = train_quantiser(vectors[order], ids[order], SMALL, 0, tmp_path)
    assert bits(one) == bits(other)
    assert timeless(log) == timeless(other_log)
    assert bits(one) != bits(train_quantiser(vectors, ids, SMALL, 1, tmp_path)[0])


def far_away(_: Float32Array, centroids: Float32Array) -> Float32Array:
    """All codes but the first are where no residual is."""
    return np.concatenate([centroids[:1], centroids[1:] + np.float32(1e3)])


def farthest_from_its_nearest(codewords: Tensor, residuals: Tensor) -> Tensor:
    return (codewords[:, None] - residuals).norm(dim=2).min(dim=1).values.max()


def test_dead_codes_are_moved_until_their_share_of_the_epochs(planting: SimpleNamespace, tmp_path: Path) -> None:
    vectors = planting.planted(n=600, noise=0.5)[0]
    left_alone = replace(SMALL, dead_codes_until=0.0)
    _, dead = train(vectors, tmp_path, left_alone, initial_codebook=far_away)
    assert all(line["reseated"] == 0 for line in dead)
    assert dead[-1]["used"] == [1 / 16] * 3
    _, woken = train(vectors, tmp_path, replace(SMALL, epochs=40), initial_codebook=far_away)
    assert woken[0]["used"] == [1 / 16] * 3
    assert woken[0]["reseated"] == 3 * 15
    assert min(woken[-1]["used"]) > 0.8
    # A code unused in an epoch is moved after it, in the first 80 % of the epochs and not later.
    unused = [round(sum(16 * (1 - share) for share in line["used"])) for line in woken]
    assert [line["reseated"] for line in woken] == [*unused[:32], *[0] * 8]


def test_a_dead_code_is_moved_onto_a_present_residual(planting: SimpleNamespace, tmp_path: Path) -> None:
    vectors = planting.planted(n=600)[0]
    settings = replace(SMALL, epochs=2, dead_codes_until=0.5)
    found: list[tuple[Tensor, Tensor]] = []

    def look(model: ResidualQuantiser, epoch: int) -> None:
        if epoch == 1:
            with torch.no_grad():
                residuals = model(torch.from_numpy(vectors)).residuals
            found.append((model.codebooks.detach().clone(), residuals))

    train(vectors, tmp_path, settings, initial_codebook=far_away, on_epoch=look)
    codebooks, residuals = found[0]
    # The first level's residuals are the latents, which moving codes does not change.
    assert farthest_from_its_nearest(codebooks[0, 1:], residuals[:, 0]) < 1e-5


def test_the_optimizer_forgets_the_place_a_dead_code_had(planting: SimpleNamespace, tmp_path: Path) -> None:
    settings = replace(SMALL, epochs=1, dead_codes_until=1.0, checkpoint_seconds=0.0)

    def push(model: ResidualQuantiser, *_: Any) -> Mapping[str, Tensor]:
        return {"push": model.codebooks.sum()}

    train(planting.planted(n=200)[0], tmp_path, settings, initial_codebook=far_away, extra=push)
    saved = load_file(tmp_path / CHECKPOINT)
    moments = [value for name, value in saved.items() if "exp_avg" in name and value.shape == (3, 16, 8)]
    assert len(moments) == 2
    for moment in moments:
        assert moment[:, 1:].eq(0).all()
        assert moment[:, 0].ne(0).all()


def test_hooks_see_the_ids_of_their_rows_and_their_losses_count(planting: SimpleNamespace, tmp_path: Path) -> None:
    vectors = planting.planted(n=300)[0]
    ids = np.random.default_rng(0).permutation(1000)[:300]
    of_id = torch.zeros(1000, vectors.shape[1])
    of_id[ids] = torch.from_numpy(vectors)
    seen: list[Tensor] = []

    def extra(model: ResidualQuantiser, quantised: Quantised, batch: Tensor, epoch: int) -> Mapping[str, Tensor]:
        seen.append(batch)
        torch.testing.assert_close(model.encoder(model.standardised(of_id[batch])), quantised.latent)
        assert epoch == (len(seen) - 1) // 3
        return {"pull": 100 * quantised.latent.square().sum(dim=1).mean()}

    settings = replace(SMALL, epochs=4)
    model, log = train_quantiser(vectors, ids, settings, 0, tmp_path, extra=extra)
    assert [len(batch) for batch in seen] == [100] * 12  # nearly equal batches, none of a few rows
    assert sorted(torch.cat(seen[:3]).tolist()) == sorted(ids.tolist())
    assert not torch.equal(seen[0], seen[3])
    assert log[0]["loss"] == pytest.approx(log[0]["pull"] + log[0]["reconstruction"] + log[0]["quantisation"])
    plain, _ = train_quantiser(vectors, ids, settings, 0, tmp_path)
    lengths = [m.encoder(m.standardised(torch.from_numpy(vectors))).square().sum() for m in (model, plain)]
    assert lengths[0] < lengths[1] / 2


def test_the_start_is_k_means_of_a_sample_of_residuals(planting: SimpleNamespace) -> None:
    vectors = torch.from_numpy(planting.planted(n=700)[0])
    model = untrained(16, SMALL, 0)
    start_codebooks(model, vectors, SMALL, 0)
    torch.testing.assert_close(model.mean, vectors.mean(dim=0))
    torch.testing.assert_close(model.std, vectors.var(dim=0, correction=0).mean().sqrt())
    with torch.no_grad():
        made = model(vectors)
    for level in range(3):  # a centroid is the mean of its residuals
        sums = torch.zeros(16, 8).index_add_(0, made.codes[:, level], made.residuals[:, level].detach())
        means = sums / torch.bincount(made.codes[:, level], minlength=16)[:, None]
        off = (means - model.codebooks[level].detach()).norm(dim=1) / made.residuals[:, level].norm(dim=1).mean()
        assert off.mean() < 0.1
    sampled = untrained(16, SMALL, 0)
    start_codebooks(sampled, vectors, replace(SMALL, initial_sample=16), 0)
    latents = model.encoder(model.standardised(vectors)).detach()
    assert farthest_from_its_nearest(sampled.codebooks[0].detach(), latents) < 1e-5


@pytest.mark.parametrize(
    ("distinct", "hint"),
    [
        (1, "no quantiser tells equal ones apart"),
        (16, "at most 16; 16 is advised"),
        (255, "at most 255; 16 is advised"),
        (256, "at most 256; 32 is advised"),
        (511, "at most 511; 32 is advised"),
    ],
)
def test_a_codebook_that_too_few_vectors_fill_names_a_size_to_take(distinct: int, hint: str, tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(distinct, 4)).astype(np.float32).repeat(2, axis=0)
    with pytest.raises(InputError, match=f"^quantiser: {distinct} distinct vectors .* of 512 codes.*{hint}"):
        train(vectors, tmp_path, replace(SMALL, codebook_size=512))


@pytest.mark.parametrize("part", ["code", "torch", "faiss", "numpy"])
def test_a_checkpoint_of_other_code_or_versions_is_not_used(
    planting: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    vectors, often = planting.planted(n=200)[0], replace(SMALL, checkpoint_seconds=0.0, epochs=3)
    train(vectors, tmp_path, often)
    epochs: list[int] = []
    train(vectors, tmp_path, often, on_epoch=lambda _, epoch: epochs.append(epoch))
    assert epochs == []
    if part == "code":
        monkeypatch.setattr(quantiser_training, "source_sha256", lambda *targets: "another")
    else:
        monkeypatch.setattr({"torch": torch, "faiss": faiss, "numpy": np}[part], "__version__", "another")
    train(vectors, tmp_path, often, on_epoch=lambda _, epoch: epochs.append(epoch))
    assert epochs == [0, 1, 2]


def test_bad_input_is_refused(planting: SimpleNamespace, tmp_path: Path) -> None:
    vectors = planting.planted(n=200)[0]
    with pytest.raises(
        InputError, match=r"15 distinct vectors cannot fill a codebook of 16 codes\. Lower codebook_size to at most 15,"
    ):
        train(vectors[np.arange(200) % 15], tmp_path)
    with pytest.raises(InputError, match=r"no longer finite in epoch .* Lower learning_rate"):
        train(vectors, tmp_path, replace(SMALL, learning_rate=1e20))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, 0) for name in ("latent", "levels", "batch_size", "initial_sample", "threads", "codebook_size")),
        *((name, -1) for name in ("commitment", "learning_rate", "weight_decay", "epochs", "checkpoint_seconds")),
        ("hidden", (8, 0)),
        ("dead_codes_until", 1.1),
        ("commitment", float("nan")),
    ],
)
def test_settings_out_of_range_are_refused(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"quantiser: {field} is"):
        QuantiserSettings(**{field: value})
