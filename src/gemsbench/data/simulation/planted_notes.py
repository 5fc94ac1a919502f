"""Which notes stand in the planted requests: those planned to stay, three times each, and those planned to go."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from gemsbench.data.simulation.world import BoolArray, IntArray
from gemsbench.errors import InputError

if TYPE_CHECKING:
    from gemsbench.data.simulation.planted_funnel import FunnelPlan

_STAYS = 3  # occurrences that keep an entry
_SHOWN = (2, 7)  # unclicked notes of a request that stays, from and below
_RECENT = (8, 17)
_NO_RECENT = 0.03  # share of these requests with an empty list of recent clicks
_CLICKED = {"rec": 0.9, "src": 0.6}  # share of them with a click, where there are as many clicks
_FADING = 0.02  # notes, per request that stays, that the first round still finds three times
_TWICE = 0.3  # notes, per request that stays, that are seen twice


class _Supply:
    """Hands out notes that nothing else uses."""

    def __init__(self, notes: IntArray) -> None:
        self._notes, self._used = notes, 0

    def take(self, size: int) -> IntArray:
        if self._used + size > self._notes.size:
            raise InputError(f"planted funnel: {self._notes.size} notes are too few. Plan more notes.")
        self._used += size
        return self._notes[self._used - size : self._used]


class _Lists:
    """Collects (request, note, click) of results and (request, note) of recent clicks."""

    def __init__(self) -> None:
        self._results: list[tuple[IntArray, IntArray, BoolArray]] = []
        self._recent: list[tuple[IntArray, IntArray]] = []

    def results(self, request: IntArray, note: IntArray, click: BoolArray | bool) -> None:
        self._results.append((request, note, np.broadcast_to(np.asarray(click, dtype=np.bool_), request.shape)))

    def recent(self, request: IntArray, note: IntArray) -> None:
        self._recent.append((request, note))

    def frames(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        request, note, click = (np.concatenate(part) for part in zip(*self._results, strict=True))
        results = pl.DataFrame({"request": request.astype(np.uint32), "note": note, "click": click})
        request, note = (np.concatenate(part) for part in zip(*self._recent, strict=True))
        return results, pl.DataFrame({"request": request.astype(np.uint32), "note": note}).sort("request")


def plant_notes(
    requests: pl.DataFrame, plan: FunnelPlan, rng: np.random.Generator
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Results (request, note, click) and recent clicks (request, note) of the requests of a plan.

    requests: request, task, fate, chain. Raises InputError where the requests cannot hold all planned entries.
    """
    supply, lists = _Supply(rng.permutation(plan.notes)), _Lists()
    number, text = _planned(plan, supply)
    _plant_staying(requests, plan, number, text, lists, rng)
    _plant_noise(requests, plan, number["train"], text["train"], supply, lists, rng)
    _plant_chain(requests, number["train"], supply, lists, rng)
    return lists.frames()


def _planned(plan: FunnelPlan, supply: _Supply) -> tuple[dict[str, IntArray], dict[str, IntArray]]:
    """Numbers and texts by the split in which they are new; the first `shared` of train are the same notes."""
    in_train, in_valid, in_test = plan.corpus[0], plan.corpus[1] - plan.corpus[0], plan.corpus[2] - plan.corpus[1]
    numbers = {"valid": plan.unclicked_valid, "test": plan.unclicked_test}
    texts = {"valid": in_valid - plan.unclicked_valid, "test": in_test - plan.unclicked_test}
    texts["train"] = plan.texts - texts["valid"] - texts["test"]
    numbers["train"] = in_train - texts["train"]
    if min(*numbers.values(), *texts.values(), numbers["train"] - plan.shared, texts["train"] - plan.shared) < 0:
        raise InputError(f"planted funnel: {numbers} numbers and {texts} texts by split cannot be.")
    text = {split: supply.take(size) for split, size in texts.items()}
    shared = text["train"][: plan.shared]
    number = {split: supply.take(size) for split, size in numbers.items() if split != "train"}
    number["train"] = np.concatenate([shared, supply.take(numbers["train"] - plan.shared)])
    return number, text


def _plant_staying(
    requests: pl.DataFrame,
    plan: FunnelPlan,
    number: dict[str, IntArray],
    text: dict[str, IntArray],
    lists: _Lists,
    rng: np.random.Generator,
) -> None:
    """Every planned entry three times: one new in a split stands in no earlier one."""
    places: dict[str, tuple[IntArray, IntArray, IntArray]] = {}
    for fate in ("short", "train", "valid", "test"):
        chosen = requests.filter(pl.col("fate") == fate)
        request, click = chosen["request"].to_numpy().astype(np.int64), _clicks(chosen, fate, plan, rng)
        shown = np.repeat(request, rng.integers(*_SHOWN, request.size))
        length = rng.integers(*_RECENT, request.size) * (rng.random(request.size) >= _NO_RECENT)
        places[fate] = (np.repeat(request, click), shown, np.repeat(request, length))
    third = {"number": places["short"][1].size, "text": places["short"][2].size}
    for fate, (clicked, shown, recent) in places.items():
        old_number, old_text = number["train"], text["train"]
        if fate == "short":
            # The third occurrence of some, so that requests which end in no split count in the rounds.
            wanted_number, wanted_text = old_number[-third["number"] :], old_text[-third["text"] :]
        elif fate == "train":
            wanted_number = _thrice(old_number, third["number"])
            wanted_text = _thrice(old_text, third["text"])
        else:
            wanted_number, wanted_text = _thrice(number[fate], 0), _thrice(text[fate], 0)
        if fate == "train":
            filled = _filled(clicked.size + shown.size, wanted_number, old_number, rng)
            lists.results(clicked, filled[: clicked.size], click=True)
            lists.results(shown, filled[clicked.size :], click=False)
        else:
            lists.results(clicked, rng.choice(old_number, clicked.size), click=True)
            lists.results(shown, _filled(shown.size, wanted_number, old_number, rng), click=False)
        lists.recent(recent, _filled(recent.size, wanted_text, old_text, rng))


def _clicks(chosen: pl.DataFrame, fate: str, plan: FunnelPlan, rng: np.random.Generator) -> IntArray:
    """Clicks of each request: in all as many as planned; test like valid, short requests one each."""
    count = np.ones(chosen.height, dtype=np.int64)
    if fate == "short":
        return count
    totals = plan.train_clicks if fate == "train" else plan.valid_clicks
    for task, total in totals.items():
        of = np.flatnonzero((chosen["task"] == task).to_numpy())
        some = rng.choice(of, min(total, int(np.ceil(_CLICKED[task] * of.size))), replace=False)
        further = np.bincount(rng.choice(some, total - some.size), minlength=chosen.height) if total else 0
        count[of] = 0
        count[some] = 1
        count += further
    return count


def _thrice(entries: IntArray, third_elsewhere: int) -> IntArray:
    """Each entry three times, the last ones only twice."""
    few = min(third_elsewhere, entries.size)
    return np.concatenate([np.repeat(entries, _STAYS - 1), entries[: entries.size - few]])


def _filled(size: int, wanted: IntArray, further: IntArray, rng: np.random.Generator) -> IntArray:
    """The wanted notes and as many further ones as give size, mixed."""
    if wanted.size > size:
        raise InputError(
            f"planted funnel: {wanted.size} occurrences do not fit into {size} places. Plan fewer entries."
        )
    return rng.permutation(np.concatenate([wanted, rng.choice(further, size - wanted.size)]))


def _plant_noise(
    requests: pl.DataFrame,
    plan: FunnelPlan,
    number: IntArray,
    text: IntArray,
    supply: _Supply,
    lists: _Lists,
    rng: np.random.Generator,
) -> None:
    """Notes that go, in requests that stay and in requests that go with them."""
    request = requests["request"].to_numpy().astype(np.int64)
    fate = {name: request[(requests["fate"] == name).to_numpy()] for name in ("noise", "other")}
    stays = request[requests["fate"].is_in(["train", "valid", "test", "short"]).to_numpy()]
    for click, share in ((True, 0.3), (False, 0.5)):
        some = stays[rng.random(stays.size) < share]
        lists.results(some, supply.take(some.size), click)
    lists.recent(stays, supply.take(stays.size))
    twice = np.tile(supply.take(int(_TWICE * stays.size)), 2)
    lists.results(rng.choice(stays, twice.size), twice, rng.random(twice.size) < 0.5)
    straddling = np.tile(supply.take(plan.straddling), 2)
    lists.results(rng.choice(stays, straddling.size), straddling, click=False)
    lists.recent(rng.choice(stays, straddling.size), straddling)
    lonely = np.repeat(fate["noise"], rng.integers(1, 5, fate["noise"].size))
    lists.results(lonely, supply.take(lonely.size), rng.random(lonely.size) < 0.2)
    known = np.repeat(fate["noise"], 4)
    lists.recent(known, rng.choice(text, known.size))
    fading = supply.take(min(int(_FADING * stays.size), fate["noise"].size))
    lists.recent(rng.choice(stays, 2 * fading.size), np.tile(fading, 2))
    lists.recent(rng.choice(fate["noise"], fading.size), fading)
    # What others click would keep many of these notes if the others stayed.
    busy = np.repeat(fate["other"], 3)
    lists.results(busy, rng.choice(np.concatenate([twice, number]), busy.size), rng.random(busy.size) < 0.3)
    lists.recent(fate["other"], rng.choice(np.concatenate([fading, text]), fate["other"].size))


def _plant_chain(
    requests: pl.DataFrame, number: IntArray, supply: _Supply, lists: _Lists, rng: np.random.Generator
) -> None:
    """A chain user has two recommendation requests and, from the second on, one search that needs the user before.

    The search shows a note that is seen three times only as long as the two requests of the user before are there.
    """
    links = requests.filter(pl.col("fate") == "link").sort("chain", "task")
    for link in links["chain"].unique().sort().to_list():
        two = links.filter(pl.col("chain") == link, pl.col("task") == "rec")["request"].to_numpy().astype(np.int64)
        after = links.filter(pl.col("chain") == link + 1, pl.col("task") == "src")["request"].to_numpy()
        lists.results(np.repeat(two, 2), rng.choice(number, 4), click=True)
        held = np.concatenate([two, after.astype(np.int64)])
        lists.results(held, np.repeat(supply.take(1), held.size), click=False)
