"""`data stats` and `data card` on a small prepared world."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from gemsbench.cli.dataset_pages import card_page, statistics_page
from gemsbench.data.amazon import SIMULATED, SimulatedAmazonSettings
from gemsbench.data.simulation.world import WorldSettings
from gemsbench.errors import InputError
from gemsbench.files import read_json, write_json
from gemsbench.profile import Profile, TableSettings
from gemsbench.protocol.prepare import prepare

CONFIG = Path("config/tiny.yaml")
PROFILE = Profile(
    profile="tiny",
    seeds=(1,),
    history_length=5,
    recipes={"simulated-amazon": {}},
    methods={},
    tables=TableSettings(columns={"Amazon": "simulated-amazon"}, blocks={"T5-base": "t5-mini"}),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared tables of 250 simulated users."""
    folder = tmp_path_factory.mktemp("prepared")
    settings = SimulatedAmazonSettings(world=WorldSettings(users=250, items=220, listed_items=240))
    (folder / "raw").mkdir()
    SIMULATED.simulate(folder / "raw", settings, 1)  # type: ignore[misc]
    prepare(SIMULATED, settings, folder / "raw", folder / "tables", seed=1, history_length=5)
    return folder / "tables"


@pytest.fixture
def page(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("GEMSBENCH_MIRROR", raising=False)
    return statistics_page(PROFILE, CONFIG, SIMULATED, made, tmp_path)


def test_statistics_are_printed_section_by_section(page: str, made: Path) -> None:
    stats = read_json(made / "stats.json")
    places = [
        page.index(word) for word in ("quantity", "The funnel", "leaks", "Items that have", "Unknown", "Chance level")
    ]
    assert places == sorted(places)
    assert f"{stats['inter_rec']:,}" in page and f"{stats['item_share']['title']:.2%}" in page
    assert page.count("0.0454") == 2
    assert "Make it: gemsbench backbone t5-mini --config config/tiny.yaml" in page
    lines = page.splitlines()
    first, last = (next(n for n, line in enumerate(lines) if word in line) for word in ("review_lines", "split: src"))
    assert first < last  # in the order of the pipeline, which is not that of the alphabet


def test_machines_get_json(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEMSBENCH_MIRROR", raising=False)
    told = json.loads(statistics_page(PROFILE, CONFIG, SIMULATED, made, tmp_path, as_json=True))
    stats = read_json(made / "stats.json")
    assert told["recipe"] == "simulated-amazon" and told["fingerprint"] == stats["fingerprint"]
    assert [row["stage"] for row in told["funnel"]["rows"]] == stats["stages"]
    assert {row["leak_rate"] for row in told["cases"]["rows"]} == {0.0}
    assert told["chance"]["rows"][0]["hit@5"] == pytest.approx(0.05)


def test_the_vocabularies_at_hand_are_tried(made: Path, tmp_path: Path, mirror: Path) -> None:
    told = json.loads(statistics_page(PROFILE, CONFIG, SIMULATED, made, tmp_path, as_json=True))["unknown_tokens"]
    tried = [(row["tokenizer"], row["of"]) for row in told["rows"]]
    assert tried == [(f"{name} (published)", of) for name in ("T5", "Qwen") for of in ("item texts", "queries")]
    assert all(row["texts"] > 0 and row["tokens_per_text"] > 1 for row in told["rows"])
    assert {row["unknown_tokens"] for row in told["rows"] if row["tokenizer"].startswith("Qwen")} == {0.0}


def test_a_recipe_that_is_not_prepared_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"Make it: gemsbench data prepare simulated-amazon --config config/tiny\.yaml"
    ):
        statistics_page(PROFILE, CONFIG, SIMULATED, tmp_path / "nowhere", tmp_path)


def test_a_card_has_measured_numbers_where_there_are_some(made: Path, tmp_path: Path) -> None:
    bare, full = (card_page("simulated-amazon", folder, CONFIG) for folder in (tmp_path, made))
    assert bare == card_page("simulated-amazon", None, CONFIG)
    assert "## Measured" not in bare and full.startswith(bare.rstrip("\n"))
    assert read_json(made / "stats.json")["fingerprint"] in full


def test_a_card_of_any_registered_recipe_and_of_no_other(tmp_path: Path) -> None:
    assert "`movielens-small`" in card_page("movielens-small", tmp_path, CONFIG)
    with pytest.raises(InputError, match=r"unknown recipe 'movielens'\. .*movielens-small"):
        card_page("movielens", tmp_path, CONFIG)


def test_statistics_of_an_earlier_version_name_the_command_and_leave_the_card(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "old")
    stats = read_json(made / "stats.json")
    write_json(tmp_path / "old" / "stats.json", {name: value for name, value in stats.items() if name != "stages"})
    command = "gemsbench data prepare simulated-amazon --config config/tiny.yaml"
    with pytest.raises(InputError, match=rf"no stages in it.*{re.escape(command)}"):
        statistics_page(PROFILE, CONFIG, SIMULATED, tmp_path / "old", tmp_path)
    for content in (None, "cut off"):
        if content:
            (tmp_path / "old" / "stats.json").write_text(content)
        shown = card_page("simulated-amazon", tmp_path / "old", CONFIG)
        bare = card_page("simulated-amazon", None, CONFIG)
        assert shown.startswith(bare) and "## Measured\n\nNot shown: " in shown
        assert ("not valid JSON" if content else command) in shown
