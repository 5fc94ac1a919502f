"""Sem-BSR: one generative model for both tasks with joint semantic identifiers (RecSys 2025, arXiv 2508.10478).

A bi-encoder is tuned on searches and on items bought by the same users, its vectors are quantised by residual k-means,
and the codes are the identifiers of both tasks (`encoders/bi_encoder.py`, `identifiers/sem.py`). Prompt, loss and
mixing of tasks are those of BSR, which makes BSR its controlled partner: only the identifiers differ.
What we changed, and why: codebook sizes, pair construction and rates are ours, as the paper's were not to be had and no
code of it is public; the common prompt. Pseudo-queries and auxiliary tasks belong to other methods.
Cost: one decoder step per code, prompts about four times as long as BSR's, a few hundred new rows.
"""

from __future__ import annotations

from gemsbench.methods.identifier_method import IdentifierMethod


class SemBSR(IdentifierMethod):
    """Scheme sem, both tasks, token cross-entropy, the usual tuner of each backbone."""
