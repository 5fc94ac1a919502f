"""What is drawn: means over seeds, the kept epochs, the runs that their cap ended, ticks that are round numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from gemsbench.profile import Run
from gemsbench.report.training_logs import Curve, Panel, Points, PretrainingCurve
from gemsbench.report.training_panels import (
    CUT,
    KEPT,
    PALETTE,
    SOLID,
    Line,
    draw_pretraining,
    draw_runs,
    legend_handles,
    log_ticks,
    mean_over_seeds,
)

VALID: Panel = ("valid_ndcg@10", "rec")
LOSS: Panel = ("loss", "rec")


def curve(
    seed: int = 1, height: float = 0.1, epochs: int = 5, best: float | None = 3.0, stopped: str | None = None
) -> Curve:
    points: Points = tuple((float(epoch), height * epoch) for epoch in range(1, epochs + 1))
    return Curve(Run("recipe", "t5-mini", "bsr", seed), False, {VALID: points, LOSS: points}, best, stopped)


def line(*curves: Curve) -> Line:
    return Line("BSR", PALETTE[1], SOLID, curves)


def drawn(lines: list[Line], panel: Panel = VALID) -> Axes:
    axis = Figure().add_subplot()
    draw_runs(axis, lines, panel, "a panel")
    return axis


def marked(axis: Axes, marker: str) -> list[tuple[float, float]]:
    found = [artist for artist in axis.lines if artist.get_marker() == marker]
    return [(float(artist.get_xdata()[0]), float(artist.get_ydata()[0])) for artist in found]


def test_one_seed_is_one_line_with_its_best_epoch() -> None:
    axis = drawn([line(curve())])
    (only,) = [artist for artist in axis.lines if len(artist.get_xdata()) > 1]
    assert list(only.get_ydata()) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert to_hex(only.get_color()) == PALETTE[1].lower()
    assert marked(axis, KEPT) == [(3.0, pytest.approx(0.3))]
    assert marked(axis, CUT) == []
    assert axis.get_ylim()[0] == 0


def test_several_seeds_are_thin_lines_and_their_mean() -> None:
    axis = drawn([line(curve(1, 0.1), curve(2, 0.2, epochs=3, best=2.0))])
    curves = [artist for artist in axis.lines if artist.get_marker() == "None"]
    widths = sorted((len(artist.get_xdata()), artist.get_linewidth()) for artist in curves)
    assert widths == [(3, 0.8), (3, 1.8), (5, 0.8)]
    thick = next(artist for artist in axis.lines if artist.get_linewidth() == 1.8)
    assert list(thick.get_ydata()) == pytest.approx([0.15, 0.3, 0.45])
    assert sorted(marked(axis, KEPT)) == [(2.0, pytest.approx(0.4)), (3.0, pytest.approx(0.3))]


@pytest.mark.parametrize(("stopped", "cuts"), [("epochs", 1), ("patience", 0), (None, 0)])
def test_only_a_run_that_its_cap_ended_is_marked_as_such(stopped: str | None, cuts: int) -> None:
    axis = drawn([line(curve(stopped=stopped))])
    assert marked(axis, CUT) == [(5.0, pytest.approx(0.5))] * cuts
    labels = [handle.get_label() for handle in legend_handles([line(curve(stopped=stopped))])]
    assert ("stopped at its cap of epochs or steps" in labels) == bool(cuts)


def test_the_kept_epoch_is_marked_on_validation_only() -> None:
    assert marked(drawn([line(curve())], LOSS), KEPT) == []
    assert marked(drawn([line(curve(best=None))]), KEPT) == []


def test_losses_that_are_far_apart_have_a_logarithmic_axis() -> None:
    near, far = line(curve(height=0.2)), line(curve(height=2.0))
    assert drawn([line(curve()), near], LOSS).get_yscale() == "linear"
    assert drawn([line(curve()), far], LOSS).get_yscale() == "log"
    assert drawn([line(curve()), far], VALID).get_yscale() == "linear"


def test_a_panel_without_points_says_so() -> None:
    axis = drawn([line(curve())], ("loss", "src"))
    assert [text.get_text() for text in axis.texts] == ["not logged"]


def test_the_legend_names_thin_lines_only_where_there_are_some() -> None:
    assert [handle.get_label() for handle in legend_handles([line(curve())])] == ["BSR", "best epoch, kept"]
    assert "one seed" in [handle.get_label() for handle in legend_handles([line(curve(1), curve(2))])]
    assert legend_handles([]) == []


def test_pretraining_shows_the_held_out_loss_against_the_unigram_loss() -> None:
    axis = Figure().add_subplot()
    draw_pretraining(axis, PretrainingCurve("t5-mini", (), ((0.0, 7.0), (100.0, 2.5)), 6.25))
    assert [text.get_text() for text in axis.texts] == ["held-out 2.50", "unigram 6.25"]
    assert axis.get_ylim()[0] == 0
    assert axis.get_ylim()[1] > 7.0
    assert [set(artist.get_ydata()) for artist in axis.lines if artist.is_dashed()] == [{6.25}]


@given(st.lists(st.lists(st.floats(-1, 1), min_size=1, max_size=8), min_size=1, max_size=4))
def test_the_mean_covers_what_all_seeds_reached_and_lies_between_them(values: list[list[float]]) -> None:
    seeds = [tuple((float(epoch), value) for epoch, value in enumerate(column)) for column in values]
    mean = mean_over_seeds(seeds)
    assert len(mean) == min(map(len, seeds))
    for epoch, value in mean:
        here = [dict(points)[epoch] for points in seeds]
        assert min(here) - 1e-12 <= value <= max(here) + 1e-12


@given(st.floats(1e-6, 1e6), st.floats(4, 1e4))
def test_logarithmic_ticks_are_few_and_within(low: float, ratio: float) -> None:
    ticks = log_ticks(low, low * ratio)
    assert 1 <= len(ticks) <= 7
    assert all(low <= tick <= low * ratio for tick in ticks)
    assert all(f"{tick:e}"[0] in "125" for tick in ticks)
