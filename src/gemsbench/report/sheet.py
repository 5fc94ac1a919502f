"""A sheet of small multiples: a title with notes and a legend, then rows of panels under a heading each."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

# Inches: one panel, the gap right of it, the space above a row, the edges of the sheet, a line of text, a legend entry.
WIDTH, HEIGHT, GAP, ABOVE = 2.75, 1.7, 0.5, 1.1
LEFT, RIGHT, BOTTOM, TEXT, ENTRY = 0.55, 0.2, 0.45, 0.19, 2.4
TITLE, TITLE_LETTERS = 0.26, 8.5  # height of a line of the title, letters per inch
LETTERS = 14.2  # of the notes per inch


class Sheet:
    """A figure whose sizes are in inches, so that rows look alike whatever their number."""

    def __init__(self, title: str, notes: str, handles: Sequence[Artist], rows: int, columns: int) -> None:
        from matplotlib.figure import Figure

        width = LEFT + columns * (WIDTH + GAP) - GAP + RIGHT
        titles = textwrap.wrap(title, int((width - LEFT - RIGHT) * TITLE_LETTERS))
        wrapped = textwrap.wrap(notes, int((width - LEFT - RIGHT) * LETTERS))
        per_line = max(1, int((width - LEFT) / ENTRY))
        notes_top = 0.2 + TITLE * len(titles)
        legend_top = notes_top + 0.15 + TEXT * len(wrapped)
        self._top = legend_top + TEXT * -(-len(handles) // per_line) - 0.35  # of the next row
        self._size = width, self._top + rows * (ABOVE + HEIGHT) + BOTTOM
        self.figure = Figure(figsize=self._size)
        below: dict[str, Any] = {"va": "top", "linespacing": 1.3}
        self.figure.text(*self._place(LEFT, 0.15), "\n".join(titles), fontsize=14, fontweight="bold", **below)
        self.figure.text(*self._place(LEFT, notes_top), "\n".join(wrapped), color="#444444", **below)
        if handles:
            self.figure.legend(
                handles=list(handles),
                loc="upper left",
                bbox_to_anchor=self._place(LEFT, legend_top),
                ncols=per_line,
                frameon=False,
                borderpad=0,
                borderaxespad=0,
            )

    def row(self, heading: str, columns: int) -> list[Axes]:
        """The next row: its heading and this many panels over the whole width."""
        self.figure.text(*self._place(LEFT, self._top + 0.72), heading, fontsize=10.5, fontweight="bold")
        wide = (self._size[0] - LEFT - RIGHT + GAP) / columns
        left, bottom = self._place(LEFT, self._top + ABOVE + HEIGHT)
        size = ((wide - GAP) / self._size[0], HEIGHT / self._size[1])
        self._top += ABOVE + HEIGHT
        return [
            self.figure.add_axes((left + column * wide / self._size[0], bottom, *size)) for column in range(columns)
        ]

    def _place(self, right: float, down: float) -> tuple[float, float]:
        """Inches from the upper left corner as the fractions that matplotlib wants."""
        return right / self._size[0], 1 - down / self._size[1]
