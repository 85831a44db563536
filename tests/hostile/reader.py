"""A strict judge of delta folders and checkpoints, written from core/FORMAT.md in numpy: it shares no code with `core`.

`judge_delta` says whether a folder obeys every rule of the page, and what it stands for; `judge_checkpoint` does the same
for a checkpoint's weights. Both raise `Broken` otherwise. The arithmetic is that of `tests.golden.reader`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.golden.reader import TYPES, read_pairs, read_signs, widen

Array = NDArray[Any]

CODECS = ("same", "rows", "sparse", "lowrank", "svdmix", "sign", "full")
"""Those that the judge knows."""
WEIGHTS = ("BF16", "F16", "F32")
BITS = {"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64,
        "I64": 64, "F64": 64, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F4": 4,
        "F6_E2M3": 6, "F6_E3M2": 6}
SIDECARS = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
            "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "tekken.json", "chat_template.jinja",
            "chat_template.json"}
WEIGHT_FILE = re.compile(r"delta_model(-\d{5,}-of-\d{5,})?\.safetensors", re.ASCII)
REQUIRED = {"tool_version": str, "base": dict, "fine_tuned": str, "method": dict, "calibration": dict, "fidelity": dict,
            "files": dict, "tensors": list, "sha256": str}
RECORD: dict[str, tuple[type | tuple[type, ...], Any]] = {
    "base_shape": (list, []), "base_dtype": (str, ""), "base_sha256": (str, ""), "sha256": (str, ""), "slices": (list, []),
    "output_dimension": (int, 0), "planes": (int, 1), "exponents": (list, []), "rank": (int, 0), "count": (int, 0),
    "packed": (int, 0), "ranks": (list, []),
    "kind": (str, ""), "block": ((int, type(None)), None), "change": ((int, float), 0.0), "unchanged": ((int, float), 0.0),
    "losses": (list, []), "note": (str, "")}
COMPUTED = re.compile(r"(.*\.)?((attn|attention)\.masked_bias|rotary_emb\.inv_freq|position_ids|(cross)?attn\.bias"
                      r"|(cross)?attention\.bias)", re.DOTALL)
"""Tensors of old checkpoints that no model reads: a program may leave them out."""


class Broken(Exception):
    """A rule that is not kept."""


def need(holds: object, rule: str) -> None:
    """Raise `Broken` unless a rule holds."""
    if not holds:
        raise Broken(rule)


def whole(value: object) -> bool:
    """Whether JSON holds an integer there."""
    return type(value) is int


def strict_json(raw: bytes) -> Any:
    """JSON in UTF-8 without NaN and without a key that comes twice."""
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        need(len({k for k, _ in pairs}) == len(pairs), "a key twice")
        return dict(pairs)

    def constant(text: str) -> None:
        raise Broken(text)
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=once, parse_constant=constant)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except (ValueError, RecursionError) as error:
        raise Broken("not JSON") from error


def read_safetensors(raw: bytes) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Type, shape and bytes of all tensors by name."""
    need(len(raw) >= 8, "too short")
    size = int.from_bytes(raw[:8], "little")
    need(size <= min(len(raw) - 8, 100_000_000), "a header beyond the file")
    header = strict_json(raw[8:8 + size])
    need(isinstance(header, dict), "a header that is no object")
    metadata = header.pop("__metadata__", None)
    need(metadata is None or (isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values()))
         or metadata in ([], 0, False, "", 0.0), "metadata that are no texts")
    data, ranges, result = raw[8 + size:], [], {}
    for name, entry in header.items():
        need(isinstance(entry, dict) and isinstance(entry.get("dtype"), str), "an entry without a type")
        shape, offsets = entry.get("shape"), entry.get("data_offsets")
        need(all(isinstance(v, list) and all(whole(i) and i >= 0 for i in v) for v in (shape, offsets)), "no shape or offsets")
        need(len(offsets) == 2 and offsets[0] <= offsets[1] <= len(data), "offsets out of the file")
        bits = BITS.get(entry["dtype"])
        need(bits is None or math.prod(shape) * bits == 8 * (offsets[1] - offsets[0]), "bytes that do not fit the shape")
        ranges.append(tuple(offsets))
        result[name] = (entry["dtype"], tuple(shape), data[offsets[0]:offsets[1]])
    at = 0
    for begin, end in sorted(ranges):
        need(begin == at, "a gap or an overlap")
        at = end
    need(at == len(data), "bytes that belong to nothing")
    return result


def inside(path: Path, folder: Path) -> bool:
    """Whether a file really lies in its folder."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


# ------------------------------------------------------------------------------------------------------------ deltas
def judge_config(folder: Path) -> dict[str, Any]:
    """delta_config.json, once everything that can be said of it and the files beside it without the base was checked."""
    path = folder / "delta_config.json"
    need(path.is_file() and inside(path, folder), "no config")
    need(path.stat().st_size <= 100_000_000, "a config too long")
    raw = path.read_bytes()
    config: Any = strict_json(raw)
    if not isinstance(config, dict) or config.get("format") != "deltadeck":
        raise Broken("another format")
    need(whole(config.get("format_version")) and config["format_version"] == 1, "another version")
    for key, kind in REQUIRED.items():
        need(isinstance(config.get(key), kind), f"no {key}")
    need(isinstance(config.get("warnings", []), list) and all(isinstance(w, str) for w in config.get("warnings", [])), "warnings")
    tail = b'"sha256": "' + config["sha256"].encode() + b'"\n}\n'
    need(re.fullmatch("[0-9a-f]{64}", config["sha256"]) and raw.endswith(tail), "does not end in its hash")
    blank = raw[:-len(tail)] + b'"sha256": ""\n}\n'
    need(hashlib.sha256(blank).hexdigest() == config["sha256"], "its hash is wrong")
    need(all(isinstance(config["base"].get(k), str) for k in ("name", "architecture", "sha256")), "no base")
    for name, entry in config["files"].items():
        known = name in SIDECARS | {"README.md", "delta_model.safetensors.index.json"} or WEIGHT_FILE.fullmatch(name)
        need(known or re.fullmatch(r"[A-Za-z0-9_.-]{1,60}\.model", name), "a name that no delta has")
        need(isinstance(entry, dict) and whole(entry.get("bytes")) and isinstance(entry.get("sha256"), str), "a file's entry")
        need((folder / name).is_file() and inside(folder / name, folder), "a file missing or elsewhere")
        need((folder / name).stat().st_size == entry["bytes"], "a file of another size")
        content = (folder / name).read_bytes()
        need(len(content) == entry["bytes"] and hashlib.sha256(content).hexdigest() == entry["sha256"], "a file was changed")
    return dict(config)


def filled(record: object) -> dict[str, Any]:
    """A record with its defaults, its types checked."""
    need(isinstance(record, dict), "a record that is no object")
    assert isinstance(record, dict)
    need(all(isinstance(record.get(k), str) for k in ("name", "codec", "dtype")), "no name, codec or type")
    need("base" in record and isinstance(record["base"], str | None), "no base")
    full = {**{k: default for k, (_, default) in RECORD.items()}, **record}
    for key, (kind, _) in RECORD.items():
        need(isinstance(full[key], kind) and not isinstance(full[key], bool), f"{key} of another type")
    need(isinstance(full.get("shape"), list), "no shape")
    for key in ("shape", "base_shape", "exponents"):
        need(all(map(whole, full[key])), f"{key} of another type")
    for losses in full["losses"]:
        need(isinstance(losses, dict), "losses")
        for key in ("axis", "guess"):
            held = losses.get(key, {})
            need(isinstance(held, dict) and all(isinstance(v, int | float) for v in held.values()), "losses")
        need(all(isinstance(losses.get(k), int | float | None) for k in ("training", "held_out")), "losses")
    for entry in full["ranks"]:
        need(isinstance(entry, dict) and all(whole(entry.get(k)) for k in ("count", "outputs", "inputs")), "ranks")
        need(entry["count"] >= 1 and {entry["outputs"], entry["inputs"]} <= {2, 3, 4, 5, 6, 8, 16}, "ranks")
    for piece in full["slices"]:
        need(isinstance(piece, dict) and all(whole(piece.get(k)) for k in ("start", "stop", "slots")), "a slice")
        need(isinstance(piece.get("axis"), str), "a slice without an axis")
    return full


def used(piece: Mapping[str, Any], inputs: int) -> int:
    """Scales of a slice."""
    k = int(piece["stop"] - piece["start"])
    return {"scalar": 1, "row": k, "column": inputs, "both": k + inputs}[piece["axis"]]


def runs(r: dict[str, Any]) -> list[tuple[int, int]]:
    """First byte and bits of each run of a `svdmix` record."""
    m, n = r["shape"]
    out, inputs = (n, m) if r["output_dimension"] else (m, n)
    at, found = 2 * sum(e["count"] for e in r["ranks"]), []
    for entry in r["ranks"]:
        for size, width in ((out, entry["outputs"]), (inputs, entry["inputs"])):
            found.append((at, entry["count"] * size * width))
            at += -(-found[-1][1] // 8)
    return found


def pair_bytes(r: dict[str, Any]) -> int:
    """Bytes that the pairs of a `svdmix` record take."""
    found = runs(r)
    return found[-1][0] + -(-found[-1][1] // 8) if found else 0


def judge_record(r: dict[str, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Types and shapes of what a record calls for, by suffix, in order."""
    shape, base, codec, out = tuple(r["shape"]), tuple(r["base_shape"]), r["codec"], r["output_dimension"]
    need(codec in CODECS, "an unknown codec")
    need(r["dtype"] in WEIGHTS and out in (0, 1), "an unknown type or dimension")
    need(all(s >= 0 for s in (*shape, *base)), "a negative size")
    need(all(-125 <= e <= 112 for e in r["exponents"]), "an exponent")
    need(not out or len(shape) == 2, "an output dimension of no matrix")
    if r["base"] is None:
        need(codec == "full" and not base, "no base tensor")
    else:
        need(r["base_dtype"] in WEIGHTS and len(base) == len(shape) and base[1:] == shape[1:], "does not fit its base")
    if codec not in ("same", "full"):
        need(0 not in (*shape, *base), "an empty matrix")
    tail = max(0, shape[0] - base[0]) if shape and base else 0
    if codec == "same":
        need(not tail, "more rows than the base")
        return {}
    if codec == "full":
        return {"weight": (r["dtype"], shape)}
    if codec == "rows":
        need(shape and tail <= r["count"] <= shape[0], "a count")
        return {"values": (r["dtype"], (r["count"], *shape[1:])), "rows": ("I32", (r["count"],))}
    if codec == "sparse":
        need(not tail and 0 <= r["count"] <= math.prod(shape), "a count")
        index = "I64" if math.prod(shape) >= 2**31 else "I32"
        return {"index": (index, (r["count"],)), "values": (r["dtype"], (r["count"],))}
    need(len(shape) == 2, "no matrix")
    m, n = shape
    if codec == "lowrank":
        need(not tail and 1 <= r["rank"] <= min(m, n) and len(r["exponents"]) == 1, "a rank")
        return {"left": ("F16", (m, r["rank"])), "right": ("F16", (r["rank"], n))}
    if codec == "svdmix":
        need(not tail and len(r["exponents"]) == 1 and r["packed"] >= 1, "packed")
        need(pair_bytes(r) <= r["packed"] and sum(e["count"] for e in r["ranks"]) <= min(m, n), "ranks")
        return {"packed": ("U8", (r["packed"],))}
    need(1 <= r["planes"] <= 8 and len(r["exponents"]) == r["planes"] and not (tail and out), "planes")
    at = 0
    outputs, inputs = (n, m) if out else (m - tail, n)
    for piece in r["slices"]:
        need(piece["start"] == at < piece["stop"] and piece["axis"] in ("scalar", "row", "column", "both"), "slices")
        need(piece["slots"] >= used(piece, inputs), "slots")
        at = piece["stop"]
    need(at == outputs and (not out or len(r["slices"]) == 1), "slices that do not cover")
    stored: dict[str, tuple[str, tuple[int, ...]]] = {
        "signs": ("U8", (r["planes"], m - tail, -(-n // 8))),
        "scale": ("F16", (r["planes"] * sum(p["slots"] for p in r["slices"]),))}
    if tail:
        stored["tail"] = (r["dtype"], (tail, n))
    return stored


def ascending(index: Array, size: int) -> bool:
    """Whether indices ascend from 0 to below `size`."""
    wide = index.astype(object)
    return all(0 <= i < size for i in wide) and all(a < b for a, b in pairwise(wide))


def judge_stored(r: dict[str, Any], stored: Mapping[str, Array]) -> None:
    """What a record's stored values must not hold."""
    if r["codec"] == "rows":
        need(ascending(stored["rows"], r["shape"][0]), "rows")
        tail = max(0, r["shape"][0] - r["base_shape"][0])
        need(set(range(r["shape"][0] - tail, r["shape"][0])) <= set(stored["rows"].tolist()), "missing tail rows")
    elif r["codec"] == "sparse":
        need(ascending(stored["index"], math.prod(r["shape"])), "index")
    elif r["codec"] == "lowrank":
        need(np.isfinite(stored["left"]).all() and np.isfinite(stored["right"]).all(), "factors")
    elif r["codec"] == "svdmix":
        packed, pairs = stored["packed"], sum(e["count"] for e in r["ranks"])
        need(np.isfinite(packed[:2 * pairs].copy().view("<f2")).all(), "scales")
        need(not packed[pair_bytes(r):].any(), "bytes that are not 0")
        need(not any(bits % 8 and packed[at + bits // 8] >> bits % 8 for at, bits in runs(r)), "unused bits")
    elif r["codec"] == "sign":
        need(np.isfinite(stored["scale"]).all(), "scales")
        inputs, at = r["shape"][1 - r["output_dimension"]], 0
        for piece in r["slices"] * r["planes"]:
            need(not stored["scale"][at + used(piece, inputs):at + piece["slots"]].any(), "slots that are not 0")
            at += piece["slots"]
        n = r["shape"][1]
        left = n % 512
        for bit in range(8 if left else 0):
            stride = -(-left // 8)
            for byte in range(stride):
                if stride * bit + byte >= left:
                    need(not (stored["signs"][:, :, n // 512 * 64 + byte] >> bit & 1).any(), "unused bits")


def rounded(values: Array, dtype: str) -> Array:
    """FP32 to a stored type, to nearest, ties to even, NaN kept."""
    if dtype != "BF16":
        return values.astype(TYPES[dtype])
    bits = values.view(np.uint32).astype(np.uint64)
    result = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    result[np.isnan(values)] = 0x7FC0
    return result


def rebuilt(r: dict[str, Any], stored: Mapping[str, Array], base: Array | None) -> Array:
    """The variant's tensor in its stored type."""
    shape, dtype, codec = tuple(r["shape"]), r["dtype"], r["codec"]
    if codec == "full":
        return stored["weight"]
    assert base is not None
    wide = np.array(widen(base[:shape[0]] if shape else base, r["base_dtype"]), np.float32)
    if codec == "lowrank":
        left, right = (np.ldexp(stored[k].astype(np.float64), r["exponents"][0]) for k in ("left", "right"))
        return rounded(wide + (left @ right).astype(np.float32), dtype)
    if codec == "svdmix":
        return rounded(wide + read_pairs(r, stored["packed"]), dtype)
    if codec == "sign":
        wide = np.asarray(read_signs(r, dict(stored), wide), np.float32)
    flat = rounded(wide.reshape(-1), dtype).reshape(wide.shape)
    if not shape:
        return flat
    result = np.zeros(shape, TYPES[dtype])
    result[:len(wide)] = flat
    if codec == "rows":
        result[stored["rows"]] = stored["values"]
    elif codec == "sparse":
        result.reshape(-1)[stored["index"]] = stored["values"]
    elif codec == "sign" and "tail" in stored:
        result[len(wide):] = stored["tail"]
    return result


def judge_delta(folder: Path, base: Mapping[str, tuple[str, tuple[int, ...], bytes]]) -> dict[str, tuple[str, Array]]:
    """Type and values of every tensor that a folder stands for; `Broken` where it breaks any rule of FORMAT.md."""
    config = judge_config(folder)
    records = [filled(r) for r in config["tensors"]]
    need(len({r["name"] for r in records}) == len(records), "two records of one name")
    wanted, lines = {}, ""
    for r in records:
        for suffix, kind in judge_record(r).items():
            need(f"{r['name']}.{suffix}" not in wanted, "two records call for one tensor")
            wanted[f"{r['name']}.{suffix}"] = kind
        if r["base"] is not None:
            lines += f"{r['base']}:{r['base_sha256']}\n"
    need(hashlib.sha256(lines.encode()).hexdigest() == config["base"]["sha256"], "the base's hash")
    found: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
    for name in filter(WEIGHT_FILE.fullmatch, config["files"]):
        held = read_safetensors((folder / name).read_bytes())
        need(not held.keys() & found.keys(), "a tensor in two files")
        found |= held
    need({k: (d, s) for k, (d, s, _) in found.items()} == wanted, "other tensors than the records call for")
    result = {}
    for r in records:
        start = None
        if r["base"] is not None:
            need(r["base"] in base, "a base tensor that is not there")
            dtype, shape, raw = base[r["base"]]
            need((dtype, list(shape)) == (r["base_dtype"], r["base_shape"]), "another base tensor")
            need(hashlib.sha256(raw).hexdigest() == r["base_sha256"], "other values in the base")
            start = np.frombuffer(raw, TYPES[dtype]).reshape(shape)
        kinds = judge_record(r)
        stored = {s: np.frombuffer(found[f"{r['name']}.{s}"][2], TYPES[d]).reshape(shape) for s, (d, shape) in kinds.items()}
        judge_stored(r, stored)
        with np.errstate(all="ignore"):
            result[r["name"]] = (r["dtype"], rebuilt(r, stored, start))
    return result


# ------------------------------------------------------------------------------------------------------- checkpoints
def judge_checkpoint(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """The weights of a checkpoint folder as its files hold them; `Broken` where they contradict one another."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        need(inside(single, folder), "leads out")
        return read_safetensors(single.read_bytes())
    found: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
    if not index.is_file():
        files = sorted(p for p in folder.glob("*.safetensors") if p.is_file() and not p.name.startswith("adapter_"))
        for path in [p for p in files if not p.name.startswith("consolidated")] or files:
            need(inside(path, folder), "leads out")
            held = read_safetensors(path.read_bytes())
            need(not held.keys() & found.keys(), "a tensor in two files")
            found |= held
        return found
    places = strict_json(index.read_bytes())["weight_map"]
    for name in set(places.values()):
        need((folder / name).is_file() and inside(folder / name, folder), "leads out")
        held = read_safetensors((folder / name).read_bytes())
        need(not held.keys() & found.keys() and all(places.get(t) == name for t in held), "not as the index says")
        found |= held
    need(found.keys() == places.keys(), "not as the index says")
    return found


def same_values(dtype: str, one: Array, other: Array, slack: bool = False) -> bool:
    """Whether two tensors of stored values are equal, NaN to NaN; with `slack` sums may differ by their order."""
    if one.shape != other.shape:
        return False
    if one.tobytes() == other.tobytes():
        return True
    with np.errstate(all="ignore"):
        a, b = widen(one, dtype), widen(other, dtype)
        if slack:
            return bool(np.allclose(a, b, rtol=2.0**-7, atol=0, equal_nan=True))
        return bool((((a == b) & (np.signbit(a) == np.signbit(b))) | (np.isnan(a) & np.isnan(b))).all())
