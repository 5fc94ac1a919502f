"""Cards of the small real datasets and of the user's own data."""

from __future__ import annotations

from gemsbench.data.cards.card import Card

JOURNEY_SMALL = Card(
    about="A sample of the grocery purchases of 2,377 households in 2017, with departments, categories, product "
    "types and package sizes. Real purchases; the searches are made from them.",
    cut=(
        "Of repeated purchases of a product by a household the first counts.",
        "Households and products with fewer than five purchases are taken out until none is left (5-core).",
        "A query is department and product category: letters only, lower case, stop words dropped, the last of "
        "repeated words kept. Every purchase whose product has a query gets a search twin with it.",
        "The text of a product is its type, package size and brand, without what makes the query.",
        "A household's last purchase is test, the last but one validation, in both tasks; a seeded hash orders "
        "what was bought at the same second.",
        "A history holds what was bought strictly earlier, never the target's own product; a purchase and its "
        "search are one entry.",
    ),
    flaws=(
        "Nobody typed these queries: a search is a copy of a purchase.",
        "There are no product names: only 1,850 distinct texts for 3,299 products, so methods that read text "
        "cannot tell many of them apart.",
        "45 % of the purchases share their second with another one of the same basket; neither is in the history "
        "of the other.",
        "The clock of the shops is read as UTC.",
    ),
)

LASTFM_SMALL = Card(
    about="Artists that 1,892 users of Last.fm listened to, and the free-text tags they gave to artists, up to "
    "2011. Listening stands for the recommendation, a tag for a search that leads to the tagged artist.",
    cut=(
        "Tag assignments before 2005 and of unknown artists are dropped.",
        "Artists with fewer than five users over both behaviours and users with fewer than three artists in either "
        "are taken out until none is left.",
        "Of several tags of a user for one artist one is drawn by a seeded hash.",
        "Per user and task the last event is test, the last but one validation; what is held out in one task is "
        "taken out of the training of the other.",
        "A history holds what is earlier, never the target artist.",
    ),
    flaws=(
        "Listening has no time: its events get one drawn by a seeded hash, so that no order can be learned.",
        "Tags have the month only.",
        "Tagging is not searching: some tags are personal marks, and few describe one artist.",
        "The only text of an artist is the name.",
        "29 % of the tagged artists were also listened to by the same user.",
    ),
)

MOVIELENS_SMALL = Card(
    about="Ratings of films by 610 users of MovieLens, 1996 to 2018, with titles and genres, and a few thousand "
    "free-text tags. A rating, whatever its value, stands for a purchase.",
    cut=(
        "Users and films with fewer than five ratings are taken out until none is left (5-core).",
        "A query is the list of genres: letters only, lower case, stop words dropped, the last of repeated words "
        "kept. A rating of a film with two genres or more gets a search twin; a tag of the user for the film is "
        "its query where there is one.",
        "A user's last rating is test, the last but one validation, in both tasks; a seeded hash orders equal times.",
        "A history holds what is strictly earlier, never the target film; a rating and its search are one entry.",
    ),
    flaws=(
        "Nearly all queries are lists of genres that nobody typed, and a search is a copy of a rating.",
        "People rate many films in one sitting, so that times say when somebody rated, not when they watched.",
        "Only 58 users gave tags, one of them two fifths of all.",
    ),
)

CANONICAL = Card(
    about="The user's own log: interactions, items and, where there are any, queries, read from parquet files.",
    cut=(
        "All interactions are kept; repeated ones of a user, item, task and query count once.",
        "A purchase and a search of the same user, item and time are one purchase and its search.",
        "Per user and task the last event is test, the last but one validation; what is held out in one task is "
        "taken out of the training of the other.",
        "A history holds what is strictly earlier, never the target's own item.",
    ),
    flaws=("Nothing is filtered: users with fewer than three events of a task are learned from and never asked.",),
)
