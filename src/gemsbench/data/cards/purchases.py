"""Cards of the recipes of Amazon purchases."""

from __future__ import annotations

from gemsbench.data.cards.card import Card

# Every recipe that is cut from purchases the same way says the same of it.
PURCHASES = (
    "Every review is a purchase, whatever its rating; of repeated reviews of a product by one person the first counts.",
    "Users and products with fewer than five purchases are taken out, again and again, until everyone left has five "
    "(5-core).",
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
    "Of each user's training cases the last is kept and, drawn by a seeded hash, 30 % of the others.",
)
MADE_UP_SEARCHES = (
    "Nobody typed these queries: they are category names, and a search is a copy of a purchase. A method that matches "
    "query and category does well; the table of sanity rows shows how well.",
    "Times are days. What was bought on the target's day is left out of its history, so histories are shorter than "
    "those of work that keeps it.",
    "Product descriptions are of 2014 or earlier; some are empty or hold only advertising.",
)

SIMULATED_AMAZON = Card(
    about="Purchases that a program made up: people with a few favourite topics, products with skewed popularity, "
    "written as files of the release of 2014 with its oddities (missing fields, several category paths, entities).",
    cut=(
        "As electronics-2014: first review of each product, 5-core, searches made from category paths, the last "
        "purchase test and the last but one validation, histories strictly earlier.",
    ),
    flaws=(
        "Tastes, texts and dates follow simple rules; no number on it says anything about real people.",
        "Nobody typed the queries: they are category names.",
    ),
)

ELECTRONICS_2014 = Card(
    about="Purchases of electronics on Amazon (reviews up to July 2014, products with at least five reviews by "
    "people with at least five), with titles, descriptions, brands and category paths of the products.",
    cut=(*PURCHASES, *SEARCHES, *SUBSAMPLE),
    flaws=(
        *MADE_UP_SEARCHES,
        "Table 4 of arXiv 2601.09496 prints 62,909 users and 158,296 items, which this file of 63,001 products "
        "cannot give; the two columns are very likely exchanged, and its interactions count cases. Our counts are "
        "printed beside it both ways.",
        "The released code starts from searches for three of four purchases and filters products and users further; "
        "this recipe takes from it only the least history and the share of training cases. On simulated files of true "
        "size it has about a third more cases than Table 4 counts.",
    ),
)

ELECTRONICS_2014_REFERENCE = Card(
    about="The purchases of electronics on Amazon (reviews up to July 2014) with the searches that Ai et al. "
    "made of them, cut as the code released with arXiv 2601.09496 cuts them. For comparison with published "
    "numbers only.",
    cut=(
        "Every review is a purchase. Every user and product that the files of Ai et al. name together is a "
        "search, at the time of the review, with one of its queries drawn at random; for about a quarter of the "
        "reviews there is none.",
        "Products with a title or a description, of any length; users with purchases and searches.",
        "A user's events are ordered by day; on one day all purchases come before all searches, each by product.",
        "An event needs an earlier purchase and an earlier search of its user; per task a user needs three such "
        "events. Per task the last event is test, the last but one validation.",
        "A history is all that stands before the event among the user's training events, then the validation, "
        "then the test events. If the very last of it has the event's product, that one is left out. Examples "
        "with fewer than five events are dropped.",
        "Of each user's training examples the one with the longest history and 30 % of the others are kept.",
        "Histories are cut to the last 20 events; those of recommendation then keep their purchases only.",
        "99 negatives are drawn uniformly from the products of the examples of the same and earlier splits, "
        "without the example's own history and target.",
    ),
    flaws=(
        "Many searches have their target in their own history (the purchase that the search was made of): a method "
        "that copies it is right. The statistics print how many. Nothing made with this recipe stands beside our "
        "other numbers.",
        "Queries are stemmed category names that nobody typed.",
        "Two tasks are split separately: what is test in one is training data in the other.",
        "The files that the authors started from are not public. The released code is known, GenSAR's item filter "
        "(texts under 2,000 characters) cannot be theirs: it leaves fewer products than their table counts.",
        "Their random draws depend on library versions; ours are drawn anew from the recipe's seed. Their "
        "validation sets had no negatives, and their recommendation negatives avoided the searches of the last 20 "
        "events too.",
    ),
)

ELECTRONICS_2018 = Card(
    about="Purchases of electronics on Amazon (reviews up to October 2018, products with at least five reviews by "
    "people with at least five), with titles, descriptions, features, brands and one category path per product.",
    cut=(
        *PURCHASES,
        "A category path ends before the first element that holds a tag, is longer than 60 characters or ends with "
        "a full stop: page fragments and product features leak into it.",
        "Text is title, description, features and brand (without the page's 'by' before it); a title that is a page's "
        "script counts as missing.",
        *SEARCHES,
        *SUBSAMPLE,
    ),
    flaws=(
        "No count of this file is pinned: none could be checked against the file itself.",
        "Short product features without a full stop stay in some category paths and so in the queries. The rule on "
        "full stops is ours; a category that ends with one would be cut too.",
        *MADE_UP_SEARCHES[:2],
    ),
)

KINDLE_2014 = Card(
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
)
