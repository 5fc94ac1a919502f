"""Rules for k."""

from __future__ import annotations

import pytest
import torch

from gemsbench.optim.feature_moments import Spectrum
from gemsbench.optim.kept_directions import KeptDirections

VALUES = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.125, 0.125], dtype=torch.float64)


def spectrum(values: torch.Tensor = VALUES, width: int = 8, trace: float = 16.0) -> Spectrum:
    return Spectrum(values, torch.eye(width, dtype=torch.float64)[:, : len(values)], trace, 100)


@pytest.mark.parametrize(
    ("rule", "k"),
    [
        (3, 3),
        ("n/8", 1),
        ("n/2", 4),
        ("n/3", 2),
        ("energy=0.5", 1),
        ("energy=0.51", 2),
        ("energy=0.95", 5),
        ("threshold=0.5", 5),
        ("threshold = 5e-1", 5),
        ("threshold=100", 0),
    ],
)
def test_k_of_a_known_spectrum(rule: int | str, k: int) -> None:
    assert KeptDirections.parse(rule).of(spectrum()) == k


def test_a_threshold_below_all_values_leaves_the_lowest_twentieth_free() -> None:
    values = torch.ones(768, dtype=torch.float64)
    assert KeptDirections.parse("threshold=2e-2").of(spectrum(values, 768, 768.0)) == 768 - 38
    assert KeptDirections.parse("threshold=2e-2").of(spectrum()) == 7  # at least one


def test_a_width_below_the_divisor_still_keeps_one() -> None:
    assert KeptDirections.parse("n/32").of(spectrum()) == 1


def test_an_energy_next_to_one_leaves_a_direction() -> None:
    assert KeptDirections.parse("energy=0.999999999").of(spectrum()) == 7


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (0, "at least 1"),
        (True, "no rule"),
        ("n/1", "nothing would be left"),
        ("n/0", "nothing would be left"),
        ("half", "no rule"),
        ("energy=1", "between 0 and 1"),
        ("energy=nan", "between 0 and 1"),
        ("threshold=-1", "above 0"),
        ("threshold=inf", "above 0"),
        ("enrgy=0.5", "energy lies"),
    ],
)
def test_a_wrong_rule_is_refused_and_the_right_ones_are_named(rule: int | str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        KeptDirections.parse(rule)
    assert "threshold=2e-2" in str(refused.value) or "0 and 1" in str(refused.value)


def test_a_count_of_the_whole_width_leaves_nothing() -> None:
    with pytest.raises(ValueError, match="nothing would be left to train in"):
        KeptDirections.parse(8).of(spectrum())


@pytest.mark.parametrize("rule", [5, "energy=0.95", "threshold=0.5"])
def test_more_than_a_sketch_knows_is_refused(rule: int | str) -> None:
    with pytest.raises(ValueError, match="more than the 4 leading directions"):
        KeptDirections.parse(rule).of(spectrum(VALUES[:4]))


def test_a_sketch_looks_at_twice_as_many() -> None:
    assert KeptDirections.parse("n/8").sketch_columns(11008) == 2752
    assert KeptDirections.parse(1000).sketch_columns(11008) == 2000
    assert KeptDirections.parse("energy=0.95").sketch_columns(11008) == 5504
    assert KeptDirections.parse(8000).sketch_columns(11008) == 11008
