"""What must lie in a model folder before it is read: checked from JSON and safetensors headers, without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from gemsbench.backbones import catalogue
from gemsbench.backbones.catalogue import ARCHITECTURES, BackboneSpec, Kind
from gemsbench.config import nearest
from gemsbench.errors import InputError
from gemsbench.files import read_json

WEIGHTS = "model.safetensors"
SHARDS = "model.safetensors.index.json"
_INPUT_MATRIX: Mapping[Kind, str] = {"t5": "shared.weight", "qwen2": "model.embed_tokens.weight"}
_WIDTH: Mapping[Kind, str] = {"t5": "d_model", "qwen2": "hidden_size"}
_UNSAFE = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_AGAIN = "Make the folder again, or copy it again."


@dataclass(frozen=True)
class ModelFolder:
    """A model folder that passed check_folder; weights: its files; shapes: tensor name -> shape, of all of them."""

    path: Path
    kind: Kind
    config: Mapping[str, Any]
    weights: Sequence[Path]
    shapes: Mapping[str, tuple[int, ...]]


def check_folder(path: Path, spec: BackboneSpec | None = None) -> ModelFolder:
    """Check that a folder holds a T5 or Qwen2 model as safetensors, with its tokenizer.

    spec: what it must be; by default what its backbone.json says, if it has one. Raises InputError when the folder,
    config.json, the weights or the tokenizer are missing, weights are pickled or cut off, or the architecture or a
    shape is another one.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such model folder. Make it first (gemsbench backbone NAME).")
    if not (path / "config.json").is_file():
        raise InputError(f"{path}: no config.json, so this is not a model folder. {_AGAIN}")
    config = _json_object(path / "config.json")
    spec = spec or _recorded_spec(path)
    if spec is not None:
        catalogue.check_shapes(spec, config, str(path / "config.json"))
    kind = _kind(config, path)
    if not (path / "tokenizer.json").is_file():
        raise InputError(f"{path}: no tokenizer.json. Copy the model's tokenizer files beside its weights.")
    weights = _weight_files(path)
    shapes = {name: shape for file in weights for name, shape in _shapes(file).items()}
    expected = (config.get("vocab_size"), config.get(_WIDTH[kind]))
    if shapes.get(_INPUT_MATRIX[kind]) != expected:
        raise InputError(
            f"{path}: {_INPUT_MATRIX[kind]} is {shapes.get(_INPUT_MATRIX[kind], 'missing')}, config.json says "
            f"{expected}. Weights and config are not of one model. {_AGAIN}"
        )
    return ModelFolder(path, kind, config, weights, shapes)


def _recorded_spec(path: Path) -> BackboneSpec | None:
    if not (path / catalogue.RECORD).is_file():
        return None
    name = _json_object(path / catalogue.RECORD).get("backbone")
    if not isinstance(name, str):
        raise InputError(f"{path / catalogue.RECORD}: backbone is {name!r}, not the name of one. {_AGAIN}")
    if name not in catalogue.ALL:
        raise InputError(f"{path / catalogue.RECORD}: unknown backbone '{name}'. {nearest(name, catalogue.ALL)}")
    return catalogue.ALL[name]


def _kind(config: Mapping[str, Any], path: Path) -> Kind:
    found = config.get("architectures")
    for kind, architecture in ARCHITECTURES.items():
        if found == [architecture] and config.get("model_type") == kind:
            return kind
    named = found if isinstance(found, list) else [found]
    shown = ", ".join(str(name) for name in named if name) or "not named in config.json"
    raise InputError(
        f"{path}: the architecture is {shown} (model_type {config.get('model_type')}). Use a folder of "
        f"{' or '.join(ARCHITECTURES.values())}."
    )


def _weight_files(path: Path) -> list[Path]:
    if (path / WEIGHTS).is_file():
        return [path / WEIGHTS]
    if (path / SHARDS).is_file():
        shards = [path / name for name in _shard_names(path / SHARDS)]
        missing = [shard.name for shard in shards if not shard.is_file()]
        if missing or not shards:
            raise InputError(f"{path}: {SHARDS} names {', '.join(missing) or 'no files'}: not there. {_AGAIN}")
        return shards
    pickled = sorted(file.name for pattern in _UNSAFE for file in path.glob(pattern))
    if pickled:
        raise InputError(
            f"{path}: the weights are pickled ({', '.join(pickled)}), which may run any code when read. "
            f"Convert them to {WEIGHTS} where you trust them."
        )
    raise InputError(f"{path}: no weights ({WEIGHTS}). {_AGAIN}")


def _shard_names(index: Path) -> list[str]:
    files = _json_object(index).get("weight_map", {})
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise InputError(f"{index}: weight_map does not give a file for each tensor. {_AGAIN}")
    return sorted(set(files.values()))


def _json_object(path: Path) -> dict[str, Any]:
    values = read_json(path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: not a JSON object. {_AGAIN}")
    return values


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(file, framework="np") as handle:
            return {name: tuple(handle.get_slice(name).get_shape()) for name in handle.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{file}: cut off or damaged ({error}). {_AGAIN}") from error
