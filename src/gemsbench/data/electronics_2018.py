"""The recipe `electronics-2018`: the later release, for comparison with `electronics-2014`."""

from __future__ import annotations

from gemsbench.data.amazon import K_CORE, AmazonSettings
from gemsbench.data.amazon_2018 import load
from gemsbench.data.electronics import LICENCE, MADE_UP_SEARCHES, PURCHASES, SEARCHES, SUBSAMPLE
from gemsbench.data.recipe import Card, CaseRules, Recipe

RECIPE = Recipe(
    name="electronics-2018",
    title="Amazon Electronics (2018)",
    settings=AmazonSettings,
    load=load,
    split_unit="pair",
    time_kind={"rec": "day", "src": "day"},
    licence=LICENCE,
    citation="Ni, Li and McAuley, EMNLP 2019",
    sources=("electronics-2018",),
    k_core=K_CORE,
    cases=CaseRules(min_history=5, train_share=0.3),
    card=Card(
        about="Purchases of electronics on Amazon (reviews up to October 2018, products with at least five reviews by "
        "people with at least five), with titles, descriptions, features, brands and one category path per product.",
        cut=(
            *PURCHASES,
            "A category path ends before the first element that holds a tag, is longer than 60 characters or ends with "
            "a full stop: page fragments and product features leak into it.",
            "Text is title, description, features and brand; a title that is a page's script counts as missing.",
            *SEARCHES,
            *SUBSAMPLE,
        ),
        flaws=(
            "No count of this file is pinned: none could be checked against the file itself.",
            'Short product features ("No expiration, no fees.") stay in some category paths and so in the queries.',
            *MADE_UP_SEARCHES[:2],
        ),
    ),
)
