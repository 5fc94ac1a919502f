"""Every verb on a small world, in the order in which a person would type them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
import yaml

from gemsbench.backbones.catalogue import BackboneSpec
from gemsbench.cli import main
from gemsbench.files import read_header, read_json, read_table, sha256_file, write_json, write_table

PROFILE = {
    "profile": "tiny",
    "seeds": [1],
    "history_length": 5,
    "recipes": {"simulated-amazon": {"world": {"users": 250, "items": 220, "listed_items": 240}}},
    "methods": {"random": {}, "popularity": {}},
    "tables": {"columns": {"Amazon": "simulated-amazon"}},
}
SMALLEST = {"vocabulary": 400, "width": 16, "feed_forward": 16, "layers": 1, "heads": 2}
TUNED = PROFILE | {
    "profile": "tuned",
    "corpus": {"name": "simulated-encyclopedia", "settings": {"words": 3000, "topics": 12, "note_topics": 8}},
    "backbones": {"t5-mini": {**SMALLEST, "pretraining": {"steps": 2, "evaluations": 1}}},
    "methods": {"bsr": {}},
    "tables": {"columns": {"Amazon": "simulated-amazon"}, "blocks": {"T5-base": "t5-mini"}},
}
RUNS = Path("results/tiny/runs/simulated-amazon/none")
DATA = "results/tiny/prepared/simulated-amazon"

Run = Callable[..., str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    root = tmp_path_factory.mktemp("verbs")
    (root / "tiny.yaml").write_text(yaml.safe_dump(PROFILE, sort_keys=False))
    (root / "tuned.yaml").write_text(yaml.safe_dump(TUNED, sort_keys=False))
    for name in ("envs", "workflow"):
        (root / name).symlink_to(repository / name)
    shutil.copytree(repository / "results" / "published", root / "results" / "published")
    return root


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(folder)

    def call(*arguments: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["gemsbench", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        assert int(stop.value.code or 0) == code, captured.err
        return captured.out + captured.err

    return call


@pytest.fixture(scope="module")
def prepared(folder: Path) -> Path:
    """The folder after fetch, prepare, train and evaluate have run once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        commands = [["data", "fetch", "simulated-amazon"], ["data", "prepare", "simulated-amazon"]]
        commands += [["train", method, "simulated-amazon"] for method in ("random", "popularity")]
        for command in commands:
            _quietly(patch, *command, "--config", "tiny.yaml", "--quiet")
        for method in ("random", "popularity"):
            _quietly(patch, "evaluate", str(RUNS / method / "1/scores.parquet"), "--data", DATA, "--quiet")
    return folder


def _quietly(patch: pytest.MonkeyPatch, *arguments: str) -> None:
    patch.setattr(sys, "argv", ["gemsbench", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code


def test_the_chain_ends_in_tables(prepared: Path, run: Run) -> None:
    assert "tables in" in run("tables", "--config", "tiny.yaml")
    tables = prepared / "results/tiny/tables"
    assert "Popularity" in (tables / "sanity.md").read_text()
    assert "not comparable with the paper" in (tables / "table1.tex").read_text()
    assert (tables / "provenance.json").is_file()


def test_the_training_curves_are_drawn(prepared: Path, run: Run) -> None:
    assert "figures in" in run("figures", "--config", "tiny.yaml")
    assert (prepared / "results/tiny/figures/training.svg").is_file()
    assert (prepared / "results/tiny/figures/provenance.json").is_file()


def test_a_backbone_comes_with_its_corpus_and_a_run_refuses_one_that_is_absent_or_out_of_date(
    prepared: Path, run: Run
) -> None:
    train = ("train", "bsr", "simulated-amazon", "--backbone", "t5-mini", "--config", "tuned.yaml")
    assert "Make it first: `gemsbench backbone t5-mini --config tuned.yaml`" in run(*train, code=1)
    text = prepared / "data/simulated/simulated-encyclopedia/encyclopedia.txt"
    assert not text.exists()
    assert "backbone in results/tuned/backbones/t5-mini" in run("backbone", "t5-mini", "--config", "tuned.yaml")
    assert text.is_file() and text.with_name("provenance.json").is_file()
    assert read_json(prepared / "results/tuned/backbones/t5-mini/provenance.json")["threads"] == 1
    settings = TUNED["backbones"]["t5-mini"] | {"width": 32}
    (prepared / "tuned.yaml").write_text(yaml.safe_dump(TUNED | {"backbones": {"t5-mini": settings}}))
    shown = run(*train, code=1)
    assert "(other settings). Make it again: `gemsbench backbone t5-mini --config tuned.yaml`" in shown


def test_a_basis_comes_with_its_text_and_a_run_refuses_one_that_is_absent_or_out_of_date(
    prepared: Path, run: Run
) -> None:
    known = TUNED | {"profile": "known", "methods": {"gems": {}}, "knowledge": {"settings": {"documents": 20}}}
    (prepared / "known.yaml").write_text(yaml.safe_dump(known))
    options = ("--config", "known.yaml")
    train = ("train", "gems", "simulated-amazon", "--backbone", "t5-mini", *options)
    assert "Make it first: `gemsbench backbone t5-mini --config known.yaml`" in run(
        "basis", "t5-mini", *options, code=1
    )
    run("backbone", "t5-mini", *options, "--quiet")
    assert "Make it first: `gemsbench basis t5-mini --config known.yaml`" in run(*train, code=1)
    shown = run("basis", "t5-mini", *options)
    assert "energy(k)" in shown and "knowledge basis in results/known/basis/t5-mini.safetensors" in shown
    record = read_json(prepared / "results/known/basis/t5-mini.provenance.json")
    assert record["threads"] == 1 and record["notes"]["about"]["documents"] == 20
    assert record["notes"]["about"]["corpus"]["corpus"] == "simulated-encyclopedia"
    assert (prepared / "results/known/basis/t5-mini.safetensors").stat().st_mode & 0o777 == 0o644
    run("basis", "t5-mini", "--side", "output", *options, "--quiet")
    assert (prepared / "results/known/basis/t5-mini-output.safetensors").is_file()
    (prepared / "known.yaml").write_text(yaml.safe_dump(known | {"knowledge": {"settings": {"documents": 21}}}))
    assert "(other settings). Make it again: `gemsbench basis t5-mini --config known.yaml`" in run(*train, code=1)
    assert "'sideways' is not one of" in run("basis", "t5-mini", "--side", "sideways", *options, code=2)
    side = {"methods": {"gems": {"config": {"tuners": {"t5": {"config": {"null_space_side": "output"}}}}}}}
    (prepared / "known.yaml").write_text(yaml.safe_dump(known | side))
    (prepared / "results/known/basis/t5-mini-output.safetensors").unlink()
    assert "`gemsbench basis t5-mini --side output --config known.yaml`" in run(*train, code=1)


def test_identifiers_come_after_their_vectors_and_go_out_and_come_in_as_an_index(prepared: Path, run: Run) -> None:
    small = {"rqvae": {"config": {"quantiser": {"hidden": [16], "latent": 8, "codebook_size": 16, "epochs": 2}}}}
    mine = {"mine": {"base": "imported", "config": {"index": "out/simulated-amazon.index.json"}}}
    chosen = TUNED | {"profile": "tiny", "recipes": PROFILE["recipes"], "methods": {"tiger": {}}}
    chosen |= {"encoders": {"item-text": {}}, "identifiers": small | mine}
    (prepared / "ids.yaml").write_text(yaml.safe_dump(chosen))
    ids, options = ("ids", "rqvae", "simulated-amazon"), ("--config", "ids.yaml")
    assert "Make it first: `gemsbench encoder item-text simulated-amazon --config ids.yaml`" in run(
        *ids, *options, code=1
    )
    shown = run("encoder", "item-text", "simulated-amazon", *options)
    assert "item-text on simulated-amazon: vectors of" in shown and "chance: 0.0" in shown
    shown = run(*ids, *options, "--export", "out")
    assert (
        "levels 4: size" in shown
        and "exported to out/simulated-amazon.index.json, out/simulated-amazon.item2id" in shown
    )
    run("ids", "mine", "simulated-amazon", *options, "--quiet")
    made = prepared / "results/tiny/identifiers/simulated-amazon"
    assert read_table(made / "mine/codes.parquet").equals(read_table(made / "rqvae/codes.parquet"))
    assert read_json(made / "rqvae/provenance.json")["notes"]["stats"]["n_items"] > 0
    (prepared / "ids.yaml").write_text(yaml.safe_dump(chosen | {"encoders": {"item-text": {"width": 9}}}))
    assert "(other settings). Make it again: `gemsbench encoder item-text" in run(*ids, *options, code=1)
    assert "unknown scheme of the profile 'rqvea'. Did you mean 'rqvae'" in run(
        "ids", "rqvea", ids[2], *options, code=1
    )


@pytest.mark.parametrize("verb", ["backbone", "basis"])
def test_text_of_other_settings_is_fetched_anew(
    prepared: Path, run: Run, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    read: list[int] = []

    def backbone(spec: BackboneSpec, _settings: object, corpus: Path | None, out: Path, _seed: int) -> None:
        read.extend([len(corpus.read_text().split())] if corpus else [])
        for file in spec.files:
            write_json(out / file, {})

    def basis(_weights: Path, texts: Iterable[str], _settings: object, path: Path, *_: object, **__: object) -> object:
        read.append(sum(len(text.split()) for text in texts))
        write_json(path, {})
        return SimpleNamespace(hash="", about={}, summary=str)

    monkeypatch.setattr("gemsbench.training.pretraining.make_backbone", backbone)
    monkeypatch.setattr("gemsbench.training.knowledge.make_basis", basis)
    record = prepared / "data/simulated/simulated-encyclopedia/provenance.json"
    for words in (3000, 6000):
        corpus = {"name": "simulated-encyclopedia", "settings": {"words": words, "topics": 12, "note_topics": 8}}
        pretrained = {"profile": "text", "corpus": corpus}
        hub = {"profile": "text", "corpus": {}, "backbones": {}, "knowledge": {"corpus": corpus}}
        hub["tables"] = {"columns": {}, "blocks": {"T5-base": "flan-t5-small"}}
        chosen, name = (pretrained, "t5-mini") if verb == "backbone" else (hub, "flan-t5-small")
        (prepared / "text.yaml").write_text(yaml.safe_dump(TUNED | chosen))
        if verb == "basis":
            run("backbone", name, "--config", "text.yaml")
        run(verb, name, "--config", "text.yaml")
        assert 0.9 * words < read.pop() < 1.5 * words
        assert read_json(record)["identity"]["settings"]["settings"]["words"] == words
        made = record.stat().st_mtime_ns
        run(verb, name, "--config", "text.yaml")
        assert record.stat().st_mtime_ns == made  # current text is not made again


def test_a_run_is_handed_its_basis_or_the_one_that_the_caller_names(
    prepared: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = TUNED | {
        "profile": "handed",
        "methods": {"gems": {}, "bsr": {}},
        "knowledge": {"settings": {"documents": 9}},
    }
    (prepared / "handed.yaml").write_text(yaml.safe_dump(known))
    options = ("--config", "handed.yaml", "--quiet")
    run("data", "prepare", "simulated-amazon", *options)
    run("backbone", "t5-mini", *options)
    run("basis", "t5-mini", *options)
    run("ids", "atomic", "simulated-amazon", *options)
    seen: list[object] = []
    codes: list[object] = []

    def fitted(*arguments: Path | object, basis: Path | None = None, identifiers: Path, **_: object) -> None:
        seen.append(basis)
        codes.append(identifiers)
        folder = Path(str(arguments[4]))
        for name in ("scores.parquet", "log.jsonl"):
            write_json(folder / name, {})

    monkeypatch.setattr("gemsbench.methods.run.fit_and_score", fitted)
    for method in ("gems", "bsr"):
        run("train", method, "simulated-amazon", "--backbone", "t5-mini", *options)
    own = Path("results/handed/basis/t5-mini.safetensors")
    shutil.copy(own, "mine.safetensors")
    run("train", "gems", "simulated-amazon", "--backbone", "t5-mini", "--basis", "mine.safetensors", *options)
    assert seen == [own, None, Path("mine.safetensors")]
    assert codes == [Path("results/handed/identifiers/simulated-amazon/atomic")] * 3
    record = read_json(prepared / "results/handed/runs/simulated-amazon/t5-mini/gems/1/provenance.json")
    assert record["identity"]["inputs"]["basis"] == sha256_file(own)


def test_a_hub_model_can_be_fetched_before_any_profile_uses_it(
    prepared: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetched(spec: BackboneSpec, _settings: object, corpus: Path | None, out: Path, _seed: int) -> None:
        assert corpus is None
        for file in spec.files:
            write_json(out / file, {})

    monkeypatch.setattr("gemsbench.training.pretraining.make_backbone", fetched)
    assert "backbone in" in run("backbone", "flan-t5-small", "--config", "tiny.yaml")
    record = read_json(prepared / "results/tiny/backbones/flan-t5-small/provenance.json")
    assert record["identity"]["settings"]["repository"] == "google/flan-t5-small"
    shutil.rmtree(prepared / "results/tiny/backbones")


def test_a_mistyped_corpus_gets_a_hint(prepared: Path, run: Run) -> None:
    shown = run("data", "fetch", "simulated-encyclopedi", "--config", "tuned.yaml", code=1)
    assert "Did you mean 'simulated-encyclopedia'?" in shown


def test_every_result_says_where_it_comes_from(prepared: Path) -> None:
    scores = prepared / RUNS / "popularity/1/scores.parquet"
    record = read_json(scores.with_name("provenance.json"))
    assert record["outputs"]["scores"] == sha256_file(scores)
    assert record["identity"]["settings"]["method"] == "popularity"
    assert {"run_id", "seeds", "packages", "machine", "wall_seconds", "peak_memory_mib"} <= set(record)


def test_prepared_data_validate_and_describe_themselves(prepared: Path, run: Run) -> None:
    assert "every invariant holds" in run("data", "validate", "simulated-amazon", "--config", "tiny.yaml")
    assert "funnel" in run("data", "stats", "simulated-amazon", "--config", "tiny.yaml")


def test_tampering_ends_in_exit_code_1_and_a_leak_in_3(prepared: Path, run: Run, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    options = ("--config", "tiny.yaml", "--out", str(broken))
    shutil.copytree(prepared / DATA, broken)
    cases = pl.read_parquet(broken / "cases.parquet")
    leaking = cases.with_columns(
        hist_items=pl.when(pl.col("hist_items").list.len() > 0)
        .then(pl.concat_list(pl.col("hist_items").list.head(pl.col("hist_items").list.len() - 1), "target_item"))
        .otherwise("hist_items")
    )
    leaking.write_parquet(broken / "cases.parquet")
    assert "changed or cut" in run("data", "validate", "simulated-amazon", *options, code=1)
    stats = read_json(broken / "stats.json")
    stats["files"]["cases.parquet"] = sha256_file(broken / "cases.parquet")
    write_json(broken / "stats.json", stats)
    assert "L-a" in run("data", "validate", "simulated-amazon", *options, code=3)


def test_scores_can_be_made_again_compared_and_exchanged(prepared: Path, run: Run, tmp_path: Path) -> None:
    again, trec, back = (str(tmp_path / name) for name in ("again.parquet", "run.txt", "back.parquet"))
    original = str(RUNS / "popularity/1/scores.parquet")
    run("score", "popularity", "simulated-amazon", "--config", "tiny.yaml", "--data", DATA, "--out", again)
    assert pl.read_parquet(again).equals(pl.read_parquet(original))
    shown = run("compare", str(RUNS / "popularity/1"), str(RUNS / "random/1"), "--data", DATA)
    assert "ndcg@10" in shown
    assert "qrels" in run("trec", "export", original, "--data", DATA, "--out", trec)
    run("trec", "import", trec, "--data", DATA, "--out", back)
    first, second = (run("evaluate", path, "--data", DATA, "--out", str(tmp_path / "m")) for path in (original, back))
    assert _column(first, "ndcg@10") == _column(second, "ndcg@10")


def _column(table: str, name: str) -> list[str]:
    lines = [line.split() for line in table.splitlines() if line.strip()]
    place = lines[0].index(name)
    return [line[place] for line in lines[2:]]


def test_a_pack_serves_those_who_never_run_the_workflow(prepared: Path, run: Run, tmp_path: Path) -> None:
    run("data", "export", "simulated-amazon", "--config", "tiny.yaml", "--out", str(tmp_path / "pack"))
    scores, pack = str(RUNS / "random/1/scores.parquet"), str(tmp_path / "pack")
    shown = [run("evaluate", scores, "--data", data, "--out", str(tmp_path / "a")) for data in (DATA, pack)]
    assert "hit@10" in shown[0]
    assert shown[0] == shown[1]


def test_what_is_missing_is_named(prepared: Path, run: Run, tmp_path: Path) -> None:
    scores = str(RUNS / "random/1/scores.parquet")
    assert "absent.parquet: missing" in run("evaluate", "absent.parquet", "--data", DATA, code=1)
    assert "absent/items.parquet: missing" in run("evaluate", scores, "--data", "absent", code=1)
    own = PROFILE | {"profile": "own", "recipes": {"canonical": {"folder": "nowhere"}}, "tables": {"columns": {}}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    assert "nowhere/interactions.parquet: missing" in run(
        "data", "prepare", "canonical", "--config", str(tmp_path / "own.yaml"), code=1
    )


def test_show_prints_a_case_and_knows_its_neighbours(prepared: Path, run: Run) -> None:
    cases = pl.read_parquet(prepared / DATA / "cases.parquet").filter(pl.col("split") == "test")
    shown = run("show", str(cases["case_id"][0]), "--config", "tiny.yaml")
    assert "History" in shown
    assert "popularity" in shown
    assert "the nearest test case" in run("show", "99999999", "--config", "tiny.yaml", code=1)


def test_plan_sync_and_prune_agree_with_what_is_there(prepared: Path, run: Run) -> None:
    shown = run("plan", "--config", "tiny.yaml")
    for rule in ("fetch", "prepare", "train", "evaluate", "tables", "figures"):
        assert rule in shown
    assert "sync:" in run("sync", "--config", "tiny.yaml")
    stray = prepared / "results/tiny/runs/simulated-amazon/none/random/9/scores.parquet"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"stray")
    assert "random/9" in run("prune", "--config", "tiny.yaml")
    run("prune", "--config", "tiny.yaml", "--yes")
    assert not stray.exists()
    assert (prepared / RUNS / "random/1/scores.parquet").exists()


def test_scores_of_a_model_that_saw_other_events_are_refused(prepared: Path, run: Run, tmp_path: Path) -> None:
    """Invariant L-g: artefacts declare what they were fitted on."""
    table, header = (read(RUNS / "popularity/1/scores.parquet") for read in (pl.read_parquet, read_header))
    assert header["fitted_on"] == read_json(RUNS / "popularity/1/model/fitted_on.json")
    for declared in ({"split": "all", "events": header["fitted_on"]["events"]}, {"split": "train", "events": "0"}):
        write_table(tmp_path / "other.parquet", table, header | {"fitted_on": declared})
        shown = run("evaluate", str(tmp_path / "other.parquet"), "--data", DATA, code=1)
        assert "Train it on this data's training split" in shown
    write_table(tmp_path / "outside.parquet", table, {k: v for k, v in header.items() if k != "fitted_on"})
    run("evaluate", str(tmp_path / "outside.parquet"), "--data", DATA, "--out", str(tmp_path / "m"))
