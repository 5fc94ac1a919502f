"""Tuners: which parameters of a backbone are trained, with which learning rates, and how the result is saved.

What a tuner must offer is in `contract`; names are bound to tuners in `gemsbench.registry`.
"""
