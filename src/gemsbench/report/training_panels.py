"""One panel of the training figure: the lines of its methods, one thin line per seed, and what ended each run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from gemsbench.report.run_results import CAPS
from gemsbench.report.training_logs import Curve, Panel, Points, PretrainingCurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#555555")  # Okabe and Ito, no yellow
GREY = "#555555"
STYLE: dict[Any, Any] = {  # the keys are literals to matplotlib's types
    "svg.hashsalt": "gemsbench",  # without it the ids in an SVG are random
    "text.parse_math": False,  # names are plain text
    "font.size": 9,
    "legend.fontsize": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titlepad": 7,
    "axes.labelsize": 8,
    "axes.labelcolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}
Dash: TypeAlias = tuple[float, tuple[float, ...]] | Literal["-"]
SOLID: Dash = "-"
DASHED: Dash = (0, (4.5, 1.8))
KEPT, CUT = "o", "|"  # markers: the epoch whose weights were kept; a run that a cap of epochs or steps ended
APART = 4.0  # losses of two lines are far apart when one's largest value is this many times the other's
ROOM = 1.12  # of the axis above the highest point
ROUND = (1, 2, 2.5, 5, 10)  # steps between ticks


@dataclass(frozen=True)
class Line:
    """One method on one backbone: how it looks, and the curves of its runs."""

    label: str
    colour: str
    dash: Dash
    curves: tuple[Curve, ...]

    def on(self, recipe: str) -> Line:
        """The same look with the runs of one recipe, one per seed."""
        return Line(self.label, self.colour, self.dash, tuple(c for c in self.curves if c.run.recipe == recipe))


def draw_runs(axis: Axes, lines: Sequence[Line], panel: Panel, title: str) -> None:
    """Draw every line that has points in the panel; several seeds as their mean and one thin line each."""
    axis.set_title(title)
    axis.set_xlabel("epoch", loc="right", labelpad=1)
    highest = []
    for line in lines:
        curves = [curve for curve in line.curves if panel in curve.points]
        seeds = [curve.points[panel] for curve in curves]
        highest += [max(value for points in seeds for _, value in points)] if seeds else []
        for points in seeds if len(seeds) > 1 else ():
            axis.plot(*zip(*points, strict=True), color=line.colour, linewidth=0.8, alpha=0.45)
        mean = mean_over_seeds(seeds)
        axis.plot([x for x, _ in mean], [y for _, y in mean], color=line.colour, linestyle=line.dash, linewidth=1.8)
        for curve in curves:
            _mark_ends(axis, curve, panel, line.colour, size=5.0 if len(seeds) == 1 else 3.5)
    _scale(axis, highest, logarithmic=panel[0] == "loss")


def mean_over_seeds(seeds: Sequence[Points]) -> Points:
    """The mean at the epochs that every seed reached, so that no seed's end makes a step in it."""
    columns = [dict(points) for points in seeds]
    shared = [epoch for epoch in (columns[0] if columns else ()) if all(epoch in column for column in columns)]
    return tuple((epoch, fmean(column[epoch] for column in columns)) for epoch in shared)


def draw_pretraining(axis: Axes, curve: PretrainingCurve) -> None:
    """Held-out and training loss of one backbone over steps, the loss of the unigram model as a dashed line."""
    from matplotlib.ticker import MaxNLocator

    axis.set_title(f"{curve.backbone}: held-out loss (grey: training loss), nats per token")
    axis.set_xlabel("step", loc="right", labelpad=1)
    if curve.loss:
        axis.plot(*zip(*curve.loss, strict=True), color=GREY, alpha=0.45, linewidth=0.9)
    axis.plot(*zip(*curve.heldout, strict=True), color=PALETTE[0], linewidth=1.8)
    last, value = curve.heldout[-1]
    above: dict[str, Any] = {"xytext": (-2, 5), "textcoords": "offset points", "ha": "right"}
    axis.annotate(f"held-out {value:.2f}", (last, value), color=PALETTE[0], **above)
    if curve.unigram is not None:
        axis.axhline(curve.unigram, color="black", linewidth=1, linestyle=DASHED)
        axis.annotate(f"unigram {curve.unigram:.2f}", (last, curve.unigram), **above)
    axis.set_xlim(0, last or 1)
    axis.set_ylim(0, ROOM * max(value for _, value in (*curve.heldout, (last, curve.unigram or 0.0))))
    axis.yaxis.set_major_locator(MaxNLocator(4, steps=ROUND))
    axis.xaxis.set_major_locator(MaxNLocator(8, steps=ROUND, integer=True))


def legend_handles(lines: Sequence[Line]) -> list[Line2D]:
    """One entry per line, then what thin lines and markers mean where there are any."""
    from matplotlib.lines import Line2D

    curves = [curve for line in lines for curve in line.curves]
    handles = [
        Line2D([], [], color=line.colour, linestyle=line.dash, linewidth=1.8, label=line.label) for line in lines
    ]
    if len({(c.run.recipe, c.run.backbone, c.run.method) for c in curves}) < len(curves):
        handles.append(Line2D([], [], color=GREY, linewidth=0.8, alpha=0.6, label="one seed"))
    look: dict[str, Any] = {"color": GREY, "linestyle": "none"}
    if any(curve.best is not None for curve in curves):
        handles.append(Line2D([], [], marker=KEPT, markersize=5, label="best epoch, kept", **look))
    if any(curve.stopped in CAPS for curve in curves):
        handles.append(Line2D([], [], marker=CUT, markersize=10, label="stopped at its cap of epochs or steps", **look))
    return handles


def _mark_ends(axis: Axes, curve: Curve, panel: Panel, colour: str, size: float) -> None:
    points = curve.points[panel]
    if curve.stopped in CAPS:
        axis.plot(*points[-1], CUT, color=colour, markersize=2 * size, markeredgewidth=1.3, zorder=3)
    look: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.6, "zorder": 4}
    for point in points:
        if point[0] == curve.best and panel[0] != "loss":
            axis.plot(*point, KEPT, color=colour, markersize=size, **look)


def _scale(axis: Axes, highest: Sequence[float], logarithmic: bool) -> None:
    """Axes from zero; a loss axis is logarithmic where the largest values of its lines are far apart."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, StrMethodFormatter

    if not highest:
        axis.text(0.5, 0.5, "not logged", transform=axis.transAxes, ha="center", va="center", color=GREY)
        axis.set_xticks([])
        axis.set_yticks([])
        return
    axis.set_xlim(left=0)
    axis.xaxis.set_major_locator(MaxNLocator(6, steps=ROUND, integer=True))
    low, high = axis.dataLim.intervaly
    if logarithmic and low > 0 and max(highest) > APART * min(highest):
        axis.set_yscale("log")
        axis.set_ylim(low / ROOM, high * ROOM)
        axis.yaxis.set_major_locator(FixedLocator(log_ticks(low, high)))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    else:
        axis.set_ylim(min(low, 0), high * ROOM or 1)
        axis.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND))


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between low and high, a few per decade; low is above 0."""
    steps = (1.0, 2.0, 5.0) if high < 100 * low else (1.0,)
    ticks = [float(f"{step}e{power}") for power in range(-12, 13) for step in steps]
    return [tick for tick in ticks if low <= tick <= high]
