"""The captions of `snakemake --report` render with the configuration of every profile, as Snakemake renders them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from docutils.core import publish_parts
from jinja2 import Environment, StrictUndefined


def render(path: Path, config: dict[str, object]) -> str:
    text = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(
        path.read_text(encoding="utf-8")
    )
    plain = text.render(snakemake=SimpleNamespace(config=config))
    settings = {"halt_level": 2, "report_level": 2}
    return str(publish_parts(plain, writer="html", settings_overrides=settings)["html_body"])


@pytest.mark.parametrize("profile", ["mini", "mini-real", "paper"])
def test_every_caption_renders_without_a_warning(repository: Path, profile: str) -> None:
    config = yaml.safe_load((repository / "config" / f"{profile}.yaml").read_text(encoding="utf-8"))
    captions = sorted((repository / "workflow" / "report").glob("*.rst"))
    assert {"workflow", "table1", "table2", "table4", "sanity", "tables"} <= {path.stem for path in captions}
    for path in captions:
        assert profile in render(path, config), path


def test_only_a_comparable_profile_loses_the_warning(repository: Path) -> None:
    config = yaml.safe_load((repository / "config" / "mini.yaml").read_text(encoding="utf-8"))
    path = repository / "workflow" / "report" / "table1.rst"
    assert "Not comparable" in render(path, config)
    assert "Not comparable" not in render(path, config | {"comparable_with_paper": True})
