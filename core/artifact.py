"""The delta folder: write it whole or not at all, open it lazily, verify every byte. See FORMAT.md."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import safe_open
from torch import Tensor

from core.checkpoint import Checkpoint
from core.checkpoint_header import read_header
from core.codecs import CODECS
from core.errors import BadSafetensors, DeltaCorrupt, NotADelta, OutputExists, WrongBase
from core.record import AXES, DTYPES, StoredTensor, TensorRecord
from core.safefile import file_bytes, file_sha256, raw_bytes, sync_folder, write_file

FORMAT = "deltadeck"
FORMAT_VERSION = 1
CONFIG = "delta_config.json"
WEIGHTS = "delta_model.safetensors"
CARD = "README.md"
METADATA = {"format": "pt", "deltadeck": str(FORMAT_VERSION)}
SHARD_BYTES = 5_000_000_000


class FileEntry(msgspec.Struct, frozen=True):
    """A file of the folder besides delta_config.json."""

    bytes: int
    sha256: str


class BaseInfo(msgspec.Struct, frozen=True):
    """The base a delta belongs to. `sha256` is over the names and hashes of all base tensors used, in order."""

    name: str
    architecture: str
    sha256: str


class DeltaConfig(msgspec.Struct, frozen=True, kw_only=True):
    """delta_config.json. `sha256` is that of the file itself with this field empty."""

    format: str = FORMAT
    format_version: int = FORMAT_VERSION
    tool_version: str
    base: BaseInfo
    fine_tuned: str
    method: dict[str, Any]
    calibration: dict[str, Any]
    fidelity: dict[str, Any]
    warnings: tuple[str, ...] = ()
    files: dict[str, FileEntry]
    tensors: tuple[TensorRecord, ...]
    sha256: str = ""


def config_bytes(config: DeltaConfig) -> bytes:
    """Canonical text of a config, its own hash filled in."""
    def text(c: DeltaConfig) -> bytes:
        return msgspec.json.format(msgspec.json.encode(c), indent=1) + b"\n"
    blank = msgspec.structs.replace(config, sha256="")
    return text(msgspec.structs.replace(blank, sha256=hashlib.sha256(text(blank)).hexdigest()))


def stored_tensors(record: TensorRecord) -> list[StoredTensor]:
    """What a record has in the weights file, in order."""
    return list(CODECS[record.codec].layout(record).values())


def plan_shards(records: Sequence[TensorRecord], limit: int = SHARD_BYTES) -> dict[str, list[StoredTensor]]:
    """Weight files and what each holds, in order: one file, or numbered ones of at most `limit` bytes of data each.

    A tensor larger than the limit gets a file to itself.
    """
    shards: list[list[StoredTensor]] = [[]]
    size = 0
    for tensor in (t for record in records for t in stored_tensors(record)):
        if shards[-1] and size + tensor.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    if len(shards) == 1:
        return {WEIGHTS: shards[0]}
    stem = WEIGHTS.removesuffix(".safetensors")
    return {f"{stem}-{i + 1:05d}-of-{len(shards):05d}.safetensors": shard for i, shard in enumerate(shards)}


def index_bytes(shards: Mapping[str, Sequence[StoredTensor]]) -> bytes:
    """Content of delta_model.safetensors.index.json, in the hub's layout; empty for a single file."""
    if len(shards) == 1:
        return b""
    weight_map = {t.name: file for file, shard in shards.items() for t in shard}
    total = sum(t.nbytes for shard in shards.values() for t in shard)
    return msgspec.json.format(msgspec.json.encode({"metadata": {"total_size": total}, "weight_map": weight_map}))


def weights_bytes(records: Sequence[TensorRecord], limit: int = SHARD_BYTES) -> int:
    """Exact bytes of all weight files and their index, headers included."""
    shards = plan_shards(records, limit)
    return sum(file_bytes(shard, METADATA) for shard in shards.values()) + len(index_bytes(shards))


def base_digest(records: Sequence[TensorRecord]) -> str:
    """One hash for all base tensors that a delta uses."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(f"{record.base}:{record.base_sha256}\n".encode())
    return digest.hexdigest()


def write_delta(target: Path, config: DeltaConfig, encode: Callable[[TensorRecord], Mapping[str, Tensor]],
                sidecars: Mapping[str, Path], card: str, *, limit: int = SHARD_BYTES,
                progress: Callable[[int], None] | None = None) -> DeltaConfig:
    """Write a delta folder to a temporary name, sync, rename. Returns the config as written, hashes filled in.

    `encode` gives a record's tensors by suffix, in order of the records. `progress` is called with each tensor's bytes.
    Raises `OutputExists` when `target` is there already.
    """
    if target.exists():
        raise OutputExists(f"'{target}' exists already.", "", "Choose another output, or move it away.")
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    try:
        work.chmod(0o755)
        shards = plan_shards(config.tensors, limit)
        by_tensor = {t.name: r for r in config.tensors for t in stored_tensors(r)}
        hashes: dict[str, Any] = {}
        current: dict[str, Mapping[str, Tensor]] = {}

        def make(tensor: StoredTensor) -> Tensor:
            record = by_tensor[tensor.name]
            if record.name not in current:
                current.clear()
                current[record.name] = encode(record)
            data = current[record.name][tensor.name[len(record.name) + 1:]]
            hashes.setdefault(record.name, hashlib.sha256()).update(raw_bytes(data))
            if progress:
                progress(tensor.nbytes)
            return data

        files = {}
        for name, shard in shards.items():
            digest = write_file(work / name, shard, METADATA, make)
            files[name] = FileEntry((work / name).stat().st_size, digest)
        extra = {CARD: card.encode()}
        if index := index_bytes(shards):
            extra[f"{WEIGHTS}.index.json"] = index
        extra |= {name: path.read_bytes() for name, path in sidecars.items()}
        for name, content in sorted(extra.items()):
            _write_synced(work / name, content)
            files[name] = FileEntry(len(content), hashlib.sha256(content).hexdigest())
        empty = hashlib.sha256().hexdigest()
        records = tuple(msgspec.structs.replace(r, sha256=hashes[r.name].hexdigest() if r.name in hashes else empty)
                        for r in config.tensors)
        config = msgspec.structs.replace(config, files=files, tensors=records)
        text = config_bytes(config)
        _write_synced(work / CONFIG, text)
        sync_folder(work)
        os.rename(work, target)
        sync_folder(target.parent)
        return msgspec.json.decode(text, type=DeltaConfig)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


class Delta:
    """An opened delta folder: records, and stored tensors mapped from disk when asked for."""

    def __init__(self, folder: Path, config: DeltaConfig) -> None:
        self.folder, self.config = folder, config
        self.records: dict[str, TensorRecord] = {r.name: r for r in config.tensors}
        self._files = {t.name: name for name, shard in self.shards().items() for t in shard}
        self._open: dict[str, Any] = {}

    def shards(self) -> dict[str, list[StoredTensor]]:
        """Weight files as the folder has them."""
        names = sorted(n for n in self.config.files if n.endswith(".safetensors"))
        if len(names) <= 1:
            return plan_shards(self.config.tensors, 1 << 62)
        known = {t.name: t for r in self.config.tensors for t in stored_tensors(r)}
        return {n: [known[t.name] for t in read_header(self.folder / n).tensors] for n in names}

    def stored(self, name: str) -> dict[str, Tensor]:
        """Stored tensors of one record by suffix: views of the mapped file."""
        record = self.records[name]
        result = {}
        for tensor in stored_tensors(record):
            file = self._files[tensor.name]
            if file not in self._open:
                self._open[file] = safe_open(self.folder / file, framework="pt")
            result[tensor.name[len(name) + 1:]] = self._open[file].get_tensor(tensor.name)
        return result

    def variant(self, base: Checkpoint, name: str) -> Tensor:
        """The variant's tensor: base and change added in FP32, rounded once."""
        record = self.records[name]
        view = base.view(record.base) if record.base else None
        return CODECS[record.codec].add(record, self.stored(name), view)

    @property
    def weights_bytes(self) -> int:
        """Bytes of the weight files on disk, their index included."""
        return sum(e.bytes for n, e in self.config.files.items() if ".safetensors" in n)

    def sidecars(self) -> dict[str, Path]:
        """Config, tokenizer and template files that the delta brings."""
        return {n: self.folder / n for n in self.config.files if ".safetensors" not in n and n != CARD}


def open_delta(folder: str | Path) -> Delta:
    """Open a delta folder. Headers are checked against the records; data is not read (see `verify_files`).

    Raises `NotADelta` for anything that is no delta of a known format, `DeltaCorrupt` where files and record disagree.
    """
    folder = Path(folder)
    path = folder / CONFIG
    if not path.is_file():
        raise NotADelta(f"'{folder}' holds no delta.", f"There is no {CONFIG} in it.", "Choose a folder that Deltadeck wrote.")
    raw = path.read_bytes()
    try:
        head = msgspec.json.decode(raw)
        if not isinstance(head, dict) or head.get("format") != FORMAT:
            raise NotADelta(f"'{path}' is not a Deltadeck delta.", f"Its format is {head.get('format') if isinstance(head, dict) else None!r}.",
                            "Choose a folder that Deltadeck wrote.")
        if head.get("format_version") != FORMAT_VERSION:
            raise NotADelta(f"'{path}' has format version {head.get('format_version')!r}.",
                            f"This program reads version {FORMAT_VERSION}.", "Update Deltadeck.")
        config = msgspec.json.decode(raw, type=DeltaConfig)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise DeltaCorrupt(f"'{path}' can't be read.", f"{e}.", "Get the delta again.") from e
    _check_config(folder, config)
    return Delta(folder, config)


def _check_config(folder: Path, config: DeltaConfig) -> None:
    def bad(what: str) -> DeltaCorrupt:
        return DeltaCorrupt(f"The delta in '{folder}' contradicts itself: {what}.", "It was damaged or changed.",
                            "Get the delta again.")
    for name in config.files:
        if not name or name in (".", "..") or "/" in name or "\\" in name or name == CONFIG:
            raise bad(f"it lists a file {name!r} that is not a plain name inside it")
        if not (folder / name).is_file() or (folder / name).is_symlink() and not (folder / name).resolve().is_file():
            raise bad(f"'{name}' is missing")
    expected: dict[str, StoredTensor] = {}
    seen = set()
    for record in config.tensors:
        if problem := check_record(record):
            raise bad(f"tensor {record.name!r} {problem}")
        if record.name in seen:
            raise bad(f"tensor {record.name!r} is listed twice")
        seen.add(record.name)
        for tensor in stored_tensors(record):
            expected[tensor.name] = tensor
    found = {}
    for name in config.files:
        if name.endswith(".safetensors"):
            try:
                header = read_header(folder / name)
            except BadSafetensors as e:
                raise bad(f"'{name}' is damaged ({e.what})") from e
            found |= {t.name: StoredTensor(t.name, t.dtype, t.shape) for t in header.tensors}
    if missing := sorted(expected.keys() ^ found.keys()):
        raise bad(f"{len(missing)} stored tensors differ from the record, first {missing[0]!r}")
    for key, tensor in expected.items():
        if found[key] != tensor:
            raise bad(f"{key!r} is {found[key].dtype} {list(found[key].shape)} instead of {tensor.dtype} {list(tensor.shape)}")


def check_record(record: TensorRecord) -> str:
    """What is wrong with a record, in words that follow its name; empty when it makes sense."""

    if record.codec not in CODECS:
        return f"uses a codec {record.codec!r} that this version does not know"
    if record.dtype not in ("BF16", "F16", "F32") or (record.base and record.base_dtype not in DTYPES):
        return "has an unknown type"
    if any(s < 0 for s in (*record.shape, *record.base_shape)) or record.output_dimension not in (0, 1):
        return "has an impossible shape"
    if record.base is None and record.codec != "full":
        return "names no base tensor"
    if record.codec in ("sign", "lowrank") and len(record.shape) != 2:
        return "is no matrix"
    if record.base is not None and record.codec != "full" and (
            len(record.base_shape) != len(record.shape) or record.base_shape[1:] != record.shape[1:]):
        return "does not fit its base"
    if record.codec in ("same", "sparse", "lowrank") and record.base_shape[:1] < record.shape[:1]:
        return "has more rows than its base"
    if record.codec in ("rows", "sparse") and not 0 <= record.count <= max(1, int(torch.Size(record.shape).numel())):
        return "has an impossible count"
    if record.codec == "lowrank" and (not 0 < record.rank <= min(record.shape) or len(record.exponents) != 1):
        return "has an impossible rank"
    if record.codec == "sign":
        at = 0
        if not 1 <= record.planes <= 8 or len(record.exponents) != record.planes or (record.tail and record.output_dimension):
            return "has impossible sign planes"
        for piece in record.slices:
            if piece.start != at or piece.stop <= at or piece.axis not in AXES or piece.slots < piece.used(record.inputs):
                return "has impossible slices"
            at = piece.stop
        if at != record.outputs or (record.output_dimension and len(record.slices) != 1):
            return "has slices that do not cover its outputs"
    if any(abs(e) > 200 for e in record.exponents):
        return "has an impossible exponent"
    return ""


def verify_files(delta: Delta) -> Iterator[tuple[str, str]]:
    """Read every byte of the folder: yields (file, problem) for each file, problem empty where it is whole."""
    path = delta.folder / CONFIG
    text = path.read_bytes()
    yield CONFIG, "" if text == config_bytes(delta.config) else "was changed since it was written"
    for name, entry in delta.config.files.items():
        file = delta.folder / name
        if file.stat().st_size != entry.bytes:
            yield name, f"has {file.stat().st_size} bytes instead of {entry.bytes}"
        else:
            yield name, "" if file_sha256(file) == entry.sha256 else "was changed since it was written"


def check_base(delta: Delta, base: Checkpoint, *, hashes: bool = True) -> None:
    """Raise `WrongBase` unless `base` holds the very tensors that the delta was made for (shapes only if not `hashes`)."""
    remedy = f"This delta belongs to '{delta.config.base.name}'."
    for record in delta.records.values():
        if record.base is None:
            continue
        info = base.tensors.get(record.base)
        if info is None:
            raise WrongBase(f"'{base.source}' is not this delta's base: it lacks '{record.base}'.", "", remedy)
        if tuple(info.shape) != record.base_shape:
            raise WrongBase(f"'{base.source}' is not this delta's base: '{record.base}' has shape {list(info.shape)} "
                            f"instead of {list(record.base_shape)}.", "", remedy)
        if hashes and base.sha256(record.base) != record.base_sha256:
            raise WrongBase(f"'{base.source}' is not this delta's base: '{record.base}' has other values.", "", remedy)


