"""BSR: one generative model for both tasks with atomic item identifiers (Penha et al., RecSys 2024, arXiv 2410.16823).

Each item is one new token; the model reads the common prompt (task, history, query) and is trained to write the
target's token, on training searches and recommendations together, in their natural proportion and with equal weights.
What we changed, and why: the common prompt of all generative methods with behaviour tags and the user's history in
searches too (the paper's searches are the query alone); learning rates and epochs are ours, because the paper's
are not in its abstract and no code of it is public. Full fine-tuning on T5; on Qwen2 LoRA with trained new rows.
Known weakness: of items that no training case contains the input row stays as drawn and the output row is only ever
pushed away, so nothing is learned of them; `diagnostics.json` reports their share and the accuracy with and without
them.
Cost: one encoder pass and one decoder step per case, whatever the number of candidates; |I| new rows of the
embedding matrix (twice on T5, whose output layer is untied).
"""

from __future__ import annotations

from gemsbench.methods.identifier_method import IdentifierMethod


class BSR(IdentifierMethod):
    """Scheme atomic, both tasks, token cross-entropy, the usual tuner of each backbone."""
