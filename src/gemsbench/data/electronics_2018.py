"""The recipe `electronics-2018`: the later release, for comparison with `electronics-2014`."""

from __future__ import annotations

from gemsbench.data.amazon import K_CORE, AmazonSettings
from gemsbench.data.amazon_2018 import load
from gemsbench.data.electronics import LICENCE
from gemsbench.data.recipe import CaseRules, Recipe

RECIPE = Recipe(
    name="electronics-2018",
    title="Amazon Electronics (2018)",
    settings=AmazonSettings,
    load=load,
    split_unit="pair",
    time_kind={"rec": "day", "src": "day"},
    licence=LICENCE,
    citation="Ni, Li and McAuley, EMNLP 2019",
    sources=("electronics-2018",),
    k_core=K_CORE,
    cases=CaseRules(min_history=5, train_share=0.3),
)
