"""Where a checkpoint lies: a local folder, the hub's cache on this machine, or the hub itself."""

from __future__ import annotations

import os
import re
from pathlib import Path

import httpx2
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from core.checkpoint_files import SIDECARS, check_folder, read_config, weight_files
from core.errors import CheckpointNotFound, Refused

_HUB_ID = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w.-]+(/[\w.-]+)*))?")
WANTED = ["*.safetensors", "*.safetensors.index.json", "*.model", *sorted(SIDECARS)]
# Not the same weights again (Mistral's consolidated files, exports in subfolders), and never a pickle.
UNWANTED = ["consolidated*", "*/*", "*.bin", "*.pt", "*.pth"]


def is_offline(offline: bool | None) -> bool:
    """Whether to leave the network alone: when asked to, and always when HF_HUB_OFFLINE says so."""
    variable = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}
    return bool(offline) or variable or constants.is_offline_mode()


def _expanded(source: str | Path) -> Path:
    try:
        return Path(source).expanduser()
    except RuntimeError:                               # `~name`, and the system knows nobody of that name
        return Path(source)


def locate(source: str | Path, *, offline: bool | None = None, cache: Path | None = None) -> Path:
    """The folder of a checkpoint given as a path, "org/name" or "org/name@revision".

    A folder of that name comes first, then the hub's cache, then, unless offline, a download into that cache
    (safetensors, config and tokenizer files only). `cache` replaces the hub's own cache folder.

    Raises:
        CheckpointNotFound: none of these has it, or the hub refuses it; the sentence says which.
        EmptyFolder: the folder given can't be used.
    """
    folder = _expanded(source)
    match = _HUB_ID.fullmatch(source) if isinstance(source, str) else None
    if match is None or os.path.exists(folder):
        check_folder(folder)
        return folder
    name, revision = match["name"], match["revision"]
    if ".." in name or "--" in name or (revision and ".." in revision):
        raise CheckpointNotFound(
            f"{source} is neither a folder nor a possible name of a model on the hub.",
            remedy="Check it for a typing error.",
        )
    cached = _snapshot(name, revision, cache)
    if is_offline(offline):
        if cached is None:
            raise CheckpointNotFound(
                f"{source} is neither a folder nor a model in the local hub cache.",
                "Offline mode is on, so it can't be downloaded.",
                "Check the name, download it on a connected machine, or switch offline mode off.",
            )
        return cached
    if cached is not None and _is_complete(cached):
        return cached
    return _download(source, name, revision, cache)


def _snapshot(name: str, revision: str | None, cache: Path | None) -> Path | None:
    """The snapshot's folder in the cache, whole or partial."""
    try:
        return Path(
            snapshot_download(
                name, revision=revision, cache_dir=cache, local_files_only=True, allow_patterns=[]
            )
        )
    except (LocalEntryNotFoundError, OSError, ValueError):
        return None


def _is_complete(folder: Path) -> bool:
    """Whether config and all weights are there; loading a tokenizer alone leaves a snapshot without them."""
    try:
        read_config(folder)
        weight_files(folder)
    except Refused:
        return False
    return True


def _download(source: str | Path, name: str, revision: str | None, cache: Path | None) -> Path:
    try:
        return Path(
            snapshot_download(
                name, revision=revision, cache_dir=cache, allow_patterns=WANTED, ignore_patterns=UNWANTED
            )
        )
    except GatedRepoError as error:
        raise CheckpointNotFound(
            f"The hub does not hand out {source} to everyone.",
            "Its owner asks for an account and consent first.",
            "Accept the conditions on the model's page, then log in with `hf auth login`.",
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointNotFound(
            f"{source} is neither a folder nor a model on the hub.",
            "",
            "Check the spelling; for a private model log in with `hf auth login`.",
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointNotFound(
            f"The hub has {name}, but not its revision {revision}.", "", "Check the part after the @."
        ) from error
    except (HfHubHTTPError, httpx2.HTTPError, OSError, ValueError) as error:
        raise CheckpointNotFound(
            f"{source} is neither a folder nor wholly in the hub cache, and could not be downloaded.",
            f"The download ended with: {_first_line(error)}.",
            "Check the name and the connection, then try again; what was downloaded is kept.",
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
