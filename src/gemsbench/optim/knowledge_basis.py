"""The knowledge basis: per linear layer the directions of its input that general text uses most.

GEMS keeps updates out of these directions, W <- W + Delta (I - U_k U_k^T), so that W x stays what it was for every x
that lies in them (arXiv 2601.09496, Eq. 18-20, whose sign and side are corrected: the paper prints U_k U_k^T from the
left). U_k is stored in bfloat16, two bytes a number, and made orthonormal again in float32 when it is first used:
rounding alone would let 0.2 % of an update through.
"""

from __future__ import annotations

import ctypes
import dataclasses
import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gemsbench.optim.input_groups import Side, linear_layers
from gemsbench.optim.kept_directions import KeptDirections
from gemsbench.optim.knowledge_collection import spectra

VERSION = 1  # of the collector and of the file
_HEADER = "knowledge_basis"
_NOT_ONE = "This is no knowledge basis, or a damaged one: collect it again."


@dataclass(frozen=True, eq=False)
class BasisGroup:
    """The basis of layers that read one tensor.

    members: names of modules. directions: U_k, bfloat16 [n, k], near orthonormal. spectrum: eigenvalues, float32 [l],
    descending; l = n, or fewer of a sketch. trace: sum of all n eigenvalues. count: positions of text.
    """

    members: tuple[str, ...]
    directions: Tensor
    spectrum: Tensor
    trace: float
    count: int

    @property
    def width(self) -> int:
        """Dimension n of the features."""
        return self.directions.shape[0]

    @property
    def k(self) -> int:
        """Directions that are kept."""
        return self.directions.shape[1]

    @property
    def energy(self) -> float:
        """Share of the squared length of all features that lies in the kept directions."""
        return float(self.spectrum[: self.k].double().sum()) / self.trace if self.trace else 0.0


@dataclass(frozen=True, eq=False)
class KnowledgeBasis:
    """U_k of every linear layer of a model, shared by the layers that read one tensor.

    side "input": of what the layers read (y = W x, dimension n). side "output": of what they give (dimension m), as the
    released code has it. rule: how k was chosen. digest: the caller's name for the model. weights: layer -> shape and
    sha256 of its weight. about: what else the caller says of the text.
    """

    groups: tuple[BasisGroup, ...]
    side: Side
    rule: str
    seed: int
    digest: str
    weights: Mapping[str, Mapping[str, Any]]
    about: Mapping[str, Any]
    _made: dict[tuple[str, str], Tensor] = dataclasses.field(default_factory=dict, repr=False)

    @classmethod
    def collect(
        cls,
        model: nn.Module,
        batches: Iterable[Mapping[str, Any]],
        *,
        targets: Iterable[str] | None = None,
        k: int | str = "n/8",
        side: Side = "input",
        seed: int = 0,
        digest: str = "",
        about: Mapping[str, Any] | None = None,
    ) -> KnowledgeBasis:
        """Run the model once over batches (keyword arguments of its forward) and keep k directions per input group.

        targets: names of linear layers (None: all but the output layer). k: a number, "n/8", "energy=0.95" or
        "threshold=2e-2" (eigenvalues of E[x x^T]). Padding does not count (attention_mask, decoder_attention_mask,
        labels). seed: of the sketch above a width of 4096. about: plain JSON values to keep with the basis.
        Raises ValueError for an unknown rule, layer or side, without text, and for a k that leaves nothing free.
        """
        rule = KeptDirections.parse(k)
        if side not in ("input", "output"):
            raise ValueError(f"side is {side!r}; use 'input' or 'output'.")
        layers = linear_layers(model, targets)
        groups = []
        for group, spectrum in spectra(model, batches, layers, rule, side=side, seed=seed):
            try:
                kept = rule.of(spectrum)
            except ValueError as error:
                raise ValueError(f"'{group.members[0]}': {error}") from error
            vectors = spectrum.vectors[:, :kept].to(torch.bfloat16).cpu().contiguous()
            values = spectrum.values.float().cpu()
            groups.append(BasisGroup(group.members, vectors, values, spectrum.trace, spectrum.count))
        reached = [name for group in groups for name in group.members]
        weights = {name: _weight_record(layers[name].weight) for name in sorted(reached)}
        return cls(tuple(groups), side, str(k), seed, digest, weights, dict(about or {}))

    @property
    def hash(self) -> str:
        """sha256 of all that the file holds; the same before and after it was saved."""
        found = hashlib.sha256(self._header().encode())
        for group in self.groups:
            found.update(_bytes(group.directions))
            found.update(_bytes(group.spectrum))
        return found.hexdigest()

    def of(self, parameter_name: str, device: torch.device | str | None = None) -> Tensor:
        """U_k of a weight, float32 [n, k] with orthonormal columns (side "output": [m, k]); one tensor per group.

        Raises ValueError naming the nearest known name when there is none.
        """
        name = parameter_name.removesuffix(".weight")
        group = next((group for group in self.groups if name in group.members), None)
        if group is None:
            close = difflib.get_close_matches(name, self.weights, n=1, cutoff=0.0)
            hint = f" Nearest: '{close[0]}.weight'." if close else ""
            raise ValueError(f"the knowledge basis has nothing on '{parameter_name}'.{hint} Collect it for this model.")
        key = (group.members[0], str(torch.device(device or "cpu")))
        if key not in self._made:
            self._made[key] = orthonormal(group.directions).to(device or "cpu")
        return self._made[key]

    def verify(self, model: nn.Module) -> None:
        """Raise ValueError, naming the first difference, unless the model has the layers that this was collected on.

        Names, shapes and values of the weights, the latter to the precision of bfloat16: a model loaded in another
        precision is the same model.
        """
        modules = dict(model.named_modules())
        for name, recorded in self.weights.items():
            module = modules.get(name)
            again = "Collect the basis on the model that is tuned."
            if not isinstance(module, nn.Linear):
                raise ValueError(f"this basis is of another model: '{name}' is no linear layer here. {again}")
            found = _weight_record(module.weight)
            for part in ("shape", "sha256"):
                if found[part] != recorded[part]:
                    values = f"{found[part]} here, {recorded[part]} there" if part == "shape" else "other values"
                    raise ValueError(f"this basis is of another model: '{name}.weight' has {values}. {again}")

    def save(self, path: str | Path) -> None:
        """Write everything into one safetensors file; the caller sees to it that it appears at once."""
        tensors = {f"{n}.directions": group.directions for n, group in enumerate(self.groups)}
        tensors |= {f"{n}.spectrum": group.spectrum for n, group in enumerate(self.groups)}
        save_file(tensors, str(path), metadata={_HEADER: self._header()})

    @classmethod
    def load(cls, path: str | Path) -> KnowledgeBasis:
        """Read what `save` wrote; raises ValueError for a missing or damaged file, or one of another kind."""
        if not Path(path).is_file():
            raise ValueError(f"{path}: no such file. Collect the basis first (KnowledgeBasis.collect).")
        try:
            with safe_open(str(path), framework="pt") as file:
                header = json.loads((file.metadata() or {}).get(_HEADER, "{}"))
                if header.get("version") != VERSION:
                    raise ValueError(f"{path}: version {header.get('version')}, expected {VERSION}. {_NOT_ONE}")
                groups = tuple(
                    BasisGroup(
                        tuple(group["members"]),
                        file.get_tensor(f"{n}.directions"),
                        file.get_tensor(f"{n}.spectrum"),
                        float.fromhex(group["trace"]),
                        group["count"],
                    )
                    for n, group in enumerate(header["groups"])
                )
            values = (header[name] for name in ("side", "rule", "seed", "digest", "weights", "about"))
            return cls(groups, *values)
        except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path}: {error}. {_NOT_ONE}") from error

    def summary(self) -> str:
        """A table to print: per group its layers, width n, k, energy(k) and the n - k directions left to train in."""
        lines = [f"{'n':>6} {'k':>6} {'energy(k)':>9} {'n - k':>6}  layers"]
        for group in self.groups:
            others = f" and {len(group.members) - 1} more" if len(group.members) > 1 else ""
            free = group.width - group.k
            lines.append(f"{group.width:6} {group.k:6} {group.energy:9.4f} {free:6}  {group.members[0]}{others}")
        return "\n".join(lines)

    def _header(self) -> str:
        groups = [
            {"members": list(group.members), "trace": group.trace.hex(), "count": group.count} for group in self.groups
        ]
        header = {
            "version": VERSION,
            "groups": groups,
            "side": self.side,
            "rule": self.rule,
            "seed": self.seed,
            "digest": self.digest,
            "weights": dict(self.weights),
            "about": dict(self.about),
        }
        return json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False)


def orthonormal(directions: Tensor) -> Tensor:
    """Orthonormal columns, float32 [n, k], that span those of directions and stay next to them (QR, diag(R) > 0)."""
    q, r = torch.linalg.qr(directions.double())
    turned: Tensor = q * torch.where(r.diagonal() < 0, -1.0, 1.0)
    return turned.float()


def _weight_record(weight: Tensor) -> dict[str, Any]:
    rounded = weight.detach().to(torch.bfloat16).cpu()
    return {"shape": list(weight.shape), "sha256": hashlib.sha256(_bytes(rounded)).hexdigest()}


def _bytes(tensor: Tensor) -> bytes:
    data = tensor.contiguous()
    return ctypes.string_at(data.data_ptr(), data.nbytes)
