"""LETTER's identifiers: the shared RQ-VAE, what its two losses change, and its policy for equal codes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy
import torch
from scipy.stats import entropy

from gemsbench import seeds
from gemsbench.errors import InputError
from gemsbench.identifiers import letter, quantiser_training
from gemsbench.identifiers.letter import LETTER, LETTERQuantiser, LETTERSettings
from gemsbench.identifiers.quantiser_training import QuantiserSettings
from gemsbench.identifiers.rqvae import RQVAE, RQVAESettings
from gemsbench.identifiers.scheme import Identifiers
from gemsbench.identifiers.sinkhorn_reassignment import ReassignmentSettings, reassign
from gemsbench.identifiers.vectors import ItemVectors

N = 480
QUANTISER = LETTERQuantiser(
    hidden=(32,), latent=8, levels=3, codebook_size=16, epochs=30, batch_size=256, learning_rate=3e-3
)
SHORT = replace(QUANTISER, epochs=6)
PLAIN = LETTERSettings(
    quantiser=QUANTISER,
    alpha=0.0,
    beta=0.0,
    groups=3,
    regroup_every=5,
    balance_iterations=0,
    reassignment=ReassignmentSettings(rounds=0),
)
ALL = replace(
    PLAIN,
    quantiser=SHORT,
    alpha=0.1,
    beta=0.01,
    regroup_every=2,
    balance_iterations=10,
    reassignment=ReassignmentSettings(iterations=10),
)


class World:
    """Items in eight groups of text, which text is mostly about, and eight groups of use, which it hints at."""

    def __init__(self, planting: Any, seed: int = 0, unknown: tuple[int, ...] = (), without_use: int = 0) -> None:
        rng = seeds.stream(seed, "world")
        self.text_group, self.use_group = rng.integers(0, 8, N), rng.integers(0, 8, N)
        text = rng.normal(size=(8, 16))[self.text_group] + 0.35 * rng.normal(size=(8, 16))[self.use_group]
        self.text = text + 0.05 * rng.normal(size=(N, 16))
        self.use = 1.5 * rng.normal(size=(8, 8))[self.use_group] + 0.1 * rng.normal(size=(N, 8))
        self.items: pl.DataFrame = planting.items(N)
        self.planting, self.unknown = planting, unknown
        self.without_use = tuple(range(N - without_use + 1, N + 1))

    def vectors(self) -> dict[str, ItemVectors]:
        """Of both encoders."""
        text = self.planting.vectors("item-text", self.items, self.text, self.unknown)
        return {"item-text": text, "sasrec": self.planting.vectors("sasrec", self.items, self.use, self.without_use)}

    def make(self, settings: LETTERSettings, folder: Path, seed: int = 0) -> Identifiers:
        """The scheme on this world."""
        return LETTER().make(settings, self.items, self.vectors(), seed, folder)


def first_code_shared(made: Identifiers, pairs: np.ndarray) -> float:
    """Share of the pairs of items, bool [N, N], whose first codes are equal."""
    assert made.quantised is not None
    first = made.quantised.codes[1:, 0]
    return float((first[:, None] == first)[pairs].mean())


@pytest.mark.parametrize("seed", [0, 1])
def test_without_its_losses_and_its_balance_it_is_tigers_rq_vae(planting: Any, tmp_path: Path, seed: int) -> None:
    world = World(planting, seed, unknown=(3, 7))
    ours = world.make(PLAIN, tmp_path / "letter", seed)
    same = QuantiserSettings(**{name: getattr(QUANTISER, name) for name in QUANTISER.__dataclass_fields__})
    theirs = RQVAE().make(RQVAESettings(same), world.items, world.vectors(), seed, tmp_path / "rqvae")
    assert ours.quantised is not None
    assert theirs.quantised is not None
    np.testing.assert_array_equal(ours.quantised.codes, theirs.quantised.codes)
    assert ours.record["last_epoch"] == theirs.record["last_epoch"]
    for name in ("variance_left", "vectors_per_code", "few_vectors_per_code"):
        assert ours.record[name] == theirs.record[name]


@pytest.mark.parametrize("part", [{"alpha": 0.1}, {"beta": 0.01}, {"balance_iterations": 10}])
def test_each_part_changes_the_codes(planting: Any, tmp_path: Path, part: dict[str, Any]) -> None:
    world, short = World(planting), replace(PLAIN, quantiser=SHORT)
    without, made = world.make(short, tmp_path / "without"), world.make(replace(short, **part), tmp_path / "with")
    assert without.quantised is not None
    assert made.quantised is not None
    assert (made.quantised.codes != without.quantised.codes).any()
    named = {"alpha": {"collaborative"}, "beta": {"diversity"}, "balance_iterations": set()}
    assert made.record["last_epoch"].keys() - without.record["last_epoch"].keys() == named[next(iter(part))]


def test_items_used_alike_share_codes_and_only_with_their_own_vectors(planting: Any, tmp_path: Path) -> None:
    """alpha > 0 brings together what is used together but worded differently; vectors of other items do not."""
    with_use, without, shuffled = [], [], []
    for seed in range(2):
        # Items without text come first, so that an item's row among the known differs from its id.
        world = World(planting, seed, unknown=tuple(range(1, 41)))
        alike = (world.use_group[:, None] == world.use_group) & (world.text_group[:, None] != world.text_group)
        alike[:40] = alike[:, :40] = False
        settings = replace(PLAIN, alpha=0.3)
        with_use.append(first_code_shared(world.make(settings, tmp_path / f"use-{seed}", seed), alike))
        without.append(first_code_shared(world.make(PLAIN, tmp_path / f"none-{seed}", seed), alike))
        world.use = np.roll(world.use, 1, axis=0)  # each item has the vector of the one before it
        shuffled.append(first_code_shared(world.make(settings, tmp_path / f"rolled-{seed}", seed), alike))
    assert np.mean(with_use) > 3 * np.mean(without)
    assert np.mean(with_use) > 2 * np.mean(shuffled)


def test_more_codes_come_into_use_by_the_diversity_loss(planting: Any, tmp_path: Path) -> None:
    """Of codebooks that start from four skewed items most codes are idle: the other losses move used codes only."""
    entropies: dict[float, list[float]] = {0.0: [], 0.003: []}
    start = replace(QUANTISER, initial_sample=4, dead_codes_until=0.0)
    for seed in range(3):
        world, rng = World(planting, seed), seeds.stream(seed, "skewed")
        shares = np.arange(1, 25) ** -1.5
        groups = rng.choice(24, N, p=shares / shares.sum())
        world.text = rng.normal(size=(24, 16))[groups] + 0.3 * rng.normal(size=(N, 16))
        for beta, found in entropies.items():
            made = world.make(replace(PLAIN, quantiser=start, beta=beta), tmp_path / f"{beta}-{seed}", seed)
            assert made.quantised is not None
            counts = np.stack([np.bincount(column, minlength=16) for column in made.quantised.codes[1:].T])
            found.append(float(entropy(counts, axis=1).mean()))
    assert np.mean(entropies[0.003]) > np.mean(entropies[0.0]) + 0.1


def test_items_without_use_take_part_in_all_but_the_collaborative_loss(planting: Any, tmp_path: Path) -> None:
    world = World(planting, without_use=N - 1)
    made = world.make(replace(ALL, beta=0.0), tmp_path / "one")
    assert made.record["items_without_use"] == N - 1
    # A softmax over one item is 1 whatever its vector is: the losses are those without use.
    none = world.make(replace(ALL, beta=0.0, alpha=0.0), tmp_path / "none")
    assert made.quantised is not None
    assert none.quantised is not None
    assert made.record["last_epoch"]["collaborative"] == 0.0
    np.testing.assert_array_equal(made.quantised.codes, none.quantised.codes)


def test_equal_codes_are_resolved_on_the_last_level_and_the_rest_numbered(planting: Any, tmp_path: Path) -> None:
    world = World(planting, unknown=(5, 6, 9))
    world.text[100:110] = world.text[90:100]  # equal texts
    made = world.make(replace(ALL, quantiser=replace(SHORT, codebook_size=8)), tmp_path)
    before, after, final = made.quantised, made.resolved, made.codes
    assert before is not None
    assert after is not None
    alone = np.unique(before.codes[1:], axis=0, return_inverse=True, return_counts=True)
    unshared = (alone[2] == 1)[alone[1].reshape(-1)]
    np.testing.assert_array_equal(before.codes[1:][unshared], after.codes[1:][unshared])
    np.testing.assert_array_equal(before.codes[:, :-1], after.codes[:, :-1])
    np.testing.assert_array_equal(after.codes[101:111], after.codes[91:101])
    np.testing.assert_array_equal(final.codes[:, :3], after.codes)
    assert (len(final.sizes), final.sizes[:3]) == (4, (8, 8, 8))
    final.require_injective()
    distinct = [len(np.unique(raw.codes[1:], axis=0)) for raw in (before, after)]
    policy = made.record["reassignment"]
    assert policy["collision_rate_before"] == pytest.approx(1 - distinct[0] / N)
    assert policy["collision_rate_after"] == pytest.approx(1 - distinct[1] / N)
    assert distinct[0] < distinct[1]
    assert policy["items_moved"] == (before.codes != after.codes).any(axis=1).sum() > 0
    left = np.unique(after.codes[1:], axis=0, return_inverse=True, return_counts=True)
    assert policy["items_left"] == (left[2] > 1)[left[1].reshape(-1)].sum() >= 20
    assert 1 <= policy["rounds"] <= 20
    assert made.record["items_without_vector"] == 3


def test_items_without_text_are_reassigned_as_the_mean_vector(
    planting: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, seen = World(planting, unknown=(5, 9)), []

    def look(model: Any, vectors: np.ndarray, codes: np.ndarray, settings: Any) -> Any:
        assert (model.codes(torch.from_numpy(vectors)).numpy() == codes).all()
        seen.append(vectors)
        return reassign(model, vectors, codes, settings)

    monkeypatch.setattr(letter, "reassign", look)
    world.text += 3.0  # far from zero
    world.make(replace(ALL, quantiser=replace(SHORT, epochs=1)), tmp_path)
    known = np.delete(world.text, [4, 8], axis=0)
    np.testing.assert_allclose(seen[0][[4, 8]], np.stack([known.mean(axis=0)] * 2), rtol=1e-5)


def test_there_is_no_further_level_when_none_is_needed(planting: Any, tmp_path: Path) -> None:
    world = World(planting)
    world.text = seeds.stream(0, "text").normal(size=(N, 16))
    made = world.make(replace(ALL, quantiser=replace(SHORT, codebook_size=24)), tmp_path)
    assert made.record["reassignment"]["collision_rate_before"] > 0
    assert made.record["reassignment"]["items_left"] == 0
    assert made.codes.sizes == (24, 24, 24)
    made.codes.require_injective()


def test_equal_seeds_give_equal_bits_and_rows_in_any_order(planting: Any, tmp_path: Path) -> None:
    world = World(planting)
    made = world.make(ALL, tmp_path / "one")
    world.items = world.items.sample(fraction=1, shuffle=True, seed=1)
    again = LETTER().make(ALL, world.items, World(planting).vectors(), 0, tmp_path / "two")
    np.testing.assert_array_equal(made.codes.codes, again.codes.codes)
    assert made.record == again.record
    other = world.make(ALL, tmp_path / "three", seed=1)
    assert (other.codes.codes[:, 0] != made.codes.codes[:, 0]).any()


@pytest.mark.parametrize("killed_at", [1, 3, 5])
def test_a_killed_run_ends_with_the_same_bits(
    planting: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    """Also where the groups of the codes were made in an epoch that the second run does not see."""
    settings = replace(ALL, quantiser=replace(SHORT, checkpoint_seconds=0.0))
    world = World(planting)
    whole = world.make(settings, tmp_path / "whole")
    draw = letter._Losses.on_epoch

    def killed(losses: Any, model: Any, epoch: int) -> None:
        if epoch == killed_at:
            raise KeyboardInterrupt
        draw(losses, model, epoch)

    monkeypatch.setattr(letter._Losses, "on_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        world.make(settings, tmp_path / "killed")
    monkeypatch.undo()
    assert (tmp_path / "killed" / quantiser_training.CHECKPOINT).exists() == (killed_at > 1)
    resumed = world.make(settings, tmp_path / "killed")
    np.testing.assert_array_equal(resumed.codes.codes, whole.codes.codes)
    assert resumed.record == whole.record


def epochs_done(world: World, settings: LETTERSettings, folder: Path) -> list[int]:
    """The epochs that a fit begins."""
    seen: list[int] = []
    begin = letter._Losses.on_epoch

    def look(losses: Any, model: Any, epoch: int) -> None:
        seen.append(epoch)
        begin(losses, model, epoch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(letter._Losses, "on_epoch", look)
        world.make(settings, folder)
    return seen


OFTEN = replace(ALL, quantiser=replace(SHORT, epochs=4, checkpoint_seconds=0.0))


@pytest.mark.parametrize(
    "change", [{"most_per_code": 99}, {"reassignment": ReassignmentSettings(iterations=7, rounds=3)}]
)
def test_what_comes_after_the_training_can_change_without_another_fit(
    planting: Any, tmp_path: Path, change: dict[str, Any]
) -> None:
    world = World(planting)
    assert epochs_done(world, OFTEN, tmp_path) == [0, 1, 2, 3]
    assert epochs_done(world, replace(OFTEN, **change), tmp_path) == []


@pytest.mark.parametrize(
    "change",
    [
        {"alpha": 0.2},
        {"beta": 0.02},
        {"groups": 4},
        {"regroup_every": 4},
        {"balance_epsilon": 0.01},
        {"balance_iterations": 9},
        "code",
        "scipy",
    ],
)
def test_what_the_training_depends_on_asks_for_another_fit(
    planting: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    world = World(planting)
    epochs_done(world, OFTEN, tmp_path)
    if change == "code":
        monkeypatch.setattr(letter, "source_sha256", lambda *targets: "another")
    elif change == "scipy":
        monkeypatch.setattr(scipy, "__version__", "another")
    settings = OFTEN if isinstance(change, str) else replace(OFTEN, **change)
    assert epochs_done(world, settings, tmp_path) == [0, 1, 2, 3]


@pytest.mark.parametrize(("beta", "lost"), [(0.0, 0), (0.01, 1)])
def test_only_groups_of_codes_put_a_checkpoint_off(planting: Any, tmp_path: Path, beta: float, lost: int) -> None:
    """Of three epochs, a checkpoint after the second one holds where groups are made every second epoch."""
    settings = replace(OFTEN, beta=beta, quantiser=replace(OFTEN.quantiser, epochs=3))
    epochs_done(World(planting), settings, tmp_path)
    assert len(epochs_done(World(planting), settings, tmp_path)) == lost


def test_a_checkpoint_of_other_vectors_of_use_is_not_used(planting: Any, tmp_path: Path) -> None:
    world, settings = World(planting), replace(ALL, quantiser=replace(SHORT, checkpoint_seconds=0.0))
    world.make(settings, tmp_path / "kept")
    world.use = -2 * world.use
    made, fresh = world.make(settings, tmp_path / "kept"), world.make(settings, tmp_path / "fresh")
    assert made.record == fresh.record


def test_codebooks_start_shared_evenly() -> None:
    """Four of five items are nearest to the first code; the balanced start gives each code half of them."""
    rows = (np.linspace(0, 1, 100)[:, None] ** 3).astype(np.float32)
    settings = replace(ALL, balance_iterations=3000, balance_epsilon=0.01)
    start = letter._balanced_start(settings, rows, np.array([[0.1], [0.9]], np.float32))
    np.testing.assert_allclose(start[:, 0], [rows[:50].mean(), rows[50:].mean()], atol=1e-3)
    assert start.dtype == np.float32


def test_the_first_codebooks_are_those_of_the_balanced_start(planting: Any, tmp_path: Path) -> None:
    seen = []

    def look(losses: Any, model: Any, epoch: int) -> None:
        seen.append(model.codebooks.detach().clone())

    for iterations in (0, 10):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(letter._Losses, "on_epoch", look)
            settings = replace(PLAIN, quantiser=replace(SHORT, epochs=1), balance_iterations=iterations)
            World(planting).make(settings, tmp_path / str(iterations))
    assert not torch.equal(seen[0], seen[1])


def test_defaults_that_are_those_of_the_official_code() -> None:
    settings = LETTERSettings()
    quantiser = settings.quantiser
    assert (settings.beta, settings.groups) == (1e-4, 10)
    assert (settings.balance_epsilon, settings.balance_iterations) == (0.003, 50)
    assert settings.reassignment == ReassignmentSettings(epsilon=0.003, iterations=50, rounds=20)
    assert (quantiser.latent, quantiser.levels, quantiser.codebook_size, quantiser.commitment) == (32, 4, 256, 0.25)
    assert (quantiser.reduction, quantiser.initial) == ("mean", "xavier")
    assert (quantiser.learning_rate, quantiser.weight_decay, quantiser.batch_size) == (1e-3, 1e-4, 1024)


def test_defaults_that_are_our_own() -> None:
    """The official code: alpha 0.1 or 0.01 by data set, groups made in every epoch, 20,000 epochs, wider layers."""
    settings = LETTERSettings()
    assert (settings.alpha, settings.regroup_every) == (0.02, 10)
    assert (settings.quantiser.hidden, settings.quantiser.epochs) == ((512, 256, 128, 64), 1000)


def test_use_must_be_as_wide_as_the_latent(planting: Any, tmp_path: Path) -> None:
    settings = replace(ALL, quantiser=replace(SHORT, latent=12))
    with pytest.raises(
        InputError, match=r"'sasrec' have 8 dimensions and the latent has 12.*quantiser\.latent.* 8, or"
    ):
        World(planting).make(settings, tmp_path)


@pytest.mark.parametrize("missing", ["item-text", "sasrec"])
def test_vectors_that_are_missing_are_named(planting: Any, tmp_path: Path, missing: str) -> None:
    world = World(planting)
    vectors = {name: found for name, found in world.vectors().items() if name != missing}
    with pytest.raises(InputError, match=f"needs the vectors of '{missing}'"):
        LETTER().make(ALL, world.items, vectors, 0, tmp_path)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"alpha": -1.0}, "alpha is -1.0; it must be 0 or more"),
        ({"beta": float("nan")}, "beta is nan"),
        ({"balance_iterations": -1}, "balance_iterations is -1"),
        ({"balance_epsilon": 0.0}, "balance_epsilon is 0.0; it must be positive"),
        ({"regroup_every": 0}, "regroup_every is 0; it must be at least 1"),
        ({"groups": 9}, r"16 codes cannot be split into 9 groups of two or more. Set groups to 1..8"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(ALL, **wrong)
