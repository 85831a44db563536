"""Which files of a checkpoint folder count: its config, its weights, what travels with it; what is refused.

A folder comes from anywhere, so nothing in it is believed: no path that it names may lead out of it (except,
as in the hub's cache, into the cache's own blobs), nothing that holds or asks for code is opened.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import constants

from core.checkpoint_header import parse_json, shown
from core.errors import (
    BadIndex,
    CheckpointNotFound,
    ConfigMissing,
    EmptyFolder,
    PickleOnly,
    Refused,
    RemoteCode,
    WeightsMissing,
)

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# pickles that a trainer leaves behind
NO_WEIGHTS = ("training_args", "optimizer", "scheduler", "scaler", "rng_state")
LARGEST_SIDECAR = 256 << 20
"""Bytes of a tokenizer or config at most: the largest tokenizers have some 40 million."""

# Text and tables that a tokenizer or a generation loop reads (*.model of SentencePiece comes on top).
SIDECARS = frozenset(
    {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "tekken.json",
        "chat_template.jinja",
        "chat_template.json",
    }
)
LARGEST_JSON = 64 * 2**20  # a config.json has some kilobytes, an index of many experts some megabytes
_SHARD = re.compile(r"(.+)-(\d{5,})-of-(\d{5,})\.safetensors")


def _cut(path: Path) -> str:
    return str(path) if len(str(path)) <= 500 else f"{str(path)[:500]}..."


def check_folder(folder: Path) -> None:
    """Refuse what is no folder or has nothing in it (CheckpointNotFound, EmptyFolder)."""
    if not os.path.exists(folder):                     # also where its name is none that a disk could hold
        raise CheckpointNotFound(f"The folder {_cut(folder)} does not exist.", "", "Check the path.")
    if not folder.is_dir():
        raise CheckpointNotFound(f"{folder} is a file, not a folder.", "", f"Give {folder.parent}.")
    try:
        empty = next(folder.iterdir(), None) is None
    except OSError as error:
        raise CheckpointNotFound(
            f"The folder {folder} can't be read: {error.strerror or error}.", remedy="Check its permissions."
        ) from error
    if empty:
        raise EmptyFolder(
            f"The folder {folder} is empty.", "", "Give a folder with config.json and safetensors weights."
        )


def read_json_object(path: Path, error: type[ConfigMissing] | type[BadIndex]) -> dict[str, Any]:
    """Read a JSON object from a small file, or raise `error` with a sentence on what is wrong with it.

    An index must be strict JSON. A config need not: Mamba's hold a bare Infinity.
    """
    remedy = "Copy or download the file again from where the checkpoint came from."
    parse = parse_json if error is BadIndex else json.loads
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise error(
                f"{path} has more than {LARGEST_JSON >> 20} MB, too much for such a file.", "", remedy
            )
        value = parse(path.read_bytes())
    except OSError as failure:
        what = f"{path} can't be read: {failure.strerror or failure}."
        raise error(what, "", "Check its permissions.") from failure
    except (ValueError, RecursionError) as failure:
        reason = failure if parse is parse_json else "not valid JSON"
        raise error(f"{path} can't be used: {reason}.", "", remedy) from failure
    if not isinstance(value, dict):
        raise error(f"{path} holds JSON, but not an object.", "", remedy)
    return value


def inside(path: Path, folder: Path) -> bool:
    """Whether a path, with all links followed, stays in the folder or in the blobs of the hub's cache."""
    target, home = path.resolve(), folder.resolve()
    if target.is_relative_to(home):
        return True
    if home.parent.name == "snapshots" and target.is_relative_to(home.parent.parent / "blobs"):
        return True
    # Downloads into a folder of the user's own once left links into the cache.
    return target.is_relative_to(Path(constants.HF_HUB_CACHE).resolve()) and target.parent.name == "blobs"


def is_plain_file(path: Path) -> bool:
    """Whether a file (or a link to one) lies there; a name that is too long for any disk names none."""
    try:
        return path.is_file()
    except OSError:
        return False


def read_config(folder: Path) -> dict[str, Any]:
    """The checkpoint's config.json. Raises ConfigMissing, or RemoteCode when it asks for code to be run."""
    path = folder / "config.json"
    if not path.is_file():
        adapter = (folder / "adapter_config.json").is_file()
        raise ConfigMissing(
            f"{folder} has no config.json" + (", it holds an adapter." if adapter else "."),
            "Without it the architecture is unknown.",
            "Merge the adapter into its base and save the whole model first."
            if adapter
            else "Give the folder that the model was saved to, or copy config.json into it.",
        )
    config = _contained_json(path, folder)
    _refuse_code(config, path)
    return config


def read_sidecar_json(folder: Path, name: str) -> dict[str, Any] | None:
    """generation_config.json or tokenizer_config.json; None where there is none. Raises as `read_config`."""
    path = folder / name
    if not path.is_file():
        return None
    value = _contained_json(path, folder)
    _refuse_code(value, path)
    return value


def _contained_json(path: Path, folder: Path) -> dict[str, Any]:
    if not inside(path, folder):
        raise ConfigMissing(
            f"{path} is a link that leads out of its folder.", "", "Copy the file itself into the folder."
        )
    return read_json_object(path, ConfigMissing)


def _refuse_code(config: dict[str, Any], path: Path) -> None:
    """`auto_map` names Python files to run, an attention implementation with a slash a compiled kernel."""
    attention = config.get("attn_implementation")
    names = attention.values() if isinstance(attention, dict) else [attention]
    kernel = next((name for name in names if isinstance(name, str) and "/" in name), None)
    if config.get("auto_map"):
        asks = f"{path} asks for Python code from the checkpoint (auto_map)."
    elif kernel:
        asks = f"{path} asks for a compiled kernel from elsewhere ({shown(kernel)})."
    else:
        return
    raise RemoteCode(
        asks,
        "Deltadeck never runs code that comes with a model.",
        "If transformers knows this architecture by itself, remove that entry in a copy of the folder.",
    )


def weight_files(folder: Path) -> tuple[list[Path], dict[str, str] | None]:
    """The safetensors files that hold the weights, and the index (tensor name -> file name) if there is one.

    transformers' order: model.safetensors, else the index, else whatever safetensors files there are.

    Raises:
        BadIndex: the index is unreadable or names what isn't there, or a file leads out of the folder.
        WeightsMissing: there is no safetensors file.
    """
    if (folder / SINGLE).is_file():
        return [_contained(folder / SINGLE, folder)], None
    if (folder / INDEX).is_file():
        weight_map = _read_index(folder)
        return [folder / name for name in sorted(set(weight_map.values()))], weight_map
    found = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
    found = [path for path in found if not path.name.startswith("adapter_")]
    # Mistral's repositories hold the same weights twice: under transformers' names, and consolidated.
    found = [path for path in found if not path.name.startswith("consolidated")] or found
    if not found:
        raise _no_weights(folder)
    _check_shard_numbers(folder, found)
    return [_contained(path, folder) for path in found], None


def check_not_pickled(folder: Path) -> None:
    """Raise PickleOnly for a folder whose weights are pickles and nothing else."""
    names = sorted(path.name for path in folder.iterdir())
    pickles = [name for name in names if name.endswith(PICKLES) and not name.startswith(NO_WEIGHTS)]
    if pickles and not any(name.endswith(".safetensors") for name in names):
        raise PickleOnly(
            f"{folder} holds its weights as pickles only ({pickles[0]}).",
            "Opening a pickle can run any code.",
            "If you trust it, load it with transformers and save it with save_pretrained, as safetensors.",
        )


def _no_weights(folder: Path) -> WeightsMissing:
    gguf = next((path.name for path in sorted(folder.glob("*.gguf"))), None)
    return WeightsMissing(
        f"{folder} has no safetensors weights.",
        f"{gguf} is quantised, which a delta can't be computed from." if gguf else "",
        "Give a folder with the whole model saved as safetensors.",
    )


def _contained(path: Path, folder: Path) -> Path:
    if not inside(path, folder):
        raise BadIndex(
            f"{path} is a link that leads out of the folder.",
            "Only files in the folder itself, or in the hub's cache, are read.",
            "Copy the file into the folder, or give the folder where it really lies.",
        )
    return path


def _read_index(folder: Path) -> dict[str, str]:
    path = _contained(folder / INDEX, folder)
    weight_map = read_json_object(path, BadIndex).get("weight_map")
    save_again = "Download the checkpoint again, or save the model again with save_pretrained."
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadIndex(f"{path} has no weight_map of tensors to files.", "", save_again)
    for name in sorted(set(map(_entry_text, weight_map.values()))):
        if not _is_plain(name):
            raise BadIndex(
                f"{path} names the file {shown(name)}, which is not a safetensors file inside the folder.",
                "An index must not lead out of its folder.",
                "Don't use this checkpoint unless you know why; its index was not written by transformers.",
            )
        if not is_plain_file(folder / name):
            raise BadIndex(f"{folder / name} is missing, but {INDEX} names it.", "", save_again)
        _contained(folder / name, folder)
    return dict(weight_map)


def _entry_text(value: object) -> str:
    return value if isinstance(value, str) else repr(value)


def _is_plain(name: str) -> bool:
    """A relative path of a safetensors file without a way up, on any system (backslash, drive letter), nor an odd one."""
    path = PurePosixPath(name)
    tricky = path.is_absolute() or ".." in path.parts or any(character in name for character in "\\:\0")
    tricky = tricky or not name.isprintable() or len(name) > 1000
    tricky = tricky or any(len(part.encode("utf-8", "replace")) > 255 for part in path.parts)
    return not tricky and name.endswith(".safetensors")


def _check_shard_numbers(folder: Path, files: list[Path]) -> None:
    """Numbered shards without an index: all of them must be there."""
    have = {path.name for path in files}
    for path in files:
        match = _SHARD.fullmatch(path.name)
        if not match:
            continue
        stem, number, count = match.groups()
        for i in range(1, min(int(count), len(have) + 1) + 1):
            name = f"{stem}-{i:0{len(number)}d}-of-{count}.safetensors"
            if name not in have:
                raise WeightsMissing(
                    f"{folder / name} is missing; {path.name} says that there are {int(count)} files.",
                    "",
                    "Download the checkpoint again.",
                )


def sidecar_files(folder: Path) -> dict[str, Path]:
    """Config, tokenizer files and chat template by name: what a checkpoint needs beside its weights.

    They are read whole: raises `Refused` for one that is larger than any of them is.
    """
    found = {}
    for path in sorted(folder.iterdir()):
        known = path.name in SIDECARS or (path.suffix == ".model" and not _is_pickle(path))
        if known and path.is_file() and inside(path, folder):
            if (size := path.stat().st_size) > LARGEST_SIDECAR:
                raise Refused(f"{path} has {size:,} bytes, which no such file needs.",
                              f"It would be read whole; {LARGEST_SIDECAR:,} bytes is the limit.", "Get the checkpoint again.")
            found[path.name] = path
    return found


def _is_pickle(path: Path) -> bool:
    """Whether a file called *.model is a pickle, or torch's zip of pickles, and no SentencePiece model."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(4)
    return start[:1] == b"\x80" or start == b"PK\x03\x04"


def is_sidecar(name: str) -> bool:
    """Whether a delta may bring a file of this name along: config, tokenizer or template, by its plain name."""
    return name in SIDECARS or bool(re.fullmatch(r"[\w.-]{1,60}\.model", name))
