"""Typed settings: YAML becomes frozen dataclasses, an unknown key is an error that names the nearest one."""

from __future__ import annotations

import dataclasses
import difflib
import json
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from gemsbench.errors import InputError

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a mistyped name: the closest known one, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"Did you mean '{close[0]}'?" if close else f"Known: {', '.join(names) or '(none)'}."


def load_settings(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build the frozen dataclass `kind` from values; nested dataclasses too, no type is guessed.

    Raises InputError naming the key (dotted), the file (`where`) and the nearest known key or expected type.
    """
    _reject_unknown_keys(kind, values, where, prefix="")
    try:
        return TypeAdapter(kind).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in problem['loc']) or '(top level)'}: {problem['msg']}"
            for problem in error.errors(include_url=False)
        ]
        raise InputError(f"{where}: " + "; ".join(problems) + ".") from error
    except TypeError as error:
        raise InputError(f"{where}: not plain YAML values ({error}).") from error


def _reject_unknown_keys(kind: type, values: Mapping[str, Any], where: str, prefix: str) -> None:
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: '{prefix.rstrip('.') or '(top level)'}' must be a mapping of keys to values.")
    known = {field.name: field.type for field in dataclasses.fields(kind)}
    for key, value in values.items():
        if key not in known:
            raise InputError(f"{where}: unknown key '{prefix}{key}'. {nearest(str(key), known)}")
        _check_nested(typing.get_type_hints(kind)[key], value, where, f"{prefix}{key}.")


def _check_nested(expected: Any, value: Any, where: str, prefix: str) -> None:
    if isinstance(expected, type) and dataclasses.is_dataclass(expected):
        _reject_unknown_keys(expected, value, where, prefix)
    elif typing.get_origin(expected) is Mapping and isinstance(value, Mapping):
        for name, entry in value.items():
            _check_nested(typing.get_args(expected)[1], entry, where, f"{prefix}{name}.")


def settings_dict(settings: Any) -> dict[str, Any]:
    """A frozen dataclass as plain JSON values, all defaults spelled out."""
    values: dict[str, Any] = TypeAdapter(type(settings)).dump_python(settings, mode="json")
    return values


class _StrictLoader(yaml.SafeLoader):
    """The safe loader, with a repeated key as an error instead of the last one winning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; raises yaml.YAMLError on a repeated key."""
        # "<<: *name" takes over the keys of another mapping; those that are spelled out win.
        own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        keys = [self.construct_object(key, deep=True) for key in own]
        repeated = sorted({str(key) for key in keys if keys.count(key) > 1})
        if repeated:
            raise yaml.YAMLError(f"repeated key {', '.join(repeated)} {node.start_mark}")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping with the safe loader; raises InputError."""
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_StrictLoader)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"{path}: no such file. Name a profile with --config, e.g. config/mini.yaml.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: must be a mapping of keys to values.")
    return values
