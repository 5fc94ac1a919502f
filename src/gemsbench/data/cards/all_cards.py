"""The card of every registered recipe, by name."""

from __future__ import annotations

from collections.abc import Mapping

from gemsbench.data.cards import purchases, requests, small
from gemsbench.data.cards.card import Card

CARDS: Mapping[str, Card] = {
    "simulated-amazon": purchases.SIMULATED_AMAZON,
    "simulated-qilin": requests.SIMULATED_QILIN,
    "journey-small": small.JOURNEY_SMALL,
    "lastfm-small": small.LASTFM_SMALL,
    "movielens-small": small.MOVIELENS_SMALL,
    "electronics-2014": purchases.ELECTRONICS_2014,
    "electronics-2014-reference": purchases.ELECTRONICS_2014_REFERENCE,
    "electronics-2018": purchases.ELECTRONICS_2018,
    "kindle-2014": purchases.KINDLE_2014,
    "qilin": requests.QILIN,
    "qilin-reference": requests.QILIN_REFERENCE,
    "canonical": small.CANONICAL,
}
