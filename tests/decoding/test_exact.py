from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from transformers import BartConfig, BartForConditionalGeneration

from gemsbench.decoding import CandidateScorer, exact, head
from gemsbench.decoding.t5_tree import T5Tree
from gemsbench.decoding.tree_batch import TreeBatch
from gemsbench.decoding.trie import with_end

Table = npt.NDArray[np.int64]
Cases = tuple[list[list[int]], list[Table]]
Build = Callable[..., Any]
Reference = Callable[..., npt.NDArray[np.float64]]
KINDS = ["t5", "t5-tied", "qwen2"]
END = 1
every_kind = pytest.mark.parametrize("kind", KINDS)


def distance(ours: list[npt.NDArray[np.float32]], reference: list[npt.NDArray[Any]]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(ours, reference, strict=True))


def shortened(tables: list[Table]) -> list[Table]:
    """Every third identifier loses its last two tokens; the end token makes them prefix-free."""
    shorter = [table.copy() for table in tables]
    for table in shorter:
        table[::3, 2:] = -1
    return shorter


@every_kind
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("end_token", [None, END])
def test_one_pass_equals_one_row_per_candidate(
    kind: str, attention: str, end_token: int | None, build: Build, one_by_one: Reference, cases: Cases
) -> None:
    prompts, tables = cases
    tables = shortened(tables) if end_token is not None else tables
    model = build(kind, attention=attention)
    scores = CandidateScorer(model, end_token=end_token).score(prompts, tables)
    rows = [with_end(table, end_token) for table in tables]
    reference = [one_by_one(model, prompt, table) for prompt, table in zip(prompts, rows, strict=True)]
    assert [array.shape for array in scores] == [(len(table),) for table in tables]
    assert all(array.dtype == np.float32 for array in scores)
    assert distance(scores, reference) < 2e-4
    assert min(array.std() for array in reference) > 0.5  # otherwise nothing was compared


@every_kind
def test_a_case_above_the_node_limit_gets_the_same_scores_from_several_trees(
    kind: str, build: Build, cases: Cases
) -> None:
    model = build(kind)
    whole = CandidateScorer(model, end_token=END).score(cases[0], shortened(cases[1]))
    for limit in (1, 20, 64):
        parts = CandidateScorer(model, end_token=END, node_limit=limit).score(cases[0], shortened(cases[1]))
        assert distance(parts, whole) < 2e-4


def test_no_tree_is_larger_than_the_node_limit(build: Build, cases: Cases, monkeypatch: pytest.MonkeyPatch) -> None:
    widths = []

    class Recorded(TreeBatch):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            widths.append(self.width)

    monkeypatch.setattr(exact, "TreeBatch", Recorded)
    CandidateScorer(build("t5"), node_limit=20).score(*cases)
    assert len(widths) > 1
    assert max(widths) <= 20


@pytest.mark.parametrize("kind", ["t5", "qwen2"])
def test_without_the_position_correction_scores_are_wrong(
    kind: str, build: Build, one_by_one: Reference, cases: Cases, monkeypatch: pytest.MonkeyPatch
) -> None:
    def uncorrected(self: T5Tree, trees: TreeBatch, dtype: torch.dtype) -> torch.Tensor:
        return torch.where(trees.sees()[:, None], 0.0, torch.finfo(dtype).min).expand(-1, 4, -1, -1)

    model = build(kind)
    reference = [one_by_one(model, *case) for case in zip(*cases, strict=True)]
    if kind == "t5":
        monkeypatch.setattr(T5Tree, "_tree_mask", uncorrected)
    else:

        def linear(_: Any, arguments: Any, given: dict[str, Any]) -> Any:
            if (positions := given.get("position_ids")) is not None:
                given["position_ids"] = positions[:, :1] + torch.arange(positions.shape[1])
            return arguments, given

        model.model.register_forward_pre_hook(linear, with_kwargs=True)
    assert distance(CandidateScorer(model).score(*cases), reference) > 0.1


@every_kind
def test_a_score_depends_neither_on_other_candidates_nor_on_batch_mates(kind: str, build: Build, cases: Cases) -> None:
    prompts, tables = cases
    scorer = CandidateScorer(build(kind))
    together = scorer.score(prompts, tables)
    for case in range(len(prompts)):
        order = np.random.default_rng(case).permutation(len(tables[case]))[: len(tables[case]) // 2 + 1]
        [alone] = scorer.score(prompts[case : case + 1], [tables[case][order]])
        np.testing.assert_allclose(alone, together[case][order], atol=1e-4)


@every_kind
def test_probabilities_of_all_sequences_and_of_what_leaves_the_trie_sum_to_one(kind: str, build: Build) -> None:
    codes = np.stack(np.meshgrid([20, 21, 22], [30, 31], [40, 41, 42], indexing="ij"), -1).reshape(-1, 3)
    [(tree, totals)] = CandidateScorer(build(kind)).prefixes([[5, 6, 7]], [codes])
    prefixes = np.append(1.0, np.exp(totals))  # the empty one first
    reached = prefixes[tree.step_before + 1]  # of the node that every step leaves
    inside = np.bincount(tree.step_nodes, weights=prefixes[1:])
    outside = reached[np.unique(tree.step_nodes, return_index=True)[1]] - inside
    assert (outside > 0).all()
    [scores] = CandidateScorer(build(kind)).score([[5, 6, 7]], [codes])
    assert np.exp(scores.astype(np.float64)).sum() + outside.sum() == pytest.approx(1.0, abs=1e-6)

    everything = np.arange(120)[:, None]  # and one level over the whole vocabulary has nothing outside
    [scores] = CandidateScorer(build(kind)).score([[5, 6, 7]], [everything])
    assert np.exp(scores.astype(np.float64)).sum() == pytest.approx(1.0, abs=1e-5)


@every_kind
def test_atomic_identifiers_are_read_from_one_softmax(kind: str, build: Build) -> None:
    model, tokens, seen = build(kind), np.array([[90], [17], [90], [3]]), []
    body = model.decoder if kind != "qwen2" else model.model
    body.register_forward_pre_hook(lambda _, __, given: seen.append(given["input_ids"].shape), with_kwargs=True)
    prompts = [[5, 9, 11], [7]]
    scores = CandidateScorer(model).score(prompts, [tokens, tokens[:2]])
    assert seen == [(2, 3)] if kind == "qwen2" else [(2, 1)]  # one call: no token of an identifier is fed
    for prompt, ours, wanted in zip(prompts, scores, [tokens, tokens[:2]], strict=True):
        with torch.no_grad():
            start = {"decoder_input_ids": torch.tensor([[0]])} if kind != "qwen2" else {}
            logits = model.eval()(input_ids=torch.tensor([prompt]), **start).logits[0, -1]
        np.testing.assert_allclose(ours, torch.log_softmax(logits, -1)[wanted[:, 0]], atol=1e-5)
    assert scores[0][0] == scores[0][2]


@every_kind
def test_equal_identifiers_get_equal_scores(kind: str, build: Build, cases: Cases) -> None:
    first = CandidateScorer(build(kind)).score(*cases)[0]
    assert first[3] == first[7]
    assert first[3] != first[4]


def test_encoder_and_cross_attention_keys_are_computed_once_per_case(build: Build, cases: Cases) -> None:
    model, seen = build("t5"), []
    keys = model.decoder.block[0].layer[1].EncDecAttention.k
    for name, module in (("encoder", model.encoder.block[0].layer[0].SelfAttention.k), ("cross", keys)):
        module.register_forward_hook(lambda _, given, __, name=name: seen.append((name, given[0].shape[:2])))
    CandidateScorer(model).score(*cases)
    assert seen == [("encoder", (3, 12)), ("cross", (3, 12))]


@every_kind
def test_the_head_reads_every_node_once_and_a_bounded_number_at_a_time(
    kind: str, build: Build, cases: Cases, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rows = build(kind), []
    whole = CandidateScorer(model).score(*cases)
    own = model.get_output_embeddings()

    def counted(hidden: torch.Tensor) -> torch.Tensor:
        rows.append(len(hidden))
        assert hidden.dtype == torch.float32
        return torch.log_softmax(own(hidden), dim=-1)  # log-probabilities serve as well as logits

    monkeypatch.setattr(head, "LOGITS_AT_A_TIME", 50 * 120)
    scorer = CandidateScorer(model, head=counted)
    assert distance(scorer.score(*cases), whole) < 1e-4
    assert max(rows) <= 50
    assert sum(rows) == sum(tree.n_nodes for tree, _ in scorer.prefixes(*cases))


@pytest.mark.parametrize("kind", ["t5", "qwen2"])
def test_log_probabilities_are_fp32_when_the_model_is_bf16(kind: str, build: Build) -> None:
    model = build(kind, vocabulary=4000).to(torch.bfloat16)
    tokens = np.arange(3500, 3900)[:, None]
    [scores] = CandidateScorer(model).score([[5, 9, 11]], [tokens])
    states = []
    model.get_output_embeddings().register_forward_pre_hook(lambda _, given: states.append(given[0][0, -1]))
    with torch.no_grad():
        start = {"decoder_input_ids": torch.tensor([[0]])} if kind == "t5" else {}
        coarse = model.eval()(input_ids=torch.tensor([[5, 9, 11]]), **start).logits[0, -1]
        fine = states[0].float() @ model.get_output_embeddings().weight.float().T
    assert len(np.unique(coarse.float()[tokens[:, 0]])) < 350  # bf16 logits tie
    assert len(np.unique(scores)) > 395
    np.testing.assert_allclose(scores, torch.log_softmax(fine, -1)[tokens[:, 0]], atol=1e-4)
    # Neither does an autocast region of the caller change them.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        [inside] = CandidateScorer(model).score([[5, 9, 11]], [tokens])
    assert len(np.unique(inside)) > 395


@pytest.mark.parametrize("kind", ["t5", "qwen2"])
def test_peft_modules_inside_the_model_are_used(kind: str, build: Build, one_by_one: Reference, cases: Cases) -> None:
    model = build(kind)
    plain = CandidateScorer(model).score(*cases)
    new_rows = list(range(80, 112)) if kind == "qwen2" else None
    targets = ["q", "v"] if kind == "t5" else ["q_proj", "v_proj"]
    model = inject_adapter_in_model(
        LoraConfig(target_modules=targets, r=2, init_lora_weights=False, trainable_token_indices=new_rows), model
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "trainable_tokens_delta" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    scores = CandidateScorer(model).score(*cases)
    assert distance(scores, [one_by_one(model, *case) for case in zip(*cases, strict=True)]) < 2e-4
    assert distance(scores, plain) > 0.1


@every_kind
def test_the_model_is_left_as_it_was(kind: str, build: Build, cases: Cases) -> None:
    model = build(kind)
    frozen = model.get_decoder().get_submodule("block.0" if kind != "qwen2" else "layers.0").eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes, config = [m.training for m in model.modules()], model.config.to_dict()
    scorer = CandidateScorer(model)
    first, again = scorer.score(*cases), scorer.score(*cases)
    assert distance(first, again) == 0.0  # dropout was off, though the model trains
    assert [m.training for m in model.modules()] == modes
    assert not frozen.training
    assert model.config.to_dict() == config
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(ValueError, match="NaN"), torch.no_grad():
        model.get_output_embeddings().weight[0, 0] = float("nan")
        scorer.score(*cases)
    assert [m.training for m in model.modules()] == modes


@pytest.mark.parametrize(
    ("prompts", "tables", "message"),
    [
        ([[]], [[[90]]], "case 0: the prompt is empty"),
        ([[5], [6]], [[[90]]], "2 prompts, but 1"),
        ([[5], [120]], [[[90]], [[90]]], "case 1, prompt: token 120"),
        ([[5]], [[[90, 120]]], "case 0, candidates: token 120"),
        ([[5]], [[[-1, 90]]], "case 0, candidates: row 0"),
        ([[5]], [[]], "case 0, candidates: expected"),
    ],
)
def test_malformed_cases_are_refused(
    prompts: list[list[int]], tables: list[list[list[int]]], message: str, build: Build
) -> None:
    with pytest.raises(ValueError, match=message):
        CandidateScorer(build("t5")).score(prompts, [np.array(table, dtype=np.int64) for table in tables])


def test_no_cases_have_no_scores(build: Build) -> None:
    assert CandidateScorer(build("t5")).score([], []) == []


def test_models_that_would_be_scored_wrongly_are_refused(build: Build) -> None:
    bart = BartConfig(vocab_size=50, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=8)
    with pytest.raises(ValueError, match="encoder-decoder model other than T5"):
        CandidateScorer(BartForConditionalGeneration(bart))
    with pytest.raises(ValueError, match="no transformers model"):
        CandidateScorer(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="attention 'flash_attention_2' takes no tree mask"):
        model = build("qwen2")
        model.config._attn_implementation_internal = "flash_attention_2"
        CandidateScorer(model)
    with pytest.raises(ValueError, match="without full attention"):
        model = build("qwen2")
        model.config.layer_types = ["sliding_attention", "full_attention"]
        CandidateScorer(model)
    with pytest.raises(ValueError, match="give a `head`"):
        model = build("qwen2")
        model.config.final_logit_softcapping = 30.0
        CandidateScorer(model)
    with pytest.raises(ValueError, match="no output layer"):
        CandidateScorer(build("qwen2").model)
    with pytest.raises(ValueError, match="node_limit"):
        CandidateScorer(build("t5"), node_limit=0)
