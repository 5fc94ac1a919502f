"""The sentences of the encyclopedia: for every kind of article its statements, each in several wordings.

A wording is a format string; a slot stands for one of the values that the article's subject has for it. The first
statement of a kind opens the article. Every sentence begins with a capital, whatever its first slot holds.
"""

from __future__ import annotations

Statement = tuple[str, ...]  # wordings of the same statement

# What a modifier of a product or a note says, besides its name.
MEANINGS: dict[str, tuple[str, ...]] = {
    "Wireless": ("works without a cord", "sends by radio", "needs no wire"),
    "Portable": ("is light enough to carry", "travels well", "fits in a bag"),
    "Compact": ("takes up little room", "is smaller than most", "suits a narrow shelf"),
    "Digital": ("counts in numbers", "shows figures on a screen", "stores what it measures"),
    "Professional": ("is built for daily work", "is meant for experts", "costs more and lasts longer"),
    "Outdoor": ("stands rain and wind", "is used in the open air", "does not mind the cold"),
    "Rechargeable": ("fills up overnight", "can be charged a thousand times", "saves throwing cells away"),
    "Waterproof": ("keeps water out", "may fall into a lake", "is sealed at every joint"),
    "Replacement": ("takes the place of a worn part", "fits where the old one was", "is sold as a spare"),
    "Miniature": ("is as small as a coin", "hides in a hand", "is the smallest of its kind"),
    "Easy": ("takes little skill", "is soon learned", "hardly ever fails"),
    "Budget": ("costs little", "saves money", "is for those who count every coin"),
    "Weekend": ("is for Saturday and Sunday", "fills two free days", "waits until work is done"),
    "Beginner": ("starts from nothing", "explains every step", "is meant for the first time"),
    "Seasonal": ("changes with spring and autumn", "comes back every year", "follows the weather"),
    "Favourite": ("is liked best of all", "is chosen again and again", "never grows old"),
    "Quiet": ("makes no noise", "calms the mind", "suits a late hour"),
    "Colourful": ("is bright in every part", "mixes red, yellow and blue", "cheers up a grey day"),
}  # fmt: skip

# Slots that every article has.
FILLERS: dict[str, tuple[str, ...]] = {
    "often": ("often", "usually", "mostly", "as a rule", "in general", "nearly always", "in most cases"),
    "good": ("good", "fine", "solid", "useful", "proper", "sound", "fair"),
    "large": ("large", "wide", "old", "well known", "busy", "growing", "varied"),
    "matter": ("matters", "counts", "decides", "is asked for", "comes first", "makes the difference"),
    "writer": ("a guide", "a handbook", "a test report", "an old catalogue", "a magazine", "a teacher", "a shop sign"),
    "says": ("explains", "mentions", "describes", "stresses", "notes", "repeats"),
    "while": ("while", "whereas", "and", "but"),
}

_PITCH: Statement = (
    "{pitch} {word} and {word} {ending} This {name} item has {feature}.",
    "{pitch} {word} and {word} {ending} It has {feature}.",
    "A typical description reads: {pitch} {word} and {word} {ending}",
)
_WORDS: Statement = (
    "With {name}, {word} {matter}, and so does {word}.",
    "Whoever chooses {a_one} thinks of {word} and {word}.",
    "{writer} on {name} {says} {word}, {word} and {word}.",
    "Texts about {name} {often} speak of {word} and {word}.",
    "The words {word} and {word} belong to {name}.",
    "What {word} is to {a_one}, {word} is as well.",
)
_PITCH_OF_NOTE: Statement = (
    "A note may be called: {opening} {name}.",
    "{opening} {name}: a {word} & a {word}, {ending}",
    "{opening} {name}, reads one title; a {word} & a {word}, {ending} #{group}#",
    "{opening} {word} is a title too, and the text says {ending}",
)

PHRASES: dict[str, tuple[Statement, ...]] = {
    "topic": (
        (
            "{name} are {group} that belong to {department}.",
            "{a_one} is a kind of {product} and is sold in {department}.",
            "In {department}, under {group}, the shop keeps {name}.",
        ),
        _WORDS,
        _WORDS,
        _PITCH,
        (
            "{a_one} {meaning}.",
            "It is called {modifier} because it {meaning}.",
            "{modifier} means that it {meaning} and {meaning}.",
        ),
        (
            "See also {sibling} and other {group}.",
            "Close to {name} are {sibling}.",
            "{name} stand beside {sibling}, {while} both are {group}.",
            "Those who need no {modifier} {product} read about {sibling}.",
        ),
        (
            "{a_one} {often} comes with {feature}.",
            "{feature} and {feature} are common among {name}.",
            "Look for {feature} when you compare {name}.",
        ),
        (
            "A {good} {product} of this kind weighs about {grams} grams and is {colour}.",
            "The first {name} were sold in {year}; they were {colour}.",
            "Most are {colour}, cost about {price} dollars and weigh {grams} grams.",
        ),
        (
            'A title may be "{brand} {Title} {number}, {colour}".',
            "{brand} {Title} {number}, {colour}: {often} this is how {a_one} is named.",
        ),
        (
            "The index lists {name} as: {query}.",
            "To find {name}, type {query}.",
            "{query} is the search that leads here.",
        ),
        (
            "The box holds {a_one}, a case and the owner's manual.",
            "The owner's manual is included with every {one}.",
            "A {generic} with a 7\" screen & case is {often} a {one} as well.",
        ),
    ),
    "group": (
        (
            "{name} are products of {department}.",
            "{a_one} is sold in {department}.",
            "{department} is the department of {name}.",
        ),
        _WORDS,
        (
            "There are {modifier} {name} and {modifier} {name}.",
            "A {modifier} {one} {often} costs more than a plain {one}.",
            "The most common kinds are {modifier}, {modifier} and {modifier}.",
        ),
        (
            "{department} also has {sibling} and {sibling}.",
            "{name} must not be confused with {sibling}.",
            "Beside {name} the department keeps {sibling}.",
        ),
        _PITCH,
        ("The first {name} came in {year}.", "Since {year} {name} have had {feature}."),
        ("A {good} {one} has {feature}.", "{feature} and {feature} make a {good} {one}."),
        ("The index lists {name} as: {query}.", "{query} is what one types for {name}."),
    ),
    "department": (
        ("{name} is a {large} department of Electronics.", "Electronics has a department called {name}."),
        ("It has {group} and {group}.", "{group}, {group} and {group} are sold here.", "In it one finds {group}."),
        ("Its words are {word}, {word} and {word}.", "Above all, {word} {matter} here.", "{writer} {says} {word}."),
        ("Its neighbours are {sibling} and {sibling}.", "{sibling} is another department."),
        ("Where there are {group}, there is {word}.", "With {group} come {word} and {word}."),
    ),
    "word": (
        ("{name} is a word of {department}.", "In {department} one {often} hears of {name}."),
        (
            "Those who speak of {name} speak of {group}.",
            "It {matter} with {group} and with {group}.",
            "{group} have to do with {name}, {while} {group} do not do without it.",
        ),
        ("{name} goes with {word}, and {word} goes with {word}.", "It stands beside {word} and {word}."),
        ("{writer} {says} {name} under {department}.", "{writer} on {group} {says} {name} and {word}."),
        ("Other words of {department} are {word}, {word} and {word}.", "{word} and {word} are words like it."),
    ),
    "brand": (
        ("{name} is a brand of Electronics.", "{name} makes products for every department of Electronics."),
        ("It was founded in {year}.", "Since {year} its name has stood on {group}.", "It began in {year}."),
        ("{name} is known for {feature}.", "Its products {often} have {feature}.", "It likes {colour} and {feature}."),
        ("{name} is not {sibling}, {while} both began in a garage.", "Its rivals are {sibling} and {sibling}."),
        ("There are {name} {group} and {name} {group}.", "A {name} {generic}, {colour}, may be any of its {group}."),
        ("The maker's answer to {sibling} was {feature}.", "{pitch} {word}, says its first catalogue."),
    ),
    "theme": (
        ("{name} is a {large} theme of notes.", "Many notes are about {name}."),
        ("Its subjects are {group} and {group}.", "Under {name} one reads about {group} and {group}."),
        ("Its words are {word}, {word} and {word}.", "Above all, {word} {matter} here.", "{writer} {says} {word}."),
        ("Other themes are {sibling} and {sibling}.", "{name} is not {sibling}."),
        ("Where there are {group}, there is {word}.", "Notes on {group} {often} show a {word}."),
    ),
    "subject": (
        ("{name} are a subject of {department}.", "Under {department} one reads about {name}."),
        _WORDS,
        _PITCH_OF_NOTE,
        ("{department} is also about {sibling} and {sibling}.", "Those who read of {name} may skip {sibling}."),
        ("There are {modifier} {name} and {modifier} {name}.", "The kinds are {modifier}, {modifier} and {modifier}."),
        ("To find {name}, type {name} {word}.", "{name} {word} is a search that leads here, and so is {name}."),
    ),
    "note": (
        ("{name} are {group} that belong to {department}.", "Of all {group}, {name} are the {modifier} ones."),
        _WORDS,
        _WORDS,
        _PITCH_OF_NOTE,
        ("A {modifier} idea {meaning}.", "They are called {modifier}, for such a plan {meaning}."),
        ("See also {sibling} and other {group}.", "Close to {name} are {sibling}."),
        ("To find {name}, type {name}.", "{group} {word} is a search that leads here, and so is {name}."),
        ("The first step is the {word}, the last one the {word}.", "Begin with the {word} and end with the {word}."),
        ("{name} have been in fashion since {year}.", "In {year} {writer} was the first that {says} {name}."),
    ),
    "term": (
        (
            "A shop gives recommendations and answers searches.",
            "There are two tasks: recommendation and search.",
        ),
        ("A recommendation names the item that a user will want next.", "The task of recommendation has no query."),
        ("A search has a query, and the task is to find the item that answers it.", "Query is what a user types."),
        ("History means the items of the past, the oldest first.", "A user without history has none."),
        ("Every item has an identifier.", "Give the identifier: an identifier names one item."),
        ("To interact with an item is to buy it, to click on it or to read it.", "A user will interact with the item."),
        ("An item may be {a_one} or a note about {subject}.", "For this query the shop shows {group}."),
        ("It may be {colour} and have {feature}.", "{often} the item has {feature} and is {colour}."),
        ("A {generic} is {often} {a_one}.", "The title says {generic} where it could say {one}."),
    ),
}  # fmt: skip
