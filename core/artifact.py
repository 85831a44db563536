"""The delta folder: write it whole or not at all, open it lazily, verify every byte. See FORMAT.md."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError, safe_open
from torch import Tensor

from core import mapguard
from core.checkpoint import Checkpoint
from core.checkpoint_files import inside, is_plain_file, is_sidecar
from core.checkpoint_header import LONGEST_HEADER, SafetensorsFile, check_unchanged, parse_json, read_header, shown, shown_shape
from core.codecs import CODECS
from core.codecs.check import record_problem
from core.errors import BadSafetensors, DeltaCorrupt, NotADelta, OutputExists, WrongBase
from core.record import DTYPE_NAMES, DTYPES, StoredTensor, TensorRecord
from core.safefile import cut_shards, file_bytes, file_sha256, own_hash, raw_bytes, sync_folder, write_file, write_synced

FORMAT = "deltadeck"
FORMAT_VERSION = 1
AGAIN = "Get the delta again, or make it anew from its two checkpoints."
CONFIG = "delta_config.json"
WEIGHTS = "delta_model.safetensors"
CARD = "README.md"
INDEX = f"{WEIGHTS}.index.json"
METADATA = {"format": "pt", "deltadeck": str(FORMAT_VERSION)}
SHARD_BYTES = 5_000_000_000
LONGEST_CONFIG = LONGEST_HEADER
_SHARD = re.compile(r"delta_model(-\d{5,20}-of-\d{5,20})?\.safetensors", re.ASCII)


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
    """Text of a config, its own hash filled in."""
    def text(c: DeltaConfig) -> bytes:
        return msgspec.json.format(msgspec.json.encode(c), indent=1) + b"\n"
    digest = hashlib.sha256(text(msgspec.structs.replace(config, sha256=""))).hexdigest()
    return text(msgspec.structs.replace(config, sha256=digest))


def stored_tensors(record: TensorRecord) -> list[StoredTensor]:
    """What a record has in the weights file, in order."""
    return list(CODECS[record.codec].layout(record).values())


def plan_shards(records: Sequence[TensorRecord], limit: int = SHARD_BYTES) -> dict[str, list[StoredTensor]]:
    """Weight files and what each holds, in order: one file, or numbered ones of at most `limit` bytes of data each.

    A tensor larger than the limit gets a file to itself.
    """
    tensors = (t for record in records for t in stored_tensors(record))
    return cut_shards(tensors, WEIGHTS.removesuffix(".safetensors"), limit)


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
        if record.base is not None:
            digest.update(f"{record.base}:{record.base_sha256}\n".encode())
    return digest.hexdigest()


def write_delta(target: Path, config: DeltaConfig, encode: Callable[[TensorRecord], Mapping[str, Tensor]],
                sidecars: Mapping[str, Path], card: str, *, limit: int = SHARD_BYTES,
                progress: Callable[[int], None] | None = None, check: Callable[[], None] | None = None) -> DeltaConfig:
    """Write a delta folder to a temporary name, sync, rename. Returns the config as written, hashes filled in.

    `encode` gives a record's tensors by suffix, in order of the records. `progress` is called with each tensor's bytes,
    `check` once all is written: it raises where what was read for it can't be trusted, and nothing is left then.
    Raises `OutputExists` when `target` is there already, and `ValueError` for a config that could not be read back
    (a number that is not finite, a file name that no delta may hold).
    """
    if os.path.lexists(target):
        raise OutputExists(f"'{target}' exists already.", "", "Choose another output, or move it away.")
    msgspec.json.decode(config_bytes(config), type=DeltaConfig)
    if strange := [name for name in sidecars if not is_sidecar(name)]:
        raise ValueError(f"{strange[0]!r} is no file that a delta may hold")
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):      # of a process that was killed here
        shutil.rmtree(left, ignore_errors=True)
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
            extra[INDEX] = index
        extra |= {name: path.read_bytes() for name, path in sidecars.items()}
        for name, content in sorted(extra.items()):
            write_synced(work / name, content)
            files[name] = FileEntry(len(content), hashlib.sha256(content).hexdigest())
        empty = hashlib.sha256().hexdigest()
        records = tuple(msgspec.structs.replace(r, sha256=hashes[r.name].hexdigest() if r.name in hashes else empty)
                        for r in config.tensors)
        config = msgspec.structs.replace(config, files=files, tensors=records)
        text = config_bytes(config)
        write_synced(work / CONFIG, text)
        written = msgspec.json.decode(text, type=DeltaConfig)
        sync_folder(work)
        if check:
            check()
        os.rename(work, target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    with suppress(OSError):                            # the delta is there, and whole: no reason to call it a failure
        sync_folder(target.parent)
    return written


class Delta:
    """An opened delta folder: records, and stored tensors mapped from disk when asked for."""

    def __init__(self, folder: Path, config: DeltaConfig, headers: Mapping[str, SafetensorsFile]) -> None:
        self.folder, self.config = folder, config
        self.records: dict[str, TensorRecord] = {r.name: r for r in config.tensors}
        self._headers = headers
        self._files = {t.name: name for name, header in headers.items() for t in header.tensors}
        self._open: dict[str, Any] = {}
        self._guards: dict[str, int] = {}

    def stored(self, name: str) -> dict[str, Tensor]:
        """Stored tensors of one record by suffix: views of the mapped file (copies where it aligns them badly).

        Raises `DeltaCorrupt` when the file changed since it was opened, or its content contradicts the record.
        """
        record = self.records[name]
        result = {}
        for tensor in stored_tensors(record):
            file = self._files[tensor.name]
            data = self._mapped(file).get_tensor(tensor.name)
            if file not in self._guards and data.numel():
                header = self._headers[file]
                begin = next(t.begin for t in header.tensors if t.name == tensor.name)
                self._guards[file] = mapguard.watch(data.data_ptr() - begin, header.size)
            result[tensor.name[len(name) + 1:]] = data.clone() if data.data_ptr() % data.element_size() else data
        if problem := CODECS[record.codec].stored_problem(record, result):
            raise _damaged(self.folder, f"tensor {shown(name)} {problem}")
        return result

    def check(self) -> None:
        """Raise `DeltaCorrupt` if what was read of a mapped file was not there: it was cut short while in use."""
        for file, slot in self._guards.items():
            if mapguard.faults(slot):
                raise _damaged(self.folder, f"'{file}' could not be read to its end")

    def _mapped(self, file: str) -> Any:
        self.check()
        path = self.folder / file
        try:
            check_unchanged(self._headers[file], path.stat())
            if file not in self._open:
                self._open[file] = safe_open(path, framework="pt")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _damaged(self.folder, f"'{file}' is gone since the delta was opened") from error
        except BadSafetensors as error:
            raise _damaged(self.folder, error.what.replace(str(path), f"'{file}'").rstrip(".")) from error
        except SafetensorError as error:
            raise _damaged(self.folder, f"'{file}' can't be read ({error})") from error
        return self._open[file]                        # what else the system refuses (memory, a disk) is no damage

    def variant(self, base: Checkpoint, name: str) -> Tensor:
        """The variant's tensor: base and change added in FP32, rounded once.

        Raises `WrongBase` when the base has no such tensor of that shape and type, else as `stored`.
        """
        record = self.records[name]
        view = None
        if record.base is not None:
            _check_base_tensor(self, base, record)
            view = base.view(record.base)
        return CODECS[record.codec].add(record, self.stored(name), view)

    @property
    def weights_bytes(self) -> int:
        """Bytes of the weight files on disk, their index included."""
        return sum(e.bytes for n, e in self.config.files.items() if n == INDEX or _SHARD.fullmatch(n))

    def sidecars(self) -> dict[str, Path]:
        """Config, tokenizer and template files that the delta brings."""
        return {n: self.folder / n for n in self.config.files if is_sidecar(n)}


def open_delta(folder: str | Path) -> Delta:
    """Open a delta folder. The config's own hash and all headers are checked; data is not read (see `verify_files`).

    Raises `NotADelta` for anything that is no delta of a known format, `DeltaCorrupt` where files and record disagree.
    """
    folder = Path(folder)
    path, remedy = folder / CONFIG, "Choose a folder that Deltadeck wrote."
    if not path.is_file():
        raise NotADelta(f"'{folder}' holds no delta.", f"There is no {CONFIG} in it.", remedy)
    text = _read_config(folder, path)
    try:
        head = parse_json(text)
        kind, version = (head.get("format"), head.get("format_version")) if isinstance(head, dict) else (None, None)
        if kind != FORMAT:
            raise NotADelta(f"'{path}' is not a Deltadeck delta.", f"Its format is {shown(str(kind))}.", remedy)
        if type(version) is not int or version != FORMAT_VERSION:
            raise NotADelta(f"'{path}' has format version {shown(str(version))}.",
                            f"This program reads version {FORMAT_VERSION}.", "Update Deltadeck.")
        config = msgspec.json.decode(text, type=DeltaConfig)
    except (ValueError, RecursionError) as error:      # msgspec's errors are ValueErrors
        raise _damaged(folder, f"{CONFIG} can't be read ({shown(str(error))})") from error
    if own_hash(text) != config.sha256:
        raise _damaged(folder, f"{CONFIG} was changed since it was written")
    return Delta(folder, config, _check_config(folder, config))


def _damaged(folder: Path, what: str) -> DeltaCorrupt:
    return DeltaCorrupt(f"The delta in '{folder}' contradicts itself: {what}.", "It was damaged or changed.", AGAIN)


def _read_config(folder: Path, path: Path) -> bytes:
    if not inside(path, folder):
        raise _damaged(folder, f"{CONFIG} is a link that leads out of it")
    try:
        with path.open("rb") as file:
            text = file.read(LONGEST_CONFIG + 1)
    except OSError as error:
        raise _damaged(folder, f"{CONFIG} can't be read ({error.strerror or error})") from error
    if len(text) > LONGEST_CONFIG:
        raise _damaged(folder, f"{CONFIG} has more than {LONGEST_CONFIG} bytes")
    return text


def _check_config(folder: Path, config: DeltaConfig) -> dict[str, SafetensorsFile]:
    """Headers of the weight files, once they are known to hold just what the records say."""
    for name in config.files:
        if name not in (CARD, INDEX) and not _SHARD.fullmatch(name) and not is_sidecar(name):
            raise _damaged(folder, f"it lists a file {shown(name)} that no delta holds")
        if not is_plain_file(folder / name):
            raise _damaged(folder, f"'{name}' is missing")
        if not inside(folder / name, folder):
            raise _damaged(folder, f"'{name}' is a link that leads out of it")
    expected: dict[str, StoredTensor] = {}
    seen = set()
    for record in config.tensors:
        if record.codec not in CODECS:
            raise NotADelta(f"The delta in '{folder}' stores {shown(record.name)} by a codec {shown(record.codec)}.",
                            "This program does not know it.", "Update Deltadeck.")
        if problem := record_problem(record):
            raise _damaged(folder, f"tensor {shown(record.name)} {problem}")
        if record.name in seen:
            raise _damaged(folder, f"tensor {shown(record.name)} is listed twice")
        seen.add(record.name)
        expected |= {tensor.name: tensor for tensor in stored_tensors(record)}
    if base_digest(config.tensors) != config.base.sha256:
        raise _damaged(folder, "the hash of its base is not that of the tensors it lists")
    headers: dict[str, SafetensorsFile] = {}
    found: dict[str, StoredTensor] = {}
    for name in filter(_SHARD.fullmatch, config.files):
        try:
            headers[name] = read_header(folder / name)
        except BadSafetensors as e:
            raise _damaged(folder, e.what.replace(str(folder / name), f"'{name}'").rstrip(".")) from e
        for t in headers[name].tensors:
            if t.name in found:
                raise _damaged(folder, f"{shown(t.name)} is in two of its files")
            found[t.name] = StoredTensor(t.name, t.dtype, t.shape)
    if missing := sorted(expected.keys() ^ found.keys()):
        raise _damaged(folder, f"{len(missing)} stored tensors differ from the record, first {shown(missing[0])}")
    for key, tensor in expected.items():
        if found[key] != tensor:
            raise _damaged(folder, f"{shown(key)} is {shown(found[key].dtype)} ({shown_shape(found[key].shape)}) instead of "
                                   f"{tensor.dtype} ({shown_shape(tensor.shape)})")
    return headers


def verify_files(delta: Delta) -> Iterator[tuple[str, str]]:
    """Read every byte of the folder: yields (file, problem) for each file, problem empty where it is whole.

    Weight files that the delta does not list are a problem too; other files in the folder are not its own.
    """
    changed = "was changed since it was written"
    try:
        text = (delta.folder / CONFIG).read_bytes()
        yield CONFIG, "" if own_hash(text) == delta.config.sha256 else changed
    except OSError as error:
        yield CONFIG, f"can't be read: {error.strerror or error}"
    for name, entry in delta.config.files.items():
        file = delta.folder / name
        try:
            size = file.stat().st_size
            if size != entry.bytes:
                yield name, f"has {size} bytes instead of {entry.bytes}"
            else:
                yield name, "" if file_sha256(file) == entry.sha256 else changed
        except OSError as error:
            yield name, f"can't be read: {error.strerror or error}"
    for file in sorted(delta.folder.glob("*.safetensors")):
        if file.name not in delta.config.files:
            yield file.name, "is no file of this delta"


def _check_base_tensor(delta: Delta, base: Checkpoint, record: TensorRecord) -> None:
    """`WrongBase` unless the base has the record's tensor, of its shape and type."""
    wrong, remedy = f"'{base.source}' is not this delta's base", f"This delta belongs to '{delta.config.base.name}'."
    info = base.tensors.get(record.base or "")
    if info is None:
        raise WrongBase(f"{wrong}: it lacks {shown(str(record.base))}.", "", remedy)
    if tuple(info.shape) != record.base_shape or info.dtype != DTYPES[record.base_dtype]:
        raise WrongBase(f"{wrong}: '{record.base}' is {DTYPE_NAMES[info.dtype]} {list(info.shape)} instead of "
                        f"{record.base_dtype} {list(record.base_shape)}.", "", remedy)


def check_whole(delta: Delta) -> None:
    """Read every byte of the folder; raise `DeltaCorrupt` for the first file that is not as it was written."""
    for name, problem in verify_files(delta):
        if problem:
            raise DeltaCorrupt(f"The delta in '{delta.folder}' is damaged: {name} {problem}.", "", AGAIN)


def check_base(delta: Delta, base: Checkpoint, *, hashes: bool = True) -> None:
    """Raise `WrongBase` unless `base` holds the very tensors that the delta was made for (shapes only if not `hashes`)."""
    for record in delta.records.values():
        if record.base is None:
            continue
        _check_base_tensor(delta, base, record)
        if hashes and base.sha256(record.base) != record.base_sha256:
            raise WrongBase(f"'{base.source}' is not this delta's base: '{record.base}' has other values.", "",
                            f"This delta belongs to '{delta.config.base.name}'.")
