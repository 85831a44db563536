"""A strict reading of one safetensors file's header, without touching its data.

The format (huggingface.co/docs/safetensors): a little-endian u64 with the header's length, the header as a
JSON object that maps each tensor's name to its dtype, shape and byte range, then the data. Reading a mapped
tensor past the end of a file kills the process (SIGBUS), so every promise of the header is checked here
against the size of the file, and whoever reads later checks that the file is still the one that was checked.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeGuard

from core.errors import BadSafetensors

# The safetensors library refuses longer headers too, so none of its own files has one.
LONGEST_HEADER = 100_000_000
DAMAGED = "It was damaged, cut short or not made by a safetensors writer; reading on could crash the program."
AGAIN = "Copy or download the file again, or save the model again with save_pretrained."

DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


@dataclass(frozen=True)
class StoredTensor:
    """One entry of a header: `begin` and `end` are byte offsets from the start of the file."""

    name: str
    dtype: str  # as the header spells it: "BF16"
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class SafetensorsFile:
    """A checked file. `size` (bytes) and `modified_ns` tell later whether it is still the same one."""

    path: Path
    size: int
    modified_ns: int
    tensors: tuple[StoredTensor, ...]  # in the order of their bytes


def read_header(path: Path) -> SafetensorsFile:
    """Read and check the header of a safetensors file.

    Raises:
        BadSafetensors: the file can't be read, is shorter or longer than its header says, or the header isn't
            what the format asks for: JSON, no name twice, byte ranges that fit, without gap or overlap.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            length = int.from_bytes(file.read(8), "little")
            if status.st_size < 8:
                raise _bad(path, f"is only {status.st_size} bytes long, too short for a safetensors file.")
            if length > status.st_size - 8:
                raise _bad(path, f"announces a header of {length} bytes but is {status.st_size} bytes long.")
            if length > LONGEST_HEADER:
                raise _bad(path, f"announces a header of {length} bytes; {LONGEST_HEADER} is the limit.")
            raw = file.read(length)
    except OSError as error:
        raise BadSafetensors(
            f"{path} can't be read: {error.strerror or error}.",
            "",
            "Check the file's permissions and its disk.",
        ) from error
    if len(raw) < length:
        raise _bad(path, "ends within its own header.")
    header = _parse(path, raw)
    header.pop("__metadata__", None)
    tensors = [_entry(path, name, value, 8 + length) for name, value in header.items()]
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end))
    _check_ranges(path, tensors, 8 + length, status.st_size)
    return SafetensorsFile(path, status.st_size, status.st_mtime_ns, tuple(tensors))


def check_unchanged(file: SafetensorsFile, status: os.stat_result) -> None:
    """Raise BadSafetensors if the file is no longer the one whose header was checked."""
    if (status.st_size, status.st_mtime_ns) != (file.size, file.modified_ns):
        raise BadSafetensors(
            f"{file.path} changed while it was in use.",
            "What was checked when it was opened may no longer hold.",
            "Wait until nothing writes to the folder, then open it again.",
        )


def _bad(path: Path, what: str) -> BadSafetensors:
    return BadSafetensors(f"{path} {what}", DAMAGED, AGAIN)


class _Twice(ValueError):
    """A key occurs twice, so that readers could disagree on what it stands for."""


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Twice(Counter(name for name, _ in pairs).most_common(1)[0][0])
    return found


def parse_json(raw: bytes) -> Any:
    """Parse strict JSON in UTF-8. Raises ValueError for anything else: a key twice, NaN, endless nesting, half a character."""
    try:
        value = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_no_name_twice, parse_constant=_refuse_constant
        )
        if b"\\ud" in raw.lower():                     # escapes can spell what no log, file name or other library takes
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except _Twice as error:
        raise ValueError(f"the name {shown(str(error))} occurs twice") from error
    except UnicodeEncodeError as error:
        raise ValueError("text that is not valid Unicode") from error
    except (ValueError, RecursionError) as error:
        raise ValueError("not valid JSON") from error


def _refuse_constant(text: str) -> None:
    raise ValueError(text)


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        header = parse_json(raw)
    except ValueError as error:
        raise _bad(path, f"has a broken header: {error}.") from error
    if not isinstance(header, dict):
        raise _bad(path, "has a header that is not a JSON object.")
    metadata = header.get("__metadata__") or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _bad(path, "has metadata that is not a table of texts.")
    return header


def _entry(path: Path, name: str, value: Any, data_begin: int) -> StoredTensor:
    fields = value if isinstance(value, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    if not isinstance(dtype, str) or not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
        raise _bad(path, f"describes tensor {shown(name)} without a proper dtype, shape and pair of offsets.")
    # torch counts elements and strides in signed 64 bit, also where a dimension is 0, and at most 64 of them
    if len(shape) > 64 or prod(max(size, 1) for size in shape) >= 2**63:
        raise _bad(path, f"gives tensor {shown(name)} the impossible shape {shown_shape(shape)}.")
    begin, end = offsets
    if max(offsets) >= 2**63:                          # no file is so long; such a number would fill the message
        raise _bad(path, f"places tensor {shown(name)} beyond the end of any file.")
    bits = DTYPE_BITS.get(dtype)
    if bits is not None and prod(shape) * bits != (end - begin) * 8:
        what = f"gives tensor {shown(name)} {end - begin} bytes"
        raise _bad(path, f"{what}, which do not fit {dtype} of shape {shown_shape(shape)}.")
    return StoredTensor(name, dtype, tuple(shape), data_begin + begin, data_begin + end)


def _counts(values: object) -> TypeGuard[list[int]]:
    # a bool is an int in Python, but not in the format
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def shown(name: str) -> str:
    """A name from a file for a sentence: quoted, control characters escaped, cut when endless."""
    return repr(name) if len(name) <= 120 else repr(name[:120]) + "..."


def shown_shape(shape: Sequence[int]) -> str:
    """A shape for a sentence: "60 x 173"."""
    text = " x ".join(str(size) for size in shape) or "a single number"
    return text if len(text) < 80 else text[:80] + "..."


def _check_ranges(path: Path, tensors: Iterable[StoredTensor], begin: int, size: int) -> None:
    """Every byte of the data belongs to exactly one tensor, and there are no others."""
    for tensor in tensors:
        if tensor.end < tensor.begin:
            raise _bad(path, f"ends tensor {shown(tensor.name)} before its beginning.")
        if tensor.end > size:
            what = f"places tensor {shown(tensor.name)} beyond its own end"
            raise _bad(path, f"{what}; {tensor.end - size} bytes are missing.")
        if tensor.begin != begin:
            what = "overlaps another one" if tensor.begin < begin else "comes after a gap"
            raise _bad(path, f"places tensor {shown(tensor.name)} where it {what}.")
        begin = tensor.end
    if begin != size:
        raise _bad(path, f"has {size - begin} bytes at its end that belong to no tensor.")
