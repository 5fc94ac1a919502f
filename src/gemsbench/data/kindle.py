"""The recipe `kindle-2014`: the dataset of the search-and-recommendation literature (SESRec, UniSAR, GenSAR)."""

from __future__ import annotations

from gemsbench.data.amazon import K_CORE, AmazonSettings, load
from gemsbench.data.electronics import CITATION, LICENCE, MADE_UP_SEARCHES, PURCHASES, SEARCHES
from gemsbench.data.recipe import Card, Recipe

RECIPE = Recipe(
    name="kindle-2014",
    title="Amazon Kindle Store (2014)",
    settings=AmazonSettings,
    load=load,
    split_unit="pair",
    time_kind={"rec": "day", "src": "day"},
    licence=LICENCE,
    citation=CITATION,
    sources=("kindle-2014",),
    # What SESRec and UniSAR (arXiv 2305.10822, 2404.09520) report of the 5-core file; nothing more is published of it.
    pins={"users_in_reviews": 68_223, "items_in_reviews": 61_934},
    k_core=K_CORE,
    card=Card(
        about="Purchases of electronic books in Amazon's Kindle Store (reviews up to July 2014, books with at least "
        "five reviews by people with at least five).",
        cut=(*PURCHASES, *SEARCHES),
        flaws=(
            "Most books lack a title in the metadata, so their text is description and brand, or nothing at all: "
            "methods that read text are not judged fairly here. The share of books with each field is in stats.json.",
            "The literature uses files whose making was not published (30 + 30 entries of history, popular negatives); "
            "numbers on this recipe are not comparable to theirs.",
            *MADE_UP_SEARCHES,
        ),
    ),
)
