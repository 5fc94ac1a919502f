"""wikipedia: the sample, drawn by `datasets` from local files of the edition's layout; nothing is downloaded."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from gemsbench.data import wikipedia
from gemsbench.data.fetch import fetch
from gemsbench.data.wikipedia import CORPUS, DOCUMENTS, WikipediaSettings, chosen_files, load, sample
from gemsbench.errors import InputError

FILES, ROWS = 5, 60
SETTINGS = WikipediaSettings(files=FILES, read_files=3, documents=40)


def article(number: int) -> str:
    """Every seventh one is too short."""
    return (
        "Short." if number % 7 == 0 else f"Article {number}\n\nIts first line is long enough to count.\n \nMore of it."
    )


@pytest.fixture(scope="module")
def edition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mirror folder with all files of a small edition, in several row groups each."""
    root = tmp_path_factory.mktemp("mirror")
    folder = root / "wikipedia" / SETTINGS.edition
    folder.mkdir(parents=True)
    for file in range(FILES):
        numbers = range(file * ROWS, (file + 1) * ROWS)
        columns = {"id": [str(n) for n in numbers], "url": ["u"] * ROWS, "title": ["t"] * ROWS}
        table = pl.DataFrame({**columns, "text": [article(n) for n in numbers]})
        table.write_parquet(folder / f"train-{file:05d}-of-{FILES:05d}.parquet", row_group_size=16)
    return root


@pytest.fixture(autouse=True)
def _mirror(edition: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMSBENCH_MIRROR", str(edition))


def drawn(folder: Path, settings: WikipediaSettings = SETTINGS, seed: int = 1) -> pl.DataFrame:
    folder.mkdir(exist_ok=True)
    sample(folder, settings, seed)
    return pl.read_parquet(folder / DOCUMENTS)


def test_the_sample_has_its_size_and_comes_from_the_chosen_files(tmp_path: Path) -> None:
    rows = drawn(tmp_path)
    assert rows.columns == ["id", "text"] and rows.height == 40 and rows["id"].n_unique() == 40
    files = {int(number) // ROWS for number in rows["id"]}
    assert {f"train-{file:05d}-of-{FILES:05d}.parquet" for file in files} == set(chosen_files(SETTINGS, 1))
    assert all(int(row["id"]) % 7 for row in rows.iter_rows(named=True))
    assert dict(rows.iter_rows()) == {number: article(int(number)) for number in rows["id"]}


def test_it_is_spread_over_the_files_and_not_their_beginning(tmp_path: Path) -> None:
    rows = drawn(tmp_path)
    places = [int(number) % ROWS for number in rows["id"]]
    assert min(places) < ROWS / 4 and max(places) > 3 * ROWS / 4


def test_it_depends_on_the_seed_and_on_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = drawn(tmp_path / "one")
    # In how many portions the rows arrive is the library's affair.
    monkeypatch.setattr("gemsbench.data.wikipedia._ROWS_AT_A_TIME", 7)
    assert (tmp_path / "one" / DOCUMENTS).read_bytes() == _bytes_of(tmp_path / "two")
    assert not one.equals(drawn(tmp_path / "three", seed=2))
    every = replace(SETTINGS, read_files=FILES)
    assert not drawn(tmp_path / "four", every, seed=1).equals(drawn(tmp_path / "five", every, seed=2))
    assert len({tuple(chosen_files(SETTINGS, seed)) for seed in range(20)}) > 3


def _bytes_of(folder: Path) -> bytes:
    drawn(folder)
    return (folder / DOCUMENTS).read_bytes()


def test_a_larger_sample_of_the_same_files_holds_the_smaller_one(tmp_path: Path) -> None:
    small, large = drawn(tmp_path / "a"), drawn(tmp_path / "b", replace(SETTINGS, documents=90))
    assert set(small["id"]) < set(large["id"])


def test_documents_are_read_with_a_paragraph_per_line(tmp_path: Path) -> None:
    folder = fetch(CORPUS, SETTINGS, 1, tmp_path)
    assert folder == tmp_path / "data/sampled/wikipedia"
    texts = load(folder, SETTINGS)
    assert len(texts) == 40
    assert all(text.split("\n")[1:] == ["Its first line is long enough to count.", "More of it."] for text in texts)


def test_too_few_documents_and_a_missing_file_are_named(tmp_path: Path, edition: Path) -> None:
    with pytest.raises(InputError, match=r"documents of 50 characters or more in 3 files, 400 asked for\. Raise"):
        drawn(tmp_path, replace(SETTINGS, documents=400))
    with pytest.raises(InputError, match=r"of-00007\.parquet: no such file, but GEMSBENCH_MIRROR names this folder"):
        drawn(tmp_path, replace(SETTINGS, files=7))
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "wikipedia" / SETTINGS.edition
    folder.mkdir(parents=True)
    for name in chosen_files(SETTINGS, 1):
        (folder / name).write_bytes(b"PAR1 and nothing else")
    monkeypatch.setenv("GEMSBENCH_MIRROR", str(tmp_path))
    with pytest.raises(InputError, match=r"and 2 more: cannot be read \("):
        drawn(tmp_path / "out")


class Broken:
    """Streams that end with an error after so many batches, a number for each; None is a whole one."""

    def __init__(self, after: list[int | None]) -> None:
        self.after = after
        self.read: list[str] = []
        self.real = wikipedia._streamed

    def __call__(self, source: str) -> Iterator[pl.DataFrame]:
        self.read.append(Path(source).name)
        limit = self.after.pop(0) if self.after else None
        for number, batch in enumerate(self.real(source)):
            if number == limit:
                raise wikipedia._BrokenError("the stream ended")
            yield batch


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Broken]:
    def of(*after: int | None) -> Broken:
        streams = Broken(list(after))
        monkeypatch.setattr(wikipedia, "_streamed", streams)
        return streams

    monkeypatch.setattr(wikipedia, "BACKOFF_S", 0.0)
    monkeypatch.setattr(wikipedia, "_ROWS_AT_A_TIME", 10)
    return of


def test_a_broken_stream_begins_again_and_changes_nothing(broken: Callable[..., Broken], tmp_path: Path) -> None:
    first, second, third = chosen_files(SETTINGS, 1)
    whole = _bytes_of(tmp_path / "whole")
    streams = broken(None, 3, 1, 0, None, 2)
    assert _bytes_of(tmp_path / "broken") == whole
    assert streams.read == [first, second, second, second, second, third, third]
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "broken"}


def test_what_has_been_read_is_of_one_seed(broken: Callable[..., Broken], tmp_path: Path) -> None:
    second = chosen_files(SETTINGS, 1)[1]
    broken(None, 3, 1, 0, 1)
    with pytest.raises(InputError, match=rf"{second} and 1 more: cannot be read \(the stream ended\)"):
        drawn(tmp_path / "broken")
    assert not list((tmp_path / "broken").iterdir())
    streams = broken()
    drawn(tmp_path / "other", seed=2)
    assert streams.read == chosen_files(SETTINGS, 2)


def test_the_next_call_reads_the_rest_only(broken: Callable[..., Broken], tmp_path: Path) -> None:
    _, second, third = chosen_files(SETTINGS, 1)
    whole = _bytes_of(tmp_path / "whole")
    broken(None, 3, 1, 0, 1)
    with pytest.raises(InputError, match="the stream ended"):
        drawn(tmp_path / "broken")
    streams = broken()
    assert _bytes_of(tmp_path / "broken") == whole
    assert streams.read == [second, third]
    assert not (tmp_path / "wikipedia.checkpoint").exists()


def test_a_file_that_does_not_begin_is_tried_again_once_another_has_come(
    broken: Callable[..., Broken], tmp_path: Path
) -> None:
    first, second, third = chosen_files(SETTINGS, 1)
    streams = broken(None, 0, 0)
    drawn(tmp_path / "out")
    assert streams.read == [first, second, second, second, third]


def test_without_a_connection_a_later_run_does_not_wait_either(broken: Callable[..., Broken], tmp_path: Path) -> None:
    """The first file came in an earlier run, which says nothing about this one."""
    second = chosen_files(SETTINGS, 1)[1]
    broken(None, 3, 1, 0, 1)
    with pytest.raises(InputError, match="the stream ended"):
        drawn(tmp_path / "out")
    streams = broken(0, 0, 0, 0)
    with pytest.raises(InputError, match="the stream ended"):
        drawn(tmp_path / "out")
    assert streams.read == [second]


def test_without_a_connection_nothing_is_tried_again(broken: Callable[..., Broken], tmp_path: Path) -> None:
    streams = broken(0, 0)
    with pytest.raises(InputError, match=r"and 2 more: cannot be read \(the stream ended\).*wikipedia/<edition>/"):
        drawn(tmp_path / "out")
    assert len(streams.read) == 1


@pytest.mark.slow
def test_without_a_mirror_the_pinned_commit_is_asked_for_whatever_the_variables_say(tmp_path: Path) -> None:
    """No name is resolved here: the request goes to a port of this machine where nothing listens."""
    code = (
        "from pathlib import Path; from gemsbench.data.wikipedia import WikipediaSettings, sample\n"
        f"sample(Path({str(tmp_path)!r}), WikipediaSettings(), 1)"
    )
    variables = {name: value for name, value in os.environ.items() if name != "GEMSBENCH_MIRROR"}
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**variables, **offline}, capture_output=True, text=True, timeout=200
    )
    last = done.stderr.strip().splitlines()[-1]
    assert "hf://datasets/wikimedia/wikipedia@b04c8d1ceb2f5cd4588862100d08de323dccfbaa/20231101.en/train-000" in last
    assert "cannot be read" in last and "offline mode" not in last.lower()
    assert "GEMSBENCH_MIRROR" in last


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"revision": "main"}, "is no commit"),
        ({"edition": "en"}, "edition 'en' is none"),
        ({"read_files": 42}, "there are 41 files"),
        ({"documents": 0}, "must be at least 1"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        WikipediaSettings(**wrong)  # type: ignore[arg-type]
