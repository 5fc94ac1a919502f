"""The recipe `electronics-2014`: purchases of Amazon Electronics and the searches made from their categories.

The least history of a case and the share of training cases are those of the code that arXiv 2601.09496 released. Its
other filters (products with text, searches for three of four purchases, three events per task with both behaviours
before them) are not applied: purchases and searches are ours, as are split, history, leakage and candidate rules.
"""

from __future__ import annotations

from gemsbench.data.amazon import K_CORE, AmazonSettings, load
from gemsbench.data.recipe import CaseRules, Recipe

LICENCE = "none stated: published for research, not to be redistributed"
CITATION = "He and McAuley, WWW 2016; McAuley, Targett, Shi and van den Hengel, SIGIR 2015"

RECIPE = Recipe(
    name="electronics-2014",
    title="Amazon Electronics (2014)",
    settings=AmazonSettings,
    load=load,
    split_unit="pair",
    time_kind={"rec": "day", "src": "day"},
    licence=LICENCE,
    citation=CITATION,
    sources=("electronics-2014",),
    pins={
        "review_lines": 1_689_188,
        "users_in_reviews": 192_403,
        "items_in_reviews": 63_001,
        "metadata_lines": 498_196,
        "items_with_metadata": 63_001,
    },
    k_core=K_CORE,
    # Ai et al. made 989 queries for nearly all products: without paths the file would be another one.
    min_shares={"category_paths": 0.95},
    cases=CaseRules(min_history=5, train_share=0.3),
    paper_row="Amazon",
)
