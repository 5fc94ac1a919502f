"""One file per row of the tables; every method fits on the training split and scores candidates.

What a method must offer is in `contract`; names are bound to methods in `gemsbench.registry`; `run` fits and scores.
"""
