"""The recipe `electronics-2014`: purchases of Amazon Electronics and the searches made from their categories.

Filters, split and the share of training cases are those of the code that arXiv 2601.09496 released; history, leakage
and candidate rules are those of every recipe here.
"""

from __future__ import annotations

from gemsbench.data.amazon import K_CORE, AmazonSettings, load
from gemsbench.data.recipe import Card, CaseRules, Recipe

LICENCE = "none stated: published for research, not to be redistributed"
CITATION = "He and McAuley, WWW 2016; McAuley, Targett, Shi and van den Hengel, SIGIR 2015"
# Every recipe that is cut from purchases the same way says the same of it.
PURCHASES = (
    "Every review is a purchase, whatever its rating; of repeated reviews of a product by one person the first counts.",
    "Users and products with fewer than five purchases are taken out until none is left (5-core).",
)
SEARCHES = (
    "A query is made of each category path of two or more levels: letters only, lower case, stop words dropped, the "
    "last of repeated words kept (after Ai et al., SIGIR 2017, without stemming). A purchase whose product has queries "
    "gets a search twin with one of them, chosen by a seeded hash.",
    "Users without any search are taken out.",
    "A user's last purchase is test, the last but one validation, in both tasks; a seeded hash orders a day.",
    "A history holds what is earlier than the target's day, never the target's own product; a purchase and its search "
    "are one entry.",
)
SUBSAMPLE = (
    "A case needs five events before its target, a purchase and its search counted as two.",
    "Of each user's training cases 30 % are kept, drawn by a seeded hash, and always the last one.",
)
MADE_UP_SEARCHES = (
    "Nobody typed these queries: they are category names, and a search is a copy of a purchase. A method that matches "
    "query and category does well; the table of sanity rows shows how well.",
    "Times are days. What was bought on the target's day is left out of its history, so histories are shorter than "
    "those of work that keeps it.",
    "Product descriptions are of 2014 or earlier; some are empty or hold only advertising.",
)

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
    card=Card(
        about="Purchases of electronics on Amazon (reviews up to July 2014, products with at least five reviews by "
        "people with at least five), with titles, descriptions, brands and category paths of the products.",
        cut=(*PURCHASES, *SEARCHES, *SUBSAMPLE),
        flaws=(
            *MADE_UP_SEARCHES,
            "Table 4 of arXiv 2601.09496 prints 62,909 users and 158,296 items, which this file of 63,001 products "
            "cannot give; the two columns are very likely exchanged, and its interactions count cases. Our counts are "
            "printed beside it both ways.",
        ),
    ),
)
