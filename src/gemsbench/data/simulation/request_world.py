"""Requests of a note-sharing service: notes shown, notes clicked, searches and recommendations mixed in time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from gemsbench.data.simulation.world import BoolArray, FloatArray, IntArray, ItemChooser, World, choose_topics
from gemsbench.seeds import stream

_START = 1_714_521_600  # 2024-05-01 00:00 UTC
_SAME_SESSION = 0.6
_ON_TOPIC = {"src": 0.75, "rec": 0.7}  # share of shown notes that fit the query or the user's taste
_CLICK_FITTING, _CLICK_OTHER = 0.42, 0.05
_HAS_CLICK = 0.9  # share of requests in which a note is clicked for certain


@dataclass(frozen=True)
class RequestWorldSettings:
    """Size of the simulated service; the real one is 15482, 1983938, 480 (ours), 60, 3.2, 6.1, 20."""

    users: int = 650
    notes: int = 800
    topics: int = 40  # at most 480
    communities: int = 10
    mean_searches: float = 5.5  # per user, at least 1
    mean_recommendations: float = 8.0
    results: int = 10  # notes shown per request


@dataclass(frozen=True)
class Requests:
    """Requests (request, user, task, time, topic) and the notes shown in them (request, position, note, click)."""

    requests: pl.DataFrame
    shown: pl.DataFrame


def make_requests(world: World, settings: RequestWorldSettings, seed: int) -> Requests:
    """Draw all requests, ordered by user and time; times are seconds."""
    rng = stream(seed, "requests")
    searches = 1 + rng.poisson(rng.exponential(settings.mean_searches - 1, settings.users))
    recommendations = 1 + rng.poisson(rng.exponential(settings.mean_recommendations - 1, settings.users))
    total = searches + recommendations
    user = np.repeat(np.arange(settings.users), total)
    first = np.cumsum(total) - total
    place = np.arange(user.size) - first[user]
    order = np.lexsort((rng.random(user.size), user))  # a user's searches fall anywhere among the requests
    task = np.empty(user.size, dtype=np.int64)
    task[order] = place >= searches[user]
    topic = choose_topics(world, user, place / total[user], rng)
    requests = pl.DataFrame(
        {
            "request": np.arange(user.size),
            "user": user,
            "task": pl.Series(["src", "rec"]).gather(task),
            "time": _times(user, place, rng),
            "topic": topic,
        }
    )
    return Requests(requests, _shown(world, requests, settings.results, rng))


def _times(user: IntArray, place: IntArray, rng: np.random.Generator) -> IntArray:
    """Sessions of requests some minutes apart, sessions days apart."""
    minutes = rng.integers(20, 900, user.size)
    days = rng.integers(7_200, 4 * 86_400, user.size)
    gap = np.where(place == 0, 0, np.where(rng.random(user.size) < _SAME_SESSION, minutes, days))
    total = np.cumsum(gap)
    first = rng.integers(_START, _START + 20 * 86_400, size=int(user[-1]) + 1)
    times: IntArray = first[user] + total - total[place == 0][user]
    return times


def _shown(world: World, requests: pl.DataFrame, results: int, rng: np.random.Generator) -> pl.DataFrame:
    n = requests.height
    request = np.repeat(np.arange(n), results)
    position = np.tile(np.arange(results), n)
    user, topic = requests["user"].to_numpy()[request], requests["topic"].to_numpy()[request]
    searched = (requests["task"] == "src").to_numpy()[request]
    taste = choose_topics(world, user, rng.random(user.size), rng)
    fitting = rng.random(user.size) < np.where(searched, _ON_TOPIC["src"], _ON_TOPIC["rec"])
    other = rng.integers(world.topic_weight.size, size=user.size)
    note_topic = np.where(fitting, np.where(searched, topic, taste), other)
    note = ItemChooser(world).choose(note_topic, rng)
    chance = np.where(fitting, _CLICK_FITTING, _CLICK_OTHER) / (1 + 0.08 * position)
    click = _clicked(request, position, chance, fitting, rng)
    shown = pl.DataFrame({"request": request, "position": position, "note": note, "click": click.astype(np.int64)})
    return shown.unique(["request", "note"], keep="first", maintain_order=True).with_columns(
        pl.int_range(pl.len()).over("request").alias("position")
    )


def _clicked(
    request: IntArray, position: IntArray, chance: FloatArray, fitting: BoolArray, rng: np.random.Generator
) -> BoolArray:
    """Independent clicks; in most requests the first fitting note is clicked anyhow."""
    click = rng.random(request.size) < chance
    first_fitting = np.flatnonzero(fitting)[np.unique(request[fitting], return_index=True)[1]]
    certain = first_fitting[rng.random(first_fitting.size) < _HAS_CLICK]
    none = np.bincount(request, weights=click)[request[certain]] == 0
    click[certain[none]] = True
    return click
