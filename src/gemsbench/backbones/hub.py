"""Hub models at their pinned revisions: from a mirror folder, or downloaded, resumable, checked before they appear.

No file hashes are pinned: a revision is a commit, and architecture, shapes and headers of the weights are compared
with the catalogue.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gemsbench.backbones.catalogue import LOG, RECORD, BackboneSpec
from gemsbench.backbones.folder import check_folder
from gemsbench.errors import InputError
from gemsbench.files import atomic_path, remove, sha256_file, write_json
from gemsbench.progress import progress_bar

MIRROR = "GEMSBENCH_MIRROR"  # a folder of downloaded things; backbones lie in backbones/<name>


def fetch_hub_model(spec: BackboneSpec, out: Path) -> None:
    """Write the pinned files of a hub model and backbone.json into the folder `out`, whole or not at all.

    Files come from $GEMSBENCH_MIRROR/backbones/<name> when that folder exists, else from the hub, whatever
    HF_HUB_OFFLINE says: this is the one job that downloads. What has arrived waits in `<out>.checkpoint`, so a
    download that was cut off goes on. Raises InputError without a connection, when a file is not there, or when the
    files are not what the catalogue says.
    """
    began = time.monotonic()
    arriving = out.with_name(f"{out.name}.checkpoint")
    arriving.mkdir(parents=True, exist_ok=True)
    mirror = Path(os.environ.get(MIRROR, "")) / "backbones" / spec.name
    source = str(mirror) if os.environ.get(MIRROR) and mirror.is_dir() else spec.repository
    with progress_bar(spec.name, total=len(spec.downloaded)) as report:
        for done, name in enumerate(spec.downloaded):
            report(done, f"{spec.name}: {name}")
            if source == spec.repository:
                _download(spec, name, arriving)
            else:
                _copy(mirror / name, arriving / name)
    remove(arriving / ".cache")
    checked = check_folder(arriving, spec)
    record = {
        "backbone": spec.name,
        "kind": spec.kind,
        "repository": spec.repository,
        "revision": spec.revision,
        "rows": checked.config["vocab_size"],
        "weights_sha256": {file.name: sha256_file(file) for file in checked.weights},
    }
    write_json(arriving / RECORD, record)
    line = {"stage": "fetch", "seconds": round(time.monotonic() - began, 3)}
    (arriving / LOG).write_text(json.dumps(line) + "\n", encoding="utf-8")
    with atomic_path(out) as folder:
        arriving.rename(folder)


def _copy(source: Path, target: Path) -> None:
    if not source.is_file():
        raise InputError(f"{source}: no such file, but {MIRROR} names this folder. Copy it there, or unset {MIRROR}.")
    shutil.copyfile(source, target)


def _download(spec: BackboneSpec, name: str, folder: Path) -> None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    try:
        with online():
            hf_hub_download(spec.repository, name, revision=spec.revision, local_dir=folder)
    except (OSError, HfHubHTTPError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{spec.repository} at revision {spec.revision}: {name} cannot be fetched ({reason}). Run "
            f"`gemsbench backbone {spec.name}` on a machine with a connection, or set {MIRROR} to a folder "
            f"that holds backbones/{spec.name}/ with {', '.join(spec.downloaded)}."
        ) from error


@contextmanager
def online() -> Iterator[None]:
    """Within the block huggingface_hub may use the network; it read HF_HUB_OFFLINE when it was imported."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = False
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
