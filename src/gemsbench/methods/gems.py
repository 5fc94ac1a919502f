"""GEMS, the paper's own row "Ours" (arXiv 2601.09496): atomic identifiers, tuned in gradient subspaces of the tasks.

Identifiers, prompts and loss are those of BSR, which makes BSR its controlled partner: only the tuner differs, that is
which weights move (here neither norms and biases nor old rows) and how. The paper does not say which identifiers it
used; its released code has one token per item, and knows T5 only. What we changed of the optimizer, and why, stands in
`gemsbench.optim` and its documents.
Cost: that of BSR, plus for every matrix and step a projection of the shared gradient, one of each task's and one
projection back, and new bases of every matrix every `update_gap` steps.
"""

from __future__ import annotations

from typing import ClassVar

from gemsbench.methods.identifier_method import IdentifierMethod


class GEMS(IdentifierMethod):
    """Scheme atomic, both tasks, token cross-entropy, and the tuner gems on both kinds of backbone."""

    tuner: ClassVar[str] = "gems"
