"""Identifiers: items as short sequences of discrete codes, and the tokens that stand for the codes."""
