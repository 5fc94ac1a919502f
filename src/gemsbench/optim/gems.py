"""GEMS, gradient multi-subspace tuning (arXiv 2601.09496, Algorithm 1, with its errata resolved), as a torch optimizer.

Each projected matrix has a subspace that the tasks share and one per task, each with Adam moments of its own; a gate
weights the tasks' updates, and a projector keeps the outputs on known features. What the paper leaves open or misprints
is decided in `settings.py`, where every choice has its reason beside it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor, nn

from gemsbench.optim.full_gradients import LayerHooks, check_clean, take_gradients
from gemsbench.optim.gate import Gate
from gemsbench.optim.groups import check_group
from gemsbench.optim.matrix import ProjectedMatrix
from gemsbench.optim.null_space import Projector
from gemsbench.optim.plain import plain_step
from gemsbench.optim.projected_backward import Taps
from gemsbench.optim.record import Batch, StepRecord, rows_by_task
from gemsbench.optim.rounding import seeded
from gemsbench.optim.saving import check_saved, identity, restore_tensors
from gemsbench.optim.settings import GEMSConfig, nearest
from gemsbench.optim.step_update import StepUpdate, step_metrics
from gemsbench.optim.sums import SHARED
from gemsbench.optim.warning import WEIGHT_DECAY, WHOLE_PARAMETERS, warn_of_first_step

if TYPE_CHECKING:
    from gemsbench.optim.knowledge_basis import KnowledgeBasis

_GALORE_KEYS = {"update_proj_gap": "update_gap", "proj_type": "side"}


class GEMS(torch.optim.Optimizer):
    """Optimizer with shared and task-own subspaces; without a named task it is GaLore (arXiv 2403.03507).

    params: groups of `gems_param_groups`, or of your own with the keys rank, task_rank, scale, side, update_gap, lr,
    weight_decay (galore-torch's update_proj_gap and proj_type are understood; such groups have no task subspaces unless
    task_rank says so). A group without rank is AdamW's. preset: paper, fast (the price of LoRA) or reference; any field
    of GEMSConfig may be given beside it. Gradients of projected weights are taken out of .grad, so only this object's
    zero_grad() forgets them, clipping passes them by, and GradScaler is not supported. Raises ValueError for settings,
    groups and weights that do not fit.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        *,
        tasks: Sequence[str] = ("src", "rec"),
        preset: str = "paper",
        null_space: KnowledgeBasis | None = None,
        seed: int = 0,
        **overrides: Any,
    ) -> None:
        self.config = GEMSConfig.of(preset, **overrides)
        if isinstance(tasks, str):
            raise ValueError(f"GEMS: tasks is the text '{tasks}'. Write a tuple of names, ('{tasks}',).")
        self.tasks, self._null_space, self._seed = tuple(dict.fromkeys(tasks)), null_space, seed
        if SHARED in self.tasks:
            raise ValueError(f"GEMS: a task cannot be called '{SHARED}'. Give it another name.")
        self.matrices: list[ProjectedMatrix] = []
        self._group_of: list[int] = []
        self._layers: list[tuple[nn.Module, ...]] = []
        self._record: StepRecord | None = None
        self._batch: Batch | None = None
        self._steps = 0
        self._hooks: Taps | LayerHooks | None = None
        self._paused = False
        self.gate = Gate(self.config, self.tasks, seeded(seed, "gate").initial_seed())
        self._update = StepUpdate(self.config, self.tasks, self.matrices, self.gate)
        config = self.config
        defaults = {
            "lr": lr, "betas": config.betas, "eps": config.eps, "weight_decay": config.weight_decay, "rank": 0,
            "task_rank": None, "scale": config.scale, "side": config.side, "update_gap": config.update_gap,
            "rows": None,
        }  # fmt: skip
        super().__init__(params, defaults)
        self._install()

    # -- parameter groups ---------------------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; raises ValueError for weights that cannot be projected, and names the basis does not know."""
        group = dict(param_group)
        layers = group.pop("layers", None)
        for theirs, ours in _GALORE_KEYS.items():
            if theirs in group:
                group[ours] = group.pop(theirs)
                group.setdefault("task_rank", 0)
        if self._hooks is not None:
            raise ValueError("GEMS: with this backward no group can be added later. Give all groups at the start.")
        super().add_param_group(group)
        group = self.param_groups[-1]
        check_group(group)
        if self._null_space is not None and not group["rank"] and group["rows"] is None:
            warnings.warn(WHOLE_PARAMETERS, stacklevel=3)
        if group["rank"]:
            self._add_matrices(group, layers)

    def _add_matrices(self, group: Mapping[str, Any], layers: Sequence[tuple[nn.Module, ...]] | None) -> None:
        names = group.get("param_names") or [f"matrix {len(self.matrices) + n}" for n in range(len(group["params"]))]
        if self._null_space is not None and "param_names" not in group:
            raise ValueError(
                "GEMS: the null space needs the parameters' names. Make the groups with gems_param_groups."
            )
        if self._null_space is not None and group["weight_decay"] > 0 and self.config.null_space_mode != "gradient":
            warnings.warn(WEIGHT_DECAY, stacklevel=4)
        if self.config.backward != "full" and layers is None:
            raise ValueError(
                f"GEMS: backward='{self.config.backward}' needs the layers of the weights. Make the groups with "
                "gems_param_groups, or set backward='full'."
            )
        if self.config.backward == "projected" and group["side"] != "right":
            raise ValueError("GEMS: backward='projected' needs side='right'. Set it, or backward='full'.")
        for place, (name, weight) in enumerate(zip(names, group["params"], strict=True)):
            if weight.ndim != 2:
                raise ValueError(
                    f"GEMS: {name} has shape {tuple(weight.shape)}; only matrices are projected. FSDP1 and ZeRO "
                    "flatten parameters: use plain modules or DDP, or leave this parameter to a group without rank."
                )
            sharing = () if layers is None else layers[place]
            if self.config.backward == "per_layer" and len(sharing) > 1:
                raise ValueError(
                    f"GEMS: {name} is used by {len(sharing)} modules; backward='per_layer' would change it between "
                    "their backward passes. Name it in exclude, or use backward='full' or 'projected'."
                )
            matrix = ProjectedMatrix(
                weight, name, len(self.matrices), group, self.config, self.tasks, self._projector(name, weight),
                lambda parameter: self.state[parameter], self._seed,
            )  # fmt: skip
            self.matrices.append(matrix)
            self._layers.append(sharing)
            self._group_of.append(len(self.param_groups) - 1)

    def _projector(self, name: str, weight: Tensor) -> Projector | None:
        basis = self._null_space
        if basis is None:
            return None
        directions = basis.of(name, weight.device)
        width = weight.shape[1] if basis.side == "input" else weight.shape[0]
        if len(directions) != width:
            raise ValueError(
                f"GEMS: the knowledge basis has {len(directions)} dimensions for {name}, the weight has {width}: it is "
                "the basis of another model. Collect it on this one."
            )
        if basis.side == "output" and self.config.null_space_mode == "subspace":
            raise ValueError("GEMS: null_space_mode='subspace' needs a basis of inputs, this one is of outputs.")
        if weight.dtype == torch.float64:  # stored in lower precision: orthonormal to 1e-7 only
            directions = torch.linalg.qr(directions.double())[0]
        return Projector(directions, basis.side, self.config.null_space_form)

    def _install(self) -> None:
        if self.config.backward == "projected":
            self._hooks = Taps(
                self.matrices, self._layers, lambda: None if self._paused else (self._batch, self._begin())
            )
        elif self.config.backward == "per_layer":
            self._hooks = LayerHooks(
                self.matrices,
                lambda: None if self._batch is None or self._paused else (self._batch, self._begin()),
                self._finish,
            )

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Backward passes inside leave no trace in the optimizer: for probes between the passes of a step."""
        kept = [(p, p.grad) for group in self.param_groups for p in group["params"]]
        self._paused = True
        try:
            for parameter, _ in kept:
                parameter.grad = None
            yield
        finally:
            self._paused = False
            for parameter, gradient in kept:
                parameter.grad = gradient

    def remove_hooks(self) -> None:
        """Take everything off the model again; the optimizer cannot be used afterwards."""
        if self._hooks is not None:
            self._hooks.remove()

    # -- backward passes ----------------------------------------------------------------------------------------------

    @contextmanager
    def task(self, name: str, tokens: float | None = None, last: bool = False) -> Iterator[Batch]:
        """Around the backward pass of a micro-batch of one task.

        tokens: its target tokens; the loss is a sum over them (or both are scaled alike). last: no more passes in this
        step; backward="per_layer" then updates and frees every layer on the way. Raises ValueError for unknown tasks
        and missing tokens.
        """
        with self._pass(Batch(name, {name: self._checked(name, tokens)}, last)) as batch:
            yield batch

    @contextmanager
    def mixed_batch(self, tasks: Sequence[str], tokens: Mapping[str, float], last: bool = False) -> Iterator[Batch]:
        """Around the one backward pass of a batch whose rows (dimension 0) have the given tasks; preset `fast` only.

        tokens: target tokens per task. Raises ValueError for unknown tasks, missing tokens, and other presets.
        """
        if self.config.backward != "projected":
            raise ValueError(
                "GEMS: gradients of full size do not tell rows apart. Give each task a pass of its own (opt.task), or "
                "use preset='fast'."
            )
        counts = {name: self._checked(name, tokens.get(name)) for name in dict.fromkeys(tasks)}
        with self._pass(Batch(None, counts, last, rows_by_task(tasks), len(tasks))) as batch:
            yield batch

    def _checked(self, name: str, tokens: float | None) -> float:
        if name not in self.tasks:
            raise ValueError(f"GEMS: unknown task '{name}'. {nearest(name, self.tasks)}")
        if tokens is None or not 0 < float(tokens) < math.inf:
            raise ValueError(
                f"GEMS: task '{name}' came with tokens={tokens}. Pass the number of its target tokens, over which the "
                "loss is a sum; leave out a micro-batch that has none."
            )
        return float(tokens)

    @contextmanager
    def _pass(self, batch: Batch) -> Iterator[Batch]:
        if self._batch is not None:
            raise ValueError("GEMS: a pass is already open. Close `with opt.task(...)` before the next one.")
        record = self._begin()
        if record.broken:
            raise ValueError(
                "GEMS: an earlier pass of this step failed. Call opt.zero_grad() and begin the step again."
            )
        if record.last:
            raise ValueError("GEMS: another pass after the one with last=True. Call opt.step() first.")
        check_clean(self.matrices, record)
        record.passes, record.last = record.passes + 1, batch.last
        for name, tokens in batch.tokens.items():
            record.tokens[name] = record.tokens.get(name, 0.0) + tokens
        self._batch, record.broken = batch, True
        try:
            yield batch
            if self.config.backward == "full":
                take_gradients(self.matrices, record, batch.task)
            record.close(batch)
        finally:
            self._batch = None

    def _begin(self) -> StepRecord:
        """The record of the coming step, made at its first pass."""
        if self._record is None:
            step = self._steps + 1
            self._record = StepRecord(step, self.gate.is_due(step))
            for matrix, group in zip(self.matrices, self._group_of, strict=True):
                matrix.schedule(step, self.param_groups[group]["update_gap"])
            if self.config.gate_lag:
                self._record.weights = self._weights()
        return self._record

    def _weights(self) -> dict[str, Tensor]:
        return dict(zip(self.tasks, self.gate.weights(self.gate.features), strict=True))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget everything collected for the coming step, and the gradients of the plain parameters.

        Raises ValueError when backward="per_layer" has moved some layers already (after last=True).
        """
        if self._record is not None and self._record.finished:
            raise ValueError(
                "GEMS: layers of this step have moved already, in the pass with last=True. Call opt.step(); after an "
                "error in that pass, go back to a checkpoint."
            )
        self._record = None
        super().zero_grad(set_to_none)

    # -- the step -----------------------------------------------------------------------------------------------------

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update from what was collected; nothing happens where nothing was.

        Parameters without rank move by AdamW along the mean gradient over all target tokens.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.autocast(self.param_groups[0]["params"][0].device.type, enabled=False):
            self._step()
        return loss

    def _step(self) -> None:
        record = self._begin()
        if record.tokens:
            check_clean(self.matrices, record)
        else:
            take_gradients(self.matrices, record, None)
        plain = [p for group in self.param_groups if not group["rank"] for p in group["params"] if p.grad is not None]
        if not (record.tokens or record.gradients or record.sums or plain):
            return
        squares = self._update.squares(record)
        if not all(bool(torch.isfinite(square)) for square in squares.values()):
            raise ValueError("GEMS: a gradient holds NaN or infinity; nothing has moved. Lower the learning rate.")
        if not self.config.gate_lag:
            self._update.observe(record, squares)
            record.weights = self._weights()
        for number in range(len(self.matrices)):
            if number not in record.finished:
                self._finish(number)
        plain_step(self.param_groups, self.state, sum(record.tokens.values()) or 1.0, self.config.rounding, self._seed)
        self._update.learn(record)
        if record.tokens:
            if record.step == 1:
                silent = self._hooks.silent if isinstance(self._hooks, Taps) else set()
                warn_of_first_step(record, self.config, self.tasks, [self.matrices[n].name for n in sorted(silent)])
            self.gate.remember(record.weights or {}, record.tokens)
        if self.config.gate_lag:
            self._update.observe(record, self._update.squares(record))
        self._steps, self._record = record.step, None

    def _finish(self, number: int) -> None:
        with torch.no_grad():
            self._update.finish(number, self._begin(), self.param_groups[self._group_of[number]])

    def gate_weights(self) -> dict[str, float]:
        """What each task's own update counts, as of the last step."""
        return {task: float(weight) for task, weight in zip(self.tasks, self.gate.given, strict=True)}

    def gradient_norms(self) -> dict[str, float]:
        """Norms over all projected matrices of the mean gradients collected for the coming step, per task.

        Of the gradients' projections on the tasks' own subspaces, where backward is not "full".
        """
        if self._record is None:
            return {}
        squares = self._update.squares(self._record)
        return {task: float(square) ** 0.5 for task, square in squares.items()}

    def effective_ranks(self) -> dict[str, tuple[int, int]]:
        """Shared and task rank per matrix, after clipping to its dimensions."""
        return {
            matrix.name: (matrix.ranks[SHARED], list(matrix.ranks.values())[-1] if len(matrix.ranks) > 1 else 0)
            for matrix in self.matrices
        }

    def metrics(self) -> dict[str, float]:
        """Numbers for a log: gate weights, mean overlap of each task's subspace with the shared one, H of the gate."""
        return step_metrics(self.matrices, self.gate)

    @torch.no_grad()
    def attributed_updates(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Per matrix: what each task contributed to the last update, [m, n], up to the learning rate.

        Their sum is the update, except after a step that sketched new bases: they are in use already. Raises ValueError
        without attribution=True.
        """
        if not self.config.attribution:
            raise ValueError("GEMS: updates are attributed to tasks only with attribution=True.")
        present = zip(self.tasks, self.gate.given, self.gate.present.tolist(), strict=True)
        weights = {task: weight for task, weight, there in present if there}
        for matrix, place in zip(self.matrices, self._group_of, strict=True):
            group = self.param_groups[place]
            yield matrix.name, matrix.attributed(weights, group["betas"], group["eps"])

    def state_dict(self) -> dict[str, Any]:
        """The usual state and groups, and under "gems" what belongs to no parameter; safe for weights_only=True."""
        state = super().state_dict()
        state["gems"] = {
            "step": torch.tensor(self._steps),
            **{f"gate.{name}": tensor for name, tensor in self.gate.state().items()},
        }
        state["gems_identity"] = self._identity()
        return state

    def _identity(self) -> dict[str, Any]:
        null_space = "" if self._null_space is None else self._null_space.hash
        return identity(self.config, self.tasks, null_space, self._seed, self.matrices)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what state_dict gave; every tensor keeps its own precision.

        Raises ValueError, and changes nothing, for a state of other tasks, another null space, side or ranks.
        """
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        check_saved(state_dict, self._identity(), parameters, self.matrices)
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        restore_tensors(state_dict, parameters, self.state)
        self.gate.load({name.removeprefix("gate."): t for name, t in state_dict["gems"].items() if name != "step"})
        self._steps, self._record = int(state_dict["gems"]["step"]), None
