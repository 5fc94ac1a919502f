"""Files of a sentence-transformers model: a snapshot of the hub at a pinned revision, safetensors weights only."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from gemsbench.backbones.hub import MIRROR, online
from gemsbench.errors import InputError
from gemsbench.files import sha256_file

_DOWNLOADED = ("*.json", "*.txt", "*.model", "*.safetensors")
_NOT_DOWNLOADED = ("onnx/*", "openvino/*")  # the same weights for other runtimes
_PICKLED = {"pytorch_model*.bin": "model*.safetensors", "adapter_model*.bin": "adapter_model*.safetensors"}


def hub_snapshot(model: str, repository: str, revision: str) -> Path:
    """Folder of the model's files in the hub's cache; what is missing is downloaded, whatever HF_HUB_OFFLINE says.

    model: its name here, for messages. Raises InputError when a file cannot be had, and when the weights are pickled;
    those are not downloaded.
    """
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, HfHubHTTPError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    try:
        with online():
            wanted, left_out = [*_DOWNLOADED], [*_NOT_DOWNLOADED]
            snapshot = snapshot_download(repository, revision=revision, allow_patterns=wanted, ignore_patterns=left_out)
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{repository} at revision {revision} cannot be had ({reason}). Run this once on a machine with a "
            f"connection, or put the files of that snapshot into ${MIRROR}/encoders/{model}."
        ) from error
    try:
        names = [file.path for file in get_cached_repo_tree(repository, revision=revision)]  # all that the hub has
    except CachedRepoTreeNotFoundError:  # an older library filled the cache
        names = file_names(Path(snapshot))
    require_safetensors(names, f"{repository} at revision {revision}", f"${MIRROR}/encoders/{model}")
    return Path(snapshot)


def file_names(folder: Path) -> list[str]:
    """Paths of all files in the folder, relative to it, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def require_safetensors(names: Iterable[str], where: str, target: str) -> None:
    """Raise InputError when one of the files (relative paths) is pickled weights without safetensors beside it.

    target: where converted files are looked for, for the message.
    """
    paths = [PurePosixPath(name) for name in names]
    for path in paths:
        for pickled, safe in _PICKLED.items():
            beside = (other.name for other in paths if other.parent == path.parent)
            if fnmatch(path.name, pickled) and not any(fnmatch(name, safe) for name in beside):
                raise InputError(
                    f"{where}: {path} is a pickle, which can run code when it is read, and there are no safetensors "
                    f"weights beside it. Convert it where you trust it (SentenceTransformer.save writes safetensors) "
                    f"and put the result into {target}, or use a model that has them."
                )


def weights_sha256(folder: Path) -> dict[str, str]:
    """sha256 of each safetensors file in the folder, by its path in it."""
    return {name: sha256_file(folder / name) for name in file_names(folder) if name.endswith(".safetensors")}
