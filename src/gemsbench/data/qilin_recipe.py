"""qilin: the real log under our rules; the loader is that of qilin.py, the raw counts are pinned."""

from __future__ import annotations

from gemsbench.data.qilin import CUT, QilinSettings, load
from gemsbench.data.recipe import Card, Recipe

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
    card=Card(
        about="Searches and feed recommendations of 15,482 users of a Chinese note-sharing service (Xiaohongshu) in "
        "late 2024, with the notes shown, the clicks, and the recent clicks before each request. Anonymised by its "
        "publishers. Language: Chinese.",
        cut=CUT,
        flaws=(
            "The vocabulary of T5 has no Chinese: queries and texts reach it as unknown tokens. The share is reported.",
            "About a quarter of the users are left: the filter on requests in both tasks favours heavy users.",
            "A search request has several clicks; one of them is the ground truth, the others are neither in the "
            "history nor among the negatives.",
            "The lists of recent clicks mix both services and have no times: they add notes to the catalogue and "
            "nothing to the histories.",
            "Most notes of the catalogue were never clicked by a user who is left, so that how often a note was "
            "clicked in training separates many positives from negatives: compare with the popularity row.",
            "The question-answering subset (dqa) of the same publication is not used.",
        ),
    ),
)
