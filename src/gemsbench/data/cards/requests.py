"""Cards of the recipes of Qilin's requests."""

from __future__ import annotations

from gemsbench.data.cards.card import Card

CUT = (
    "The four request tables are read as one log; the official partition into train and test is by request and not "
    "used.",
    "Users with at least three requests, clicked or not, in each of the two tasks are kept.",
    "At most ten rounds: users with fewer than three requests over both tasks, notes that occur fewer than three times "
    "in the clicked, shown and recently clicked lists together, and requests without any note left are dropped. A note "
    "is one note wherever it stands.",
    "The notes left in any of the three lists are the catalogue, whether or not anybody clicked them.",
    "One click is one event. Of equal clicks (user, task, note and query) the first is kept; clicks without a time and "
    "searches without a query are dropped.",
    "Users without an event of each task are dropped. Per user and task, the last request with a click left after "
    "repeated and untimed clicks are dropped is the test, the one before it the validation; of the clicks of either "
    "the one at the last position is asked. A history holds what is strictly earlier.",
)

SIMULATED_QILIN = Card(
    about="Invented searches and recommendations of a note-sharing service, drawn from a small world of tastes and "
    "topics and written in the file format of Qilin. No person and no note in it exists.",
    cut=CUT,
    flaws=(
        "Results on it say how methods behave in this world, not how well they do on real data.",
        "Almost all text is English of a few hundred words, where Qilin is Chinese.",
        "Shown notes that nobody clicked are drawn from the same world as clicked ones, so that counts after the "
        "filters are not those of the real log.",
    ),
)

QILIN = Card(
    about="Searches and feed recommendations of 15,482 users of a Chinese note-sharing service (Xiaohongshu), "
    "with the notes shown, the clicks, and the recent clicks before each request. Anonymised by its "
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
)

QILIN_REFERENCE = Card(
    about="The searches and recommendations of Qilin, cut as the released code of arXiv 2601.09496 cuts them. It "
    "exists to compare with the numbers printed there and stands in no main table.",
    cut=(
        "The four request tables are read as one log; users with at least three requests, clicked or not, in each "
        "of the two tasks are kept.",
        "At most ten rounds: users with fewer than three requests, entries that occur fewer than three times in "
        "the clicked, shown and recently clicked lists together, and requests without a clicked or shown note left "
        "are dropped. A note among the results and the same note among recent clicks are two entries.",
        "Per user and task with three requests left, the last request is the test, the one before it the "
        "validation; a user may have only one of the two tasks.",
        "Training and validation have one example per click; a test case is a request with all its clicks, or "
        "none, as targets.",
        "The history is the supplied list of recent clicks, newest first and not cut.",
        "Negatives come from all entries of the splits so far, without those of the request itself.",
    ),
    flaws=(
        "Notes are counted twice, as a number and as a text: the items of Table 4 are such entries.",
        "That number is also a random one: it counts the negatives that were drawn. The corpus has 275,526 "
        "entries, the table 275,515; what is given here is the expected number. On the real files only the corpus "
        "is pinned; that expectation has been seen on planted files alone, which were laid out to give it.",
        "Test requests without a target can never be answered, and some modes of evaluation count them.",
        "Most entries are texts that were never a training target: whether an entry was ever a target separates "
        "positives from negatives.",
        "The clicks of a request may stand in the history of a later request of the same user and also be its targets.",
    ),
)
