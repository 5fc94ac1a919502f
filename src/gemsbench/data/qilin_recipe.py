"""qilin: the real log under our rules; the loader is that of qilin.py, the raw counts are pinned."""

from __future__ import annotations

from gemsbench.data.qilin import QilinSettings, load
from gemsbench.data.recipe import Recipe

RAW_REQUESTS = {
    "raw recommendation_train": 83_437,
    "raw recommendation_test": 11_115,
    "raw search_train": 44_024,
    "raw search_test": 6_192,
}

RECIPE = Recipe(
    name="qilin",
    title="Qilin",
    settings=QilinSettings,
    load=load,
    split_unit="task",
    time_kind={"rec": "exact", "src": "exact"},
    licence="Apache-2.0 (card of the hub's dataset; the GitHub README says MIT)",
    citation="Chen et al., Qilin, SIGIR 2025, arXiv 2503.00501",
    sources=("qilin",),
    pins={**RAW_REQUESTS, "raw notes": 1_983_938, "users with 3 requests in both tasks": 3_842},
    paper_row="Qilin",
)
