"""What a checkpoint folder holds: tensors by name, read lazily, and the small files beside them.

Opening reads headers and configs only and refuses whatever could not be read safely later; see
`checkpoint_header` (the safetensors format), `checkpoint_files` (which files count) and `checkpoint_source`
(folder or hub).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import RawIOBase
from math import prod
from pathlib import Path
from threading import Lock
from types import MappingProxyType, TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from core import mapguard
from core.checkpoint_files import (
    INDEX,
    check_not_pickled,
    read_config,
    read_sidecar_json,
    sidecar_files,
    weight_files,
)
from core.checkpoint_header import (
    SafetensorsFile,
    StoredTensor,
    check_unchanged,
    read_header,
    shown,
    shown_shape,
)
from core.checkpoint_source import locate
from core.errors import BadIndex, BadSafetensors, UnsupportedDtype, WeightsMissing

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
_BLOCKS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_FEW_BLOCKS = 256  # are built in a moment, whether or not there are weights for them
_MOST_PARTS = 10_000  # layers or experts that any config may speak of
_HASHED_AT_ONCE = 4 * 2**20  # bytes
# Buffers that older transformers saved with GPT-2, GPT-NeoX, Llama or BERT; every version now computes them
# and ignores them in a file. They are no weights: leave them out, whatever their type.
_COMPUTED = re.compile(r"(.*\.)?((attn|attention)\.masked_bias|rotary_emb\.inv_freq|position_ids)")
_CAUSAL_MASK = re.compile(r"(.*\.)?(attn|attention|crossattention)\.bias")


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a checkpoint, as its file stores it."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    file: Path

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True)
class CheckpointSummary:
    """What a person wants to know of a checkpoint at a glance. None where the config doesn't say."""

    architecture: str
    parameters: int
    dtypes: tuple[str, ...]  # the commonest first: ("bfloat16", "float32")
    bytes_on_disk: int  # of the weight files
    files: int
    hidden_size: int | None
    blocks: int | None
    vocab_size: int | None
    has_chat_template: bool
    tokenizer_class: str | None


class Checkpoint:
    """An opened, checked checkpoint. Reading is safe from several threads; nothing is ever written.

    `view`, `read` and `sha256` raise KeyError for a name that isn't in `tensors`, BadSafetensors when the
    file changed since it was opened, and ValueError after `close`. Views stay valid after `close`.
    """

    def __init__(
        self, folder: Path, source: str, config: dict[str, Any], files: Mapping[Path, SafetensorsFile]
    ) -> None:
        self.folder = folder
        self.source = source  # as the user gave it
        self.config = config
        self.generation_config = read_sidecar_json(folder, "generation_config.json")
        self._tokenizer_config = read_sidecar_json(folder, "tokenizer_config.json") or {}
        self._files = files
        self._stored: dict[str, StoredTensor] = {}
        infos: dict[str, TensorInfo] = {}
        for path, file in files.items():
            for stored in file.tensors:
                if not _is_computed(stored):
                    infos[stored.name] = _checked_info(stored, path, "quantization_config" in config)
                    self._stored[stored.name] = stored
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(dict(sorted(infos.items())))
        self._maps: dict[Path, safe_open] = {}
        self._guards: dict[Path, int] = {}
        self._hashes: dict[str, str] = {}
        self._lock = Lock()
        self._closed = False

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if error is None:
            self._check_pages()

    def close(self) -> None:
        """Let go of the mapped files. Views that are still held keep theirs."""
        with self._lock:
            self._maps.clear()
            self._closed = True

    def check(self) -> None:
        """Raise BadSafetensors if a weight file changed since it was opened, or what was read of it is not what it held.

        To be asked once more before anything made from views is kept: a file may change while it is read.
        """
        self._check_open()
        for path, file in self._files.items():
            check_unchanged(file, _status(path))
        self._check_pages()

    def _check_pages(self) -> None:
        for path, slot in self._guards.items():
            if mapguard.faults(slot):
                raise BadSafetensors(
                    f"{path} could not be read to its end while it was in use.",
                    "It was cut short, or its disk failed.",
                    "Copy or download the file again.",
                )

    def view(self, name: str) -> torch.Tensor:
        """The tensor as it lies in the mapped file: stored dtype, no copy. Read only, never write to it.

        A tensor at an odd address (which a few writers produce) comes as a copy, since kernels count on
        aligned elements; so does one of a file that the system won't map, having less memory than it.
        """
        info = self.tensors[name]
        file = self._files[info.file]
        with self._lock:
            self._check_open()
            check_unchanged(file, _status(info.file))
            self._check_pages()
            try:
                if info.file not in self._maps:
                    self._maps[info.file] = _map(info.file)
            except (OSError, RuntimeError):
                return self.read(name)
            tensor: torch.Tensor = self._maps[info.file].get_tensor(name)  # type: ignore[no-untyped-call]
            if info.file not in self._guards and tensor.numel():
                self._guards[info.file] = mapguard.watch(tensor.data_ptr() - self._stored[name].begin, file.size)
        return tensor.clone() if tensor.data_ptr() % info.dtype.itemsize else tensor

    def read(
        self, name: str, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
    ) -> torch.Tensor:
        """A copy of the tensor in memory of its own, in the stored dtype or another, on a device.

        It is read without mapping the file, so nothing but the copy counts towards the process's memory.
        """
        info = self.tensors[name]
        tensor = torch.empty(info.shape, dtype=info.dtype)
        if info.nbytes:
            target = memoryview(tensor.view(-1).view(torch.uint8).numpy().data)
            with self._data(name) as file:
                done = 0
                while done < len(target):
                    count = file.readinto(target[done:])
                    if not count:
                        raise _cut_short(info)
                    done += count
        return tensor.to(device).to(dtype or info.dtype)

    def sha256(self, name: str) -> str:
        """The SHA-256 of the tensor's bytes as stored (little-endian, row by row), in hexadecimal."""
        if name in self._hashes:
            return self._hashes[name]
        digest, left = hashlib.sha256(), self.tensors[name].nbytes
        with self._data(name) as file:
            while left:
                part = file.read(min(left, _HASHED_AT_ONCE))
                if not part:
                    raise _cut_short(self.tensors[name])
                digest.update(part)
                left -= len(part)
        self._hashes[name] = digest.hexdigest()
        return self._hashes[name]

    def sidecars(self) -> dict[str, Path]:
        """Config, generation config, tokenizer files and chat template, by file name."""
        return sidecar_files(self.folder)

    def describe(self) -> CheckpointSummary:
        """The checkpoint at a glance."""
        sizes: dict[torch.dtype, int] = {}
        for info in self.tensors.values():
            sizes[info.dtype] = sizes.get(info.dtype, 0) + info.numel
        dtypes = sorted(sizes, key=lambda dtype: (-sizes[dtype], str(dtype)))
        architectures = self.config.get("architectures")
        named = architectures[0] if isinstance(architectures, list) and architectures else None
        tokenizer = self._tokenizer_config.get("tokenizer_class")
        template = any((self.folder / f"chat_template.{kind}").is_file() for kind in ("jinja", "json"))
        return CheckpointSummary(
            architecture=str(named or self.config.get("model_type") or "unknown"),
            parameters=sum(sizes.values()),
            dtypes=tuple(str(dtype).removeprefix("torch.") for dtype in dtypes),
            bytes_on_disk=sum(file.size for file in self._files.values()),
            files=len(self._files),
            hidden_size=self._number("hidden_size", "n_embd", "d_model", "dim"),
            blocks=self._number(*_BLOCKS),
            vocab_size=self._number("vocab_size"),
            has_chat_template=template or bool(self._tokenizer_config.get("chat_template")),
            tokenizer_class=str(tokenizer) if tokenizer else None,
        )

    def _number(self, *keys: str) -> int | None:
        """The first of these in the config, or in its part on text where a model sees or hears too."""
        inner = self.config.get("text_config")
        for table in (self.config, inner if isinstance(inner, dict) else {}):
            for key in keys:
                if isinstance(table.get(key), int):
                    return int(table[key])
        return None

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"the checkpoint {self.source} is closed")

    @contextmanager
    def _data(self, name: str) -> Iterator[RawIOBase]:
        """The tensor's file, placed at its first byte. Each call has a handle: threads share no position."""
        stored, info = self._stored[name], self.tensors[name]
        self._check_open()
        check_unchanged(self._files[info.file], _status(info.file))
        with info.file.open("rb", buffering=0) as file:
            check_unchanged(self._files[info.file], os.fstat(file.fileno()))
            file.seek(stored.begin)
            yield file


def open_checkpoint(
    source: str | Path, *, offline: bool | None = None, cache: Path | None = None
) -> Checkpoint:
    """Open a local folder, or "org/name[@revision]" from the hub's cache (downloaded first when online).

    HF_HUB_OFFLINE=1 counts as `offline` too; `cache` replaces the hub's cache folder.

    Raises:
        CheckpointNotFound, EmptyFolder, ConfigMissing, RemoteCode, PickleOnly, WeightsMissing, BadIndex,
        BadSafetensors, UnsupportedDtype: each with a sentence that says what is wrong and what to do.
    """
    folder = locate(source, offline=offline, cache=cache).absolute()  # whatever the working folder is later
    check_not_pickled(folder)
    config = read_config(folder)
    paths, weight_map = weight_files(folder)
    files = {path: read_header(path) for path in paths}
    _check_names(folder, files, weight_map)
    _check_sizes(folder, config, sum(len(file.tensors) for file in files.values()))
    return Checkpoint(folder, str(source), config, files)


def _check_sizes(folder: Path, config: Mapping[str, Any], tensors: int) -> None:
    """No config may ask for more layers or experts than there can be: building the model's shape would never end."""
    inner = config.get("text_config")
    for table in (config, inner if isinstance(inner, dict) else {}):
        for key, value in table.items():
            counts = max(tensors, _FEW_BLOCKS) if key in _BLOCKS else _MOST_PARTS if "layer" in key or "expert" in key else 0
            if counts and type(value) is int and value > counts:
                raise WeightsMissing(
                    f"{folder / 'config.json'} asks for {shown(key)} = {min(value, 2**63)}, but there are {tensors} tensors.",
                    "Config and weights belong to different models.",
                    "Use a matching config.json.",
                )


def _check_names(
    folder: Path, files: Mapping[Path, SafetensorsFile], weight_map: Mapping[str, str] | None
) -> None:
    """Each tensor lies in one file only, and where there is an index it says just that."""
    place: dict[str, Path] = {}
    again = "Download the checkpoint again, or save the model again with save_pretrained."
    for path, file in files.items():
        for tensor in file.tensors:
            if tensor.name in place:
                raise BadIndex(
                    f"Tensor {shown(tensor.name)} is in both {place[tensor.name]} and {path.name}.",
                    "Which of the two counts is not known.",
                    "Keep the files of one checkpoint only in the folder.",
                )
            place[tensor.name] = path
    if all(_is_computed(tensor) for file in files.values() for tensor in file.tensors):
        raise WeightsMissing(f"The safetensors files in {folder} hold no weights at all.", "", again)
    if weight_map is None:
        return
    for name, file_name in weight_map.items():
        if place.get(name) != folder / file_name:
            raise BadIndex(
                f"{folder / file_name} lacks tensor {shown(name)}, which {INDEX} places there.", "", again
            )
    extra = next((name for name in place if name not in weight_map), None)
    if extra is not None:
        raise BadIndex(f"{place[extra]} holds tensor {shown(extra)}, which {INDEX} does not name.", "", again)


def _is_computed(stored: StoredTensor) -> bool:
    causal = len(stored.shape) == 4 and stored.shape[:2] == (1, 1) and _CAUSAL_MASK.fullmatch(stored.name)
    return bool(causal or _COMPUTED.fullmatch(stored.name))


def _checked_info(stored: StoredTensor, path: Path, quantised: bool) -> TensorInfo:
    if stored.dtype in DTYPES:
        return TensorInfo(stored.name, DTYPES[stored.dtype], stored.shape, path)
    if quantised or stored.dtype.startswith(("F4", "F6_", "F8_")):
        raise UnsupportedDtype(
            f"{path} is quantised: it stores {shown(stored.name)} as {shown(stored.dtype)}.",
            "The change between two checkpoints can't be told from quantised weights.",
            "Use the original checkpoint in BF16, F16 or F32.",
        )
    raise UnsupportedDtype(
        f"{path} stores {shown(stored.name)} ({shown_shape(stored.shape)}) as {shown(stored.dtype)}.",
        "Weights must be BF16, F16 or F32.",
        "Convert the model to one of these and save it again.",
    )


def _cut_short(info: TensorInfo) -> BadSafetensors:
    return BadSafetensors(
        f"{info.file} ended within tensor {shown(info.name)}.",
        "It was cut short while in use.",
        "Copy or download the file again.",
    )


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise BadSafetensors(
            f"{path} is gone since the checkpoint was opened.",
            "Weights are read from it as they are needed.",
            "Put it back, then try again.",
        ) from error


def _map(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise BadSafetensors(
            f"The safetensors library refuses {path}: {error}.", "", "Copy or download the file again."
        ) from error
