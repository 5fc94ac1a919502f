"""Which rows Tables 1 and 2 have, in the paper's order (arXiv 2601.09496), and the method key behind each name."""

from __future__ import annotations

from dataclasses import dataclass

METRICS = {"hit@5": "Hit@5", "hit@10": "Hit@10", "ndcg@5": "NDCG@5", "ndcg@10": "NDCG@10"}
TASK_NAMES = {"rec": "Recommendation", "src": "Search"}
SANITY_METHODS = {
    "random": "Random",
    "popularity": "Popularity",
    "bm25": "BM25",
    "category-match": "Category match",
    "sasrec": "SASRec",
}

METHOD_KEYS = {
    "NCF": "ncf",
    "TIGER": "tiger",
    "LETTER": "letter",
    "ANCE": "ance",
    "WebUltron": "webultron",
    "GenRet": "genret",
    "UnifiedSSR": "unifiedssr",
    "BSR": "bsr",
    "Sem-BSR": "sem-bsr",
    "GenSAR": "gensar",
    "Sem-BSR-MoE": "sem-bsr+lora-moe",
    "Ours": "gems",
}
WITHOUT_BACKBONE = frozenset({"NCF", "ANCE", "UnifiedSSR"})


@dataclass(frozen=True)
class ComparisonRows:
    """The rows of one of the paper's comparison tables: task -> displayed names, top to bottom."""

    name: str
    title: str
    backbone: str  # the paper's name of the backbone, a key of the profile's tables.blocks
    tasks: dict[str, tuple[str, ...]]


TABLE_1 = ComparisonRows(
    name="table1",
    title="Table 1",
    backbone="T5-base",
    tasks={
        "rec": ("NCF", "TIGER", "LETTER", "UnifiedSSR", "BSR", "Sem-BSR", "GenSAR", "Ours"),
        "src": ("ANCE", "WebUltron", "GenRet", "UnifiedSSR", "BSR", "Sem-BSR", "GenSAR", "Ours"),
    },
)
TABLE_2 = ComparisonRows(
    name="table2",
    title="Table 2",
    backbone="Qwen-3B",
    tasks={
        "rec": ("TIGER", "LETTER", "BSR", "Sem-BSR", "GenSAR", "Sem-BSR-MoE", "Ours"),
        "src": ("WebUltron", "GenRet", "BSR", "Sem-BSR", "GenSAR", "Sem-BSR-MoE", "Ours"),
    },
)
