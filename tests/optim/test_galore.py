"""Without task subspaces GEMS is GaLore: by its formula, beside galore-torch, and with its group keys."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gemsbench.optim import GEMS

SHAPES = {"tall": (20, 12), "wide": (12, 20), "square": (16, 16)}
STEPS = 50
BETAS = (0.9, 0.999)


def gradients(shape: tuple[int, int], steps: int, dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    """A fixed low-rank part and noise: singular values apart from each other, so that bases agree up to sign."""
    generator = torch.Generator().manual_seed(seed)
    left, right = torch.randn(shape[0], 3, generator=generator), torch.randn(3, shape[1], generator=generator)
    return [(left @ right + torch.randn(shape, generator=generator)).to(dtype) for _ in range(steps)]


def start(shape: tuple[int, int], dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(9)).to(dtype))


def ours(weight: nn.Parameter, tasks: tuple[str, ...] = ("src", "rec"), **settings: Any) -> GEMS:
    settings = {"rank": 5, "update_gap": 12, **settings}
    rank = settings.pop("rank")
    return GEMS([{"params": [("w", weight)], "rank": rank, "task_rank": 0}], lr=0.01, tasks=tasks, **settings)


def galore_formula(weight: Tensor, gradients: list[Tensor], opt: GEMS, parameter: nn.Parameter, eps: float) -> None:
    """Zhao et al. 2024, Algorithm 2 with bias-corrected Adam: std side, a new basis every 12 steps, moments kept."""
    m, n = weight.shape
    first = second = torch.zeros(())
    basis = torch.zeros(())
    for step, gradient in enumerate(gradients):
        parameter.grad = gradient.clone()
        opt.step()
        if step % 12 == 0:
            u, _, vh = torch.linalg.svd(gradient, full_matrices=False)
            basis = vh[:5].T if m >= n else u[:, :5]
            basis = basis * (basis * opt.state[parameter]["basis"].T).sum(dim=0).sign()  # signs are arbitrary
        small = gradient @ basis if m >= n else basis.T @ gradient
        first = BETAS[0] * first + (1 - BETAS[0]) * small
        second = BETAS[1] * second + (1 - BETAS[1]) * small * small
        corrected = second / (1 - BETAS[1] ** (step + 1))
        direction = first / (1 - BETAS[0] ** (step + 1)) / (corrected.sqrt() + eps)
        weight = weight - 0.01 * (direction @ basis.T if m >= n else basis @ direction)
        error = (weight - parameter.detach()).abs().max() / weight.abs().max()
        assert error <= (1e-12 if weight.dtype == torch.float64 else 1e-6), f"step {step + 1}: {error:.1e}"


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_no_task_named_is_galore(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight = start(shape, dtype)
    galore_formula(weight.detach().clone(), gradients(shape, STEPS, dtype), ours(weight), weight, 1e-8)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_one_named_task_without_a_subspace_of_its_own_is_galore(shape: tuple[int, int]) -> None:
    """The gradient of the named task is its mean over tokens."""
    plain, named = start(shape, torch.float64), start(shape, torch.float64)
    first, second = ours(plain), ours(named)
    for gradient in gradients(shape, 30, torch.float64):
        plain.grad = gradient.clone()
        with second.task("src", tokens=4) as part:
            part.backward((named * gradient * 4).sum())
        first.step()
        second.step()
        second.zero_grad()
        assert (plain - named).abs().max() <= 1e-13


def test_a_single_task_of_several_equals_galore_when_the_other_never_comes() -> None:
    """Also with ranks for both tasks the shared part alone is GaLore; src's own part is added to it."""
    shape = SHAPES["tall"]
    weight = start(shape, torch.float64)
    opt = GEMS([{"params": [("w", weight)], "rank": 5, "task_rank": 3}], lr=0.01, tasks=("src", "rec"), update_gap=12)
    for gradient in gradients(shape, 3, torch.float64):
        weight.grad = gradient.clone()
        opt.step()
    same = start(shape, torch.float64)
    galore_formula(same.detach().clone(), gradients(shape, 3, torch.float64), ours(same), same, 1e-8)
    assert (weight - same).abs().max() <= 1e-13


def test_full_rank_is_adam_in_rotated_coordinates() -> None:
    """Adam is not invariant under rotation, so plain Adam on the weight itself ends elsewhere."""
    for shape in SHAPES.values():
        taught = gradients(shape, STEPS, torch.float64)
        weight = start(shape, torch.float64)
        opt = ours(weight, rank=100, update_gap=1000)
        u, _, vh = torch.linalg.svd(taught[0], full_matrices=False)
        right = shape[0] >= shape[1]
        turn = vh.T if right else u  # square and orthogonal: the rank is clipped to min(m, n)
        rotated = nn.Parameter(weight.detach() @ turn if right else turn.T @ weight.detach())
        plain = nn.Parameter(weight.detach().clone())
        adam, unrotated = torch.optim.Adam([rotated], lr=0.01), torch.optim.Adam([plain], lr=0.01)
        for gradient in taught:
            weight.grad, plain.grad = gradient.clone(), gradient.clone()
            rotated.grad = gradient @ turn if right else turn.T @ gradient
            for optimizer in (opt, adam, unrotated):
                optimizer.step()
        back = rotated @ turn.T if right else turn @ rotated
        assert (weight - back).abs().max() <= 1e-12
        assert (weight - plain).abs().max() > 1e-2


@pytest.fixture(scope="module")
def adamw() -> Any:
    """The module galore_torch.adamw, without running the package's own file, which imports bitsandbytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, "galore_torch", raising=False)
        specification = importlib.util.find_spec("galore_torch")
        assert specification is not None, "galore-torch (extra dev) is not installed"
        package = types.ModuleType("galore_torch")
        package.__path__ = list(specification.submodule_search_locations or [])
        patch.setitem(sys.modules, "galore_torch", package)
        return importlib.import_module("galore_torch.adamw")


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_package_galore_torch_goes_the_same_way(
    shape: tuple[int, int], adamw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fp32, with two later refreshes; its eps is added to a root without bias correction, so it is rescaled."""
    mine, theirs = start(shape, torch.float32), start(shape, torch.float32)
    keys = {"rank": 5, "update_proj_gap": 20, "scale": 0.25, "proj_type": "std"}
    opt = GEMS([{"params": [("w", mine)], "task_rank": 0, **keys}], lr=0.01, tasks=("src", "rec"), eps=1e-6)
    peer = adamw.AdamW([{"params": [theirs], **keys}], lr=0.01, no_deprecation_warning=True)
    decompose = adamw.GaLoreProjector.get_orthogonal_matrix

    def with_our_signs(projector: Any, weights: Tensor, rank: int, type: str) -> Tensor:
        found: Tensor = decompose(projector, weights, rank, type)
        stored = opt.state[mine]["basis"]
        stored = stored if type == "right" else stored.T
        agreement = (found * stored).sum(dim=1 if type == "right" else 0, keepdim=True)
        assert (agreement.abs() > 0.999).all()
        return found * agreement.sign()

    monkeypatch.setattr(adamw.GaLoreProjector, "get_orthogonal_matrix", with_our_signs)
    for step, gradient in enumerate(gradients(shape, STEPS, torch.float32)):
        mine.grad, theirs.grad = gradient.clone(), gradient.clone()
        peer.param_groups[0]["eps"] = 1e-6 * (1 - BETAS[1] ** (step + 1)) ** 0.5
        opt.step()
        peer.step()
        assert (mine - theirs).abs().max() <= 1e-6, f"step {step + 1}"
    assert (mine - start(shape, torch.float32)).abs().max() > 0.02


@pytest.mark.parametrize(("kind", "width"), [("left", 20), ("right", 12), ("std", 12)])
def test_groups_of_galore_torch_are_understood(kind: str, width: int) -> None:
    weight = start((20, 12), torch.float32)
    keys = {"rank": 4, "update_proj_gap": 3, "scale": 0.5, "proj_type": kind}
    opt = GEMS([{"params": [("w", weight)], **keys}], lr=0.01, tasks=("src", "rec"))
    twin = start((20, 12), torch.float32)
    own = GEMS(
        [{"params": [("w", twin)], "rank": 4, "update_gap": 3, "scale": 0.5, "side": kind}],
        lr=0.01,
        tasks=("src", "rec"),
    )
    turned = set()
    for gradient in gradients((20, 12), 7, torch.float32):
        weight.grad, twin.grad = gradient.clone(), gradient.clone()
        opt.step()
        own.step()
        turned.add(float(opt.state[weight]["basis"][0, 0]))
    assert opt.state[weight]["basis"].shape[1] == width
    assert len(turned) == 3
    assert torch.equal(weight, twin)
