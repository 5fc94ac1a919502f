"""Tables of measured results: LaTeX, Markdown, HTML and JSON from one model (arXiv 2601.09496, Tables 1, 2 and 4)."""

from gemsbench.report.tables import write_tables

__all__ = ["write_tables"]
