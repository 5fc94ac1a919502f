"""Who likes what: topics in a category tree, communities of taste, items with skewed popularity, and dated purchases.

A user belongs to a community and favours a few of its topics; interest moves slowly from the first favourite to the
last. Purchases come in days, several a day, mostly of one topic. So neighbours in taste predict a purchase better than
popularity does, and popularity better than chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from gemsbench.data.simulation.shopping_habits import Habits
from gemsbench.errors import InputError
from gemsbench.seeds import stream

IntArray: TypeAlias = npt.NDArray[np.int64]
FloatArray: TypeAlias = npt.NDArray[np.float64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

FAVOURITES = 3  # topics a user favours
_COMMUNITY_TOPICS = 6
_SKEW = 0.6  # Zipf exponent of the items' popularity
_ON_TASTE = 0.85  # share of choices from the favourites
_NEW_DAY = 0.55  # the other purchases share the day of the one before
_DAY = 86_400
_FIRST_DAY, _LAST_DAY = 10_957, 16_270  # days since 1970: 2000-01-01, 2014-07-19


_BUYERS_PER_ITEM = 12


@dataclass(frozen=True)
class WorldSettings:
    """Size of the simulated purchase log; the real Electronics 5-core is 192403, 63001, 498196, 960, 60, 8.8."""

    users: int = 750
    items: int = 550  # that are bought; the k-core leaves slightly fewer of both
    listed_items: int = 660  # products with a metadata line, bought or not
    topics: int = 48  # leaves of the category tree, at most 960
    communities: int = 10
    mean_purchases: float = 9.0  # of a user; more where few users must keep every item in the k-core

    @property
    def purchases_per_user(self) -> float:
        """Mean purchases of a user: as set, or what gives the items enough buyers on average to survive a 5-core."""
        return max(self.mean_purchases, _BUYERS_PER_ITEM * self.items / max(self.users, 1))


@dataclass(frozen=True)
class World:
    """Tastes and items. Users, items and topics are numbered from 0."""

    item_topic: IntArray  # [items]
    item_weight: FloatArray  # [items], popularity
    topic_weight: FloatArray  # [topics], sums to 1
    favourites: IntArray  # [users, FAVOURITES], topics


def make_world(users: int, items: int, topics: int, communities: int, rng: np.random.Generator) -> World:
    """Draw tastes and items; raises InputError when a size makes no sense."""
    if min(users, items, topics, communities) < 1 or items < topics:
        raise InputError(
            f"simulated world: {users} users, {items} items, {topics} topics, {communities} communities: "
            "each must be at least 1, and items at least the number of topics."
        )
    topic_weight = _zipf(topics, 0.3)
    width = min(_COMMUNITY_TOPICS, topics)
    community_topics = np.argsort(rng.random((communities, topics)) / topic_weight, axis=1)[:, :width]
    community = rng.choice(communities, size=users, p=_zipf(communities, 0.4))
    picks = np.argsort(rng.random((users, width)), axis=1)[:, : min(FAVOURITES, width)]
    favourites = community_topics[community[:, None], picks]
    demand = np.bincount(favourites.ravel(), minlength=topics) / favourites.size
    supply = _ON_TASTE * demand + (1 - _ON_TASTE) * topic_weight  # what sells is made in many kinds
    item_topic = np.concatenate([np.arange(topics), rng.choice(topics, size=items - topics, p=supply / supply.sum())])
    return World(item_topic, rng.permutation(_zipf(items, _SKEW)), topic_weight, favourites)


def _zipf(n: int, exponent: float) -> FloatArray:
    weight: FloatArray = np.arange(1, n + 1, dtype=np.float64) ** -exponent
    weight /= weight.sum()
    return weight


def choose_topics(world: World, user: IntArray, phase: FloatArray, rng: np.random.Generator) -> IntArray:
    """A topic for each choice of a user; phase in [0, 1) is how far in the user's life the choice is made."""
    width = world.favourites.shape[1]
    favourite = np.floor(np.clip(phase + rng.normal(0.0, 0.35, user.size), 0.0, 0.999) * width).astype(np.int64)
    topic: IntArray = world.favourites[user, favourite]
    off_taste = rng.random(user.size) >= _ON_TASTE
    topic[off_taste] = rng.choice(world.topic_weight.size, size=int(off_taste.sum()), p=world.topic_weight)
    return topic


class ItemChooser:
    """Draws items of given topics by popularity, for millions of draws at once."""

    def __init__(self, world: World) -> None:
        self._order = np.argsort(world.item_topic, kind="stable")
        self._cumulative = np.concatenate([[0.0], np.cumsum(world.item_weight[self._order])])
        self._starts = np.searchsorted(world.item_topic[self._order], np.arange(world.topic_weight.size + 1))

    def choose(self, topic: IntArray, rng: np.random.Generator) -> IntArray:
        """One item per entry of topic."""
        low, high = self._cumulative[self._starts[topic]], self._cumulative[self._starts[topic + 1]]
        point = low + rng.random(topic.size) * (high - low)
        place = np.searchsorted(self._cumulative, point, side="right") - 1
        item: IntArray = self._order[np.clip(place, self._starts[topic], self._starts[topic + 1] - 1)]
        return item


def purchases(world: World, mean: float, shortest: int, seed: int, habits: Habits | None = None) -> pl.DataFrame:
    """Dated purchases, an item once per user: user, item (int64), day (int64 seconds at 00:00 UTC), rating (int8).

    habits, where given, say how many purchases a user makes and how they share days, in place of mean.
    """
    rng = stream(seed, "purchases")
    users = world.favourites.shape[0]
    wanted = habits.lengths(users, shortest, rng) if habits else _lengths(users, mean, shortest, rng)
    draws = np.ceil(wanted * 1.5).astype(np.int64) + 3  # repeats are dropped below
    user = np.repeat(np.arange(users), draws)
    place = np.arange(user.size) - np.repeat(np.cumsum(draws) - draws, draws)
    started = habits.starts_day(user, rng) if habits else rng.random(user.size) < _NEW_DAY
    new_day = started | (place == 0)
    day = _days(user, place, new_day, rng, habits.longest if habits else 0)
    topic = choose_topics(world, user, place / draws[user], rng)
    of_day = np.maximum.accumulate(np.where(new_day, np.arange(user.size), 0))
    topic = np.where(rng.random(user.size) < 0.5, topic[of_day], topic)  # one errand, one topic
    log = pl.DataFrame(
        {"user": user, "item": ItemChooser(world).choose(topic, rng), "day": day * _DAY, "wanted": wanted[user]}
    )
    rating = rng.choice(np.arange(1, 6, dtype=np.int8), size=log.height, p=[0.06, 0.05, 0.09, 0.21, 0.59])
    return (
        log.with_columns(pl.Series("rating", rating))
        .unique(["user", "item"], keep="first", maintain_order=True)
        .filter(pl.int_range(pl.len()).over("user") < pl.col("wanted"))
        .drop("wanted")
    )


def _lengths(users: int, mean: float, shortest: int, rng: np.random.Generator) -> IntArray:
    """Purchases per user: at least `shortest`, with a long tail."""
    extra = rng.lognormal(0.0, 1.1, users)
    extra *= max(mean - shortest, 0.0) / np.exp(0.605)
    return shortest + np.minimum(np.rint(extra), 400).astype(np.int64)


def _days(user: IntArray, place: IntArray, new_day: BoolArray, rng: np.random.Generator, longest: int) -> IntArray:
    """Days since 1970; with longest, the time of a user who takes more days than that is compressed."""
    gap = np.where(new_day & (place > 0), rng.geometric(1 / 45, user.size), 0)
    gap[place == 0] = 0
    total = np.cumsum(gap)
    start_of_user = total[place == 0][user]
    since = total - start_of_user
    if longest:
        last = np.zeros(int(user[-1]) + 1, dtype=np.int64)
        np.maximum.at(last, user, since)
        since = (since * np.minimum(1.0, longest / np.maximum(last, 1))[user]).astype(np.int64)
    first = rng.integers(_FIRST_DAY, _LAST_DAY - 1_500, size=int(user[-1]) + 1)
    days: IntArray = np.minimum(first[user] + since, _LAST_DAY)
    return days
