"""The recipe `kindle-2014`: the dataset of the search-and-recommendation literature (SESRec, UniSAR, GenSAR)."""

from __future__ import annotations

from gemsbench.data.amazon import K_CORE, AmazonSettings, load
from gemsbench.data.electronics import CITATION, LICENCE
from gemsbench.data.recipe import Recipe

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
)
