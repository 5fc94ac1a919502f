"""The figure of the training curves: small multiples, one row per recipe and one for the stand-ins' pre-training.

The paper has no such figure; it shows what each run learned and why it stopped where it did. matplotlib is imported
when a figure is drawn, never with this module.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gemsbench import files
from gemsbench.errors import InputError
from gemsbench.profile import NO_BACKBONE, Profile
from gemsbench.report.captions import column_heading, columns_of, comparability
from gemsbench.report.rows import METHOD_KEYS, TASK_NAMES
from gemsbench.report.sheet import Sheet
from gemsbench.report.training_logs import BOTH, QUANTITIES, Curve, PretrainingCurve, pretraining_curves, run_curves
from gemsbench.report.training_panels import (
    DASHED,
    PALETTE,
    SOLID,
    STYLE,
    Line,
    draw_pretraining,
    draw_runs,
    legend_handles,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE_FILES = ("training.svg", "training.png")
WITHOUT_NAME = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
PANELS = {
    (quantity, task): f"{name}, {TASK_NAMES.get(task, 'both tasks').lower()}"
    for quantity, name in zip(QUANTITIES, ("Training loss", "Validation NDCG@10"), strict=True)
    for task in (*TASK_NAMES, BOTH)
}


def write_figures(profile: Profile, results: Path, out: Path) -> list[Path]:
    """Write training.svg and training.png into out from the logs below results = results/<profile>; returns the paths.

    Equal logs, profile and matplotlib give equal bytes. Both files are drawn before the first is written. Raises
    InputError for a missing or damaged log, and without matplotlib.
    """
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is missing, which draws figures: pip install 'gemsbench[workflow]'") from error
    curves, pretraining = run_curves(profile, results), pretraining_curves(profile, results)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's own matplotlibrc must not change the figure
        matplotlib.rcParams.update(STYLE)
        figure = _figure(profile, curves, pretraining)
        drawn = {out / name: _saved(figure, Path(name).suffix[1:]) for name in FIGURE_FILES}
    for path, content in drawn.items():
        with files.atomic_path(path) as temporary:
            temporary.write_bytes(content)
    return list(drawn)


def _saved(figure: Figure, suffix: str) -> bytes:
    """The bytes of the file, without a date or the drawing program's name in them."""
    content = io.BytesIO()
    figure.savefig(content, format=suffix, dpi=160, metadata=WITHOUT_NAME[suffix])
    return content.getvalue()


def _figure(profile: Profile, curves: Sequence[Curve], pretraining: Sequence[PretrainingCurve]) -> Figure:
    labels = {recipe: column_heading(label, recipe) for label, recipe in columns_of(profile).items()}
    recipes = [r for r in dict.fromkeys((*labels, *profile.recipes)) if any(c.run.recipe == r for c in curves)]
    panels = [panel for panel in PANELS if any(panel in curve.points for curve in curves)]
    lines = list(_lines(profile, curves))
    title = f"Training curves of profile {profile.profile}: validation, not test results"
    rows = len(recipes) + bool(pretraining)
    sheet = Sheet(title, _notes(profile, curves, lines), legend_handles(lines), rows, max(2, len(panels)))
    for recipe in recipes:
        axes = sheet.row(labels.get(recipe, recipe), len(panels))
        for axis, panel in zip(axes, panels, strict=True):
            draw_runs(axis, [line.on(recipe) for line in lines], panel, PANELS[panel])
    if pretraining:
        axes = sheet.row("Pre-training of the backbones on plain text", len(pretraining))
        for axis, pretrained in zip(axes, pretraining, strict=True):
            draw_pretraining(axis, pretrained)
    return sheet.figure


def _lines(profile: Profile, curves: Sequence[Curve]) -> Iterator[Line]:
    """One line per method and backbone; colours follow the profile's order, dashes tell its backbones apart."""
    names = {key: name for name, key in METHOD_KEYS.items()}
    backbones = list(profile.tables.blocks.values())
    for number, (method, backbone) in enumerate(dict.fromkeys((c.run.method, c.run.backbone) for c in curves)):
        own = tuple(c for c in curves if (c.run.method, c.run.backbone) == (method, backbone))
        label = names.get(method, method) + ("" if backbone == NO_BACKBONE else f" ({backbone})")
        dash = DASHED if backbone in backbones[1:] else SOLID
        yield Line(label, PALETTE[number % len(PALETTE)], dash, own)


def _notes(profile: Profile, curves: Sequence[Curve], lines: Sequence[Line]) -> str:
    if not curves:
        return "No method of this profile trains in epochs."
    staged = [line.label for line in lines if any(curve.in_stages for curve in line.curves)]
    sentences = [
        "Validation NDCG@10 chooses the epoch; methods may use different subsets of the validation cases.",
        "Losses of different methods are on different scales; the axis is logarithmic where they are far apart.",
        f"{', '.join(staged)}: the stage that was kept, which may start from parts trained before." if staged else "",
        "Thick lines are means over seeds, up to the epoch that all seeds reached." if len(profile.seeds) > 1 else "",
        comparability(profile),
    ]
    return " ".join(sentence for sentence in sentences if sentence)
