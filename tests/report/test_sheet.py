"""A sheet keeps its words and panels inside the page and apart, however few or many there are."""

from __future__ import annotations

from itertools import pairwise

import matplotlib
import pytest
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.lines import Line2D

from gemsbench.report.sheet import Sheet
from gemsbench.report.training_panels import STYLE

WORDS = "Numbers of one method compare with each other, those of different methods only roughly so. " * 5


@pytest.mark.parametrize("columns", [2, 4, 6])
@pytest.mark.parametrize("entries", [0, 3, 14])
@pytest.mark.parametrize("title", ["Short", "Curves of profile a-name-that-is-long: validation, not test results"])
def test_nothing_leaves_the_page_or_overlaps(columns: int, entries: int, title: str) -> None:
    handles = [Line2D([], [], label=f"Sem-BSR (qwen-mini {n})") for n in range(entries)]
    with matplotlib.rc_context(STYLE):
        sheet = Sheet(title, WORDS, handles, 2, columns)
        rows = [sheet.row("First", columns), sheet.row("Second", 2)]
        canvas = FigureCanvasAgg(sheet.figure)
        canvas.draw()
    page = sheet.figure.bbox
    title_text, notes, *headings = sheet.figure.texts
    body = [headings[0], rows[0][0], headings[1], rows[1][0]]
    blocks: list[Artist] = [title_text, notes, *sheet.figure.legends, *body]
    boxes = [block.get_window_extent() for block in blocks]
    for box in (*boxes, *(axes.get_window_extent() for row in rows for axes in row)):
        assert page.x0 <= box.x0 < box.x1 <= page.x1
        assert page.y0 <= box.y0 < box.y1 <= page.y1
    for upper, lower in pairwise(boxes):
        assert upper.y0 >= lower.y1
    for row in rows:
        for left, right in pairwise(axes.get_window_extent() for axes in row):
            assert left.x1 < right.x0
