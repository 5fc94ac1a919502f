"""The four writers: escaping, marks, spans; LaTeX compiles where pdflatex is present."""

from __future__ import annotations

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gemsbench.report import html, latex, markdown, table_json
from gemsbench.report.published import published_comparison
from gemsbench.report.rows import TABLE_1, TABLE_2
from gemsbench.report.table import Block, Cell, ColumnGroup, Row, Table

NASTY = r"a&b_c%d#e$f{g}h~i^j\k<l>m|n*o[p]`q`"


def nasty_table(columns: int = 2, text: str = NASTY) -> Table:
    """Text that means something in every target language, in every place where text can stand."""
    cells = tuple(Cell(text) for _ in range(columns))
    best = Cell("0.5000", "best", True, {"value": 0.50001, "runs": ["a<b"]})
    marked = (best, Cell("0.4000", "second"), *cells[2:])
    return Table(
        name="nasty",
        title=f"Table {text}",
        caption=f"Caption {text}.",
        stub=("Task", f"Method {text}"),
        groups=(ColumnGroup(text, tuple([text] * columns), text),),
        blocks=(Block(text, (Row(text, cells), Row("plain", marked), Row("grey", cells, grey=True))),),
    )


def test_latex_escapes_every_special_character() -> None:
    assert latex.escape(NASTY) == (
        r"a\&b\_c\%d\#e\$f\{g\}h\textasciitilde{}i\textasciicircum{}j\textbackslash{}k"
        r"\textless{}l\textgreater{}m\textbar{}n*o[p]`q`"
    )


def test_latex_layout_of_the_papers_table() -> None:
    text = latex.render(published_comparison(TABLE_1))
    assert text.index(r"\caption") < text.index(r"\begin{tabular}")
    assert r"\begin{tabular}{llcccc cccc}" in text
    assert r"\multicolumn{4}{c}{Qilin} & \multicolumn{4}{c}{Amazon} \\" in text
    assert r"\cmidrule(lr){3-6}\cmidrule(lr){7-10}" in text
    assert r"\multirow{8}{*}{Recommendation} & NCF & 0.1497 &" in text
    assert r" & Ours & \textbf{0.4285*} & \textbf{0.5121*} &" in text
    assert r" & TIGER & \underline{0.2548} &" in text
    assert text.count(r"\midrule") == 2
    assert r"\documentclass" not in text


def test_markdown_escapes_and_marks() -> None:
    text = markdown.render(nasty_table())
    escaped = r"a&b\_c%d#e$f{g}h\~i^j\\k\<l\>m\|n\*o\[p\]\`q\`"
    assert f"Caption {escaped}." in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace(r"\|", "").count("|") for line in lines} == {5}
    assert r"**0.5000\***" in text
    assert "<u>0.4000</u>" in text
    assert f"*{escaped}*" in lines[-1]


def test_markdown_keeps_numbers_as_printed() -> None:
    cells = (Cell("0.8000"), Cell("1,234"))
    block = Block("", (Row("first", cells), Row("second", cells)))
    text = markdown.render(Table("t", "T", "C.", ("Dataset",), (ColumnGroup("", ("Hit@5", "Cases")),), (block,)))
    assert text.count("0.8000") == 2  # not 0.8
    assert text.count("1,234") == 2


class Page(HTMLParser):
    """Collects text and checks that tags nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.widths: list[int] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.widths.append(0)
        if tag in ("td", "th"):
            self.widths[-1] += int(dict(attrs).get("colspan") or 1)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_html_is_well_formed_and_escaped() -> None:
    text = html.page(NASTY, [nasty_table()])
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.texts.count(NASTY) >= 8  # text survives the way through a browser
    assert '<strong>0.5000<span class="star">*</span></strong>' in text
    assert "<u>0.4000</u>" in text
    assert 'title="0.50001; a&lt;b"' in text
    assert '<tr class="grey">' in text


def test_html_rows_have_equal_width() -> None:
    page = Page()
    page.feed(html.render(published_comparison(TABLE_2)))
    assert page.widths[:2] == [10, 8]  # two stub headings span both lines
    assert set(page.widths[2:]) == {10, 9}  # the task cell spans its block
    assert page.widths.count(10) == 1 + len(TABLE_2.tasks)


def test_json_keeps_order_and_text() -> None:
    record = table_json.record(nasty_table())
    assert record["columns"] == [{"group": NASTY, "name": NASTY}] * 2
    assert [row["name"] for row in record["rows"]] == [NASTY, "plain", "grey"]
    assert record["rows"][1]["cells"][0] == {
        "printed": "0.5000",
        "mark": "best",
        "star": True,
        "value": 0.50001,
        "runs": ["a<b"],
    }


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles_and_fits_the_page(tmp_path: Path) -> None:
    text = NASTY.replace("$", "")  # the dollar sign needs a font that a small installation draws first
    tables = [published_comparison(TABLE_1), published_comparison(TABLE_2), nasty_table(2, text), nasty_table(12, text)]
    names = [f"t{index}" for index in range(len(tables))]
    for name, table in zip(names, tables, strict=True):
        (tmp_path / f"{name}.tex").write_text(latex.render(table), encoding="utf-8")
    document = "\n".join(
        [
            r"\documentclass[twocolumn,10pt]{article}",
            r"\usepackage[letterpaper,margin=0.75in]{geometry}",
            r"\usepackage{booktabs,graphicx,multirow,xcolor}",
            r"\begin{document}",
            *(rf"\input{{{name}}}" for name in names),
            r"\end{document}",
        ]
    )
    (tmp_path / "all.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "all.pdf").stat().st_size > 1000
    assert "Overfull" not in done.stdout
