"""A reader of the delta folder in numpy alone, written from core/FORMAT.md: it shares no code with `core`.

numpy knows no bf16: such tensors come as their 16 bits in uint16.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
TYPES = {"U8": "<u1", "I32": "<i4", "I64": "<i8", "BF16": "<u2", "F16": "<f2", "F32": "<f4"}


def read_safetensors(path: Path) -> dict[str, Array]:
    """All tensors of a file by name."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    header.pop("__metadata__", None)
    result = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        result[name] = np.frombuffer(raw[start + begin:start + end], TYPES[entry["dtype"]]).reshape(entry["shape"])
    return result


def read_config(folder: Path) -> dict[str, Any]:
    """delta_config.json, after its own hash and those of all files are found right."""
    raw = (folder / "delta_config.json").read_bytes()
    config: dict[str, Any] = json.loads(raw)
    end = b'"\n}\n'
    digits = config["sha256"].encode()
    if not raw.endswith(b'"sha256": "' + digits + end):
        raise ValueError("the config does not end in its hash")
    blank = raw[:-len(digits + end)] + end
    if hashlib.sha256(blank).hexdigest() != config["sha256"]:
        raise ValueError("the config was changed")
    for name, entry in config["files"].items():
        content = (folder / name).read_bytes()
        if len(content) != entry["bytes"] or hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise ValueError(f"{name} was changed")
    return config


def widen(tensor: Array, dtype: str) -> NDArray[np.float32]:
    """Stored weights as FP32."""
    if dtype == "BF16":
        return (tensor.astype(np.uint32) << 16).view(np.float32)
    return tensor.astype(np.float32)


def rounded(values: NDArray[np.float32], dtype: str) -> Array:
    """FP32 to a stored type, to nearest, ties to even."""
    if dtype == "BF16":
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return values.astype(TYPES[dtype])


def unpack(packed: NDArray[np.uint8], columns: int) -> NDArray[np.float32]:
    """Signs +1 and -1 (rows, columns)."""
    signs = np.ones((len(packed), columns), np.float32)
    for column in range(columns):
        tile, place = divmod(column, 512)
        width = min(512, columns - tile * 512)          # columns of this tile
        stride = -(-width // 8)
        bit, byte = divmod(place, stride)
        signs[packed[:, tile * 64 + byte] >> bit & 1 == 1, column] = -1
    return signs


def magnitude(piece: dict[str, Any], values: NDArray[np.float32], inputs: int) -> NDArray[np.float32]:
    """What the scales of a slice say for each of its weights, (outputs, inputs)."""
    k = piece["stop"] - piece["start"]
    if piece["axis"] == "scalar":
        result = np.full((k, inputs), values[0], np.float32)
    elif piece["axis"] == "row":
        result = np.repeat(values[:k, None], inputs, 1)
    elif piece["axis"] == "column":
        result = np.repeat(values[None, :inputs], k, 0)
    else:
        result = values[:k, None] * values[None, k:k + inputs]
    return result


def read_signs(record: dict[str, Any], stored: dict[str, Array], total: NDArray[np.float32]) -> NDArray[np.float32]:
    """`total` (common, n) plus all planes."""
    out = record.get("output_dimension", 0)
    planes = record.get("planes", 1)
    inputs = total.shape[1 - out]
    scales = stored["scale"].astype(np.float32).reshape(planes, -1)
    for plane, exponent in enumerate(record["exponents"]):
        values = np.ldexp(scales[plane], exponent)
        parts = []
        for piece in record["slices"]:
            parts.append(magnitude(piece, values[:piece["slots"]], inputs))
            values = values[piece["slots"]:]
        whole = np.concatenate(parts)                   # (outputs, inputs)
        total = total + unpack(stored["signs"][plane], total.shape[1]) * (whole.T if out else whole)
    return total


def read_run(packed: NDArray[np.uint8], at: int, count: int, width: int) -> tuple[NDArray[np.float64], int]:
    """`count` odd whole numbers of a run that begins at byte `at`, and the byte behind it."""
    end = at + -(-count * width // 8)
    bits = np.unpackbits(packed[at:end], bitorder="little")[:count * width].reshape(count, width)
    return 2.0 * (bits @ (1 << np.arange(width))) + 1 - 2**width, end


def read_pairs(record: dict[str, Any], packed: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The change of a `svdmix` record in its stored orientation."""
    out, inputs = record["shape"] if record.get("output_dimension", 0) == 0 else record["shape"][::-1]
    pairs = sum(entry["count"] for entry in record.get("ranks", []))
    scales = np.ldexp(packed[:2 * pairs].view("<f2").astype(np.float64), record["exponents"][0])
    total: NDArray[np.float64] = np.zeros((out, inputs))
    at, pair = 2 * pairs, 0
    for entry in record.get("ranks", []):
        a, at = read_run(packed, at, entry["count"] * out, entry["outputs"])
        b, at = read_run(packed, at, entry["count"] * inputs, entry["inputs"])
        for i in range(entry["count"]):
            total += scales[pair] * np.outer(a.reshape(-1, out)[i], b.reshape(-1, inputs)[i])
            pair += 1
    stored: NDArray[np.float64] = total.T if record.get("output_dimension", 0) else total
    return stored.astype(np.float32)


def read_levels(stored: dict[str, Array], shape: tuple[int, int]) -> NDArray[np.int64]:
    """The levels of a `coded` record, (out, in)."""
    pairs = stored["tables"].astype(np.int64)
    tables = pairs[..., 0] + 256 * pairs[..., 1]        # (16, Q + 1)
    raw = stored["stream"].tobytes()
    states = [int.from_bytes(raw[4 * i:4 * i + 4], "little") for i in range(4)]
    words = iter([int.from_bytes(raw[i:i + 2], "little") for i in range(16, len(raw) - 1, 2)])
    result = np.zeros(shape, np.int64)
    for t in range(result.size):
        i = t % shape[1]
        table = tables[int(stored["columns"][i]) & 15]
        x, start = states[t % 4], 0
        for level in [0, *(sign * q for q in range(1, len(table)) for sign in (1, -1))]:
            f = int(table[abs(level)])
            if x % 4096 < start + f:
                break
            start += f
        x = f * (x // 4096) + x % 4096 - start
        states[t % 4] = x * 65536 + next(words, 0) if x < 65536 else x
        result[t // shape[1], i] = level
    return result


def cut_coded(record: dict[str, Any], packed: Array, out: int, inputs: int) -> dict[str, Array]:
    """The parts of a `coded` record's bytes."""
    rank, parts, at = record.get("rank", 0), {}, 0
    for part, shape in (("scale", (2 * (1 + rank),)), ("columns", (inputs,)), ("tables", (16, record["levels"] + 1, 2)),
                        ("left", (out, rank)), ("right", (rank, inputs)), ("stream", (record["count"],))):
        size = int(np.prod(shape))
        parts[part] = packed[at:at + size].reshape(shape)
        at += size
    if at != len(packed):
        raise ValueError("bytes that stand for nothing")
    return parts | {"scale": np.frombuffer(parts["scale"].tobytes(), "<f2")}


def read_coded(record: dict[str, Any], stored: dict[str, Array]) -> NDArray[np.float32]:
    """The change of a `coded` record in its stored orientation."""
    flipped = record.get("output_dimension", 0)
    out, inputs = record["shape"][::-1] if flipped else record["shape"]
    stored = cut_coded(record, stored["packed"], out, inputs)
    code = stored["columns"].astype(np.int64) >> 4
    scale = stored["scale"].astype(np.float64)
    step = np.ldexp(scale[0], record["exponents"][0]) * (2 + code % 2) * 2.0**(code // 2)
    total = read_levels(stored, (out, inputs)) * step
    for r in range(record.get("rank", 0)):
        worth = np.ldexp(scale[1 + r], record["exponents"][1])
        total += worth * np.outer(stored["left"][:, r] - 128.0, stored["right"][r] - 128.0)
    change: NDArray[np.float32] = (total.T if flipped else total).astype(np.float32)
    return change


def rebuild(record: dict[str, Any], stored: dict[str, Array], base: Array | None) -> Array:
    """The variant's tensor in its stored type."""
    codec, shape, dtype = record["codec"], tuple(record["shape"]), record["dtype"]
    if codec == "full":
        return stored["weight"]
    assert base is not None
    start = base[:shape[0]] if shape else base
    wide = widen(start, record["base_dtype"])
    if codec == "same":
        return rounded(wide, dtype)
    if codec == "lowrank":
        left, right = (np.ldexp(stored[k].astype(np.float64), record["exponents"][0]) for k in ("left", "right"))
        return rounded(wide + (left @ right).astype(np.float32), dtype)
    if codec == "svdmix":
        return rounded(wide + read_pairs(record, stored["packed"]), dtype)
    if codec == "coded":
        return rounded(wide + read_coded(record, stored), dtype)
    result = np.zeros(shape, TYPES[dtype])
    result[:len(wide)] = rounded(wide, dtype)
    if codec == "rows":
        result[stored["rows"]] = stored["values"]
    elif codec == "sparse":
        result.reshape(-1)[stored["index"]] = stored["values"]
    elif codec == "sign":
        result[:len(wide)] = rounded(read_signs(record, stored, wide), dtype)
        if len(wide) < len(result):
            result[len(wide):] = stored["tail"]
    else:
        raise ValueError(f"unknown codec {codec}")
    return result


def read_variant(delta: Path, base: Path) -> dict[str, Array]:
    """All tensors of a variant, from the delta's folder and the base's weight file."""
    config = read_config(delta)
    if (config["format"], config["format_version"]) != ("deltadeck", 1):
        raise ValueError("unknown format")
    data: dict[str, Array] = {}
    for name in config["files"]:
        if name.endswith(".safetensors"):
            data |= read_safetensors(delta / name)
    base_tensors = read_safetensors(base)
    lines, result = "", {}
    for record in config["tensors"]:
        start = None
        if record["base"] is not None:
            start = base_tensors[record["base"]]
            digest = hashlib.sha256(start.tobytes()).hexdigest()
            if list(start.shape) != record.get("base_shape", []) or digest != record["base_sha256"]:
                raise ValueError(f"another base: {record['base']}")
            lines += f"{record['base']}:{record['base_sha256']}\n"
        prefix = record["name"] + "."
        stored = {k[len(prefix):]: v for k, v in data.items() if k.rpartition(".")[0] == record["name"]}
        result[record["name"]] = rebuild(record, stored, start)
        if result[record["name"]].shape != tuple(record["shape"]):
            raise ValueError(f"wrong shape: {record['name']}")
    if hashlib.sha256(lines.encode()).hexdigest() != config["base"]["sha256"]:
        raise ValueError("the base's hash does not follow from the records")
    return result
