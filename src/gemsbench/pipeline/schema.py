"""The JSON schema of a profile, made from the dataclasses that read it; `python -m gemsbench.pipeline.schema FILE`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from gemsbench.files import write_text
from gemsbench.profile import Profile

HEADER = "# Made by `make schema` from gemsbench.profile; do not edit.\n"


def profile_schema() -> dict[str, Any]:
    """JSON schema (2020-12) of config/*.yaml; an object with named keys allows no others."""
    schema = TypeAdapter(Profile).json_schema()
    _close(schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def schema_text() -> str:
    """The schema file, as it stands in workflow/schemas/."""
    return HEADER + yaml.safe_dump(profile_schema(), sort_keys=True, allow_unicode=True, width=120)


def _close(node: Any) -> None:
    if isinstance(node, dict):
        if "properties" in node:
            node.setdefault("additionalProperties", False)
        for child in node.values():
            _close(child)
    elif isinstance(node, list):
        for child in node:
            _close(child)


if __name__ == "__main__":
    write_text(Path(sys.argv[1]), schema_text())
