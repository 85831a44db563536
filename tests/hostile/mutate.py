"""Mutations of files: bytes, JSON and folders, chosen by a seeded generator, so that any of them can be made again by its number.

A folder is a table of names to what lies there: bytes, a `Link`, or a `Special` file. Deltas can be sealed anew: the hashes
are made to fit what was changed, as somebody who means harm would do.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

CONFIG = "delta_config.json"


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    target: str


@dataclass(frozen=True)
class Special:
    """A `pipe`, a `folder`, or a `hole` of 2**40 bytes that take no room."""

    kind: str


Content = bytes | Link | Special
Files = dict[str, Content]


def read_files(folder: Path) -> Files:
    """The plain files of a folder."""
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}


def write_files(folder: Path, files: Files) -> None:
    """Put a folder into just this state; names that lead elsewhere are left out."""
    if folder.is_dir():
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name
        if not name or "\0" in name or os.path.isabs(name) or ".." in path.parts or len(os.fsencode(name)) > 200:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, Link):
            path.symlink_to(content.target)
        elif content.kind == "pipe":
            os.mkfifo(path)
        elif content.kind == "folder":
            path.mkdir()
        else:
            with path.open("wb") as file:
                file.truncate(2**40)


# ------------------------------------------------------------------------------------------------------------- bytes
def spoil_bytes(rng: Random, raw: bytes) -> bytes:
    """Some bytes changed, lost, added or moved; never all of it."""
    data = bytearray(raw)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = rng.randrange(len(data) + 1) if data else 0
        length = rng.choice((1, 1, 2, 4, 8, 64))
        kind = rng.randrange(8)
        if kind == 0 and data:
            data[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at:at + length] = rng.randbytes(length)
        elif kind == 2:
            del data[at:at + length]
        elif kind == 3:
            data[at:at] = rng.randbytes(length)
        elif kind == 4:
            del data[at:]
        elif kind == 5:
            data += rng.choice((b"\0", b"\n", b" ")) * length
        elif kind == 6:
            data[at:at + length] = rng.choice((b"\0", b"\xff", b"\x7f", b"9", b"[")) * len(data[at:at + length])
        else:
            other = rng.randrange(len(data) + 1)
            data[at:at + length] = data[other:other + length]
    return bytes(data)


# -------------------------------------------------------------------------------------------------------------- JSON
NUMBERS: tuple[Any, ...] = (0, 1, 2, 3, -1, 7, 8, 64, 255, 1000, 2**31 - 1, 2**31, -2**31, 2**40, 2**62, 2**63 - 1, 2**63, -2**63,
                            2**64, 10**30, 0.5, -0.0, 1e308, -126, -125, 112, 113)
TEXTS = ("", "x", "../x", "/etc/passwd", "a" * 5000, "a\0b", "BF16", "F16", "F32", "F64", "I32", "U8", "same", "rows", "sparse",
         "svdmix", "lowrank", "sign", "full", "row", "column", "both", "scalar", "auto", "\ud800", "\u202e", "model.safetensors",
         "__metadata__", "a\nb", "https://example.org/x", "deltadeck")
ODD: tuple[Any, ...] = (None, True, False, [], {}, [[]], [None], {"x": 1}, [0], [1, 2], [2**62, 2**62], [-1], [1] * 100,
                        [0, 2**62])


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    found: list[tuple[Any, Any]] = []
    todo = [value]
    while todo:
        here = todo.pop()
        keys = list(here) if isinstance(here, dict) else range(len(here)) if isinstance(here, list) else ()
        for key in keys:
            found.append((here, key))
            todo.append(here[key])
    return found


def other_value(rng: Random, value: Any) -> Any:
    """Something else in place of a value: near it, or of another kind altogether."""
    near = rng.random() < 0.6
    if near and type(value) is int:
        return rng.choice((value + 1, value - 1, value * 2, -value, value // 2, value + rng.randrange(-8, 9)))
    if near and isinstance(value, str):
        at = rng.randrange(len(value) + 1)
        return rng.choice((value[:at] + rng.choice("0aF.\n\0\"\\/") + value[at + 1:], value[:at], value + "x", value.upper(),
                           value.swapcase(), " " + value))
    if near and isinstance(value, list) and value:
        kept = copy.deepcopy(value)
        kind = rng.randrange(4)
        if kind == 0:
            rng.shuffle(kept)
        elif kind == 1:
            kept.append(copy.deepcopy(rng.choice(kept)))
        elif kind == 2:
            kept.pop(rng.randrange(len(kept)))
        else:
            kept.reverse()
        return kept
    return copy.deepcopy(rng.choice((*NUMBERS, *TEXTS, *ODD)))


def spoil_json(rng: Random, value: Any, times: int = 0) -> Any:
    """A copy with one or a few places changed, removed, renamed, exchanged or added."""
    value = copy.deepcopy(value)
    for _ in range(times or rng.choice((1, 1, 1, 2, 3))):
        found = places(value)
        if not found:
            return other_value(rng, value)
        here, key = rng.choice(found)
        kind = rng.randrange(10)
        if kind == 0:
            del here[key]
        elif kind == 1 and isinstance(here, dict):
            here[rng.choice((*TEXTS, *(k for _, k in found if isinstance(k, str))))] = here.pop(key)
        elif kind == 2:
            there, other = rng.choice(found)
            here[key], there[other] = copy.deepcopy(there[other]), copy.deepcopy(here[key])
        elif kind == 3:
            there, other = rng.choice(found)
            here[key] = copy.deepcopy(there[other])
        else:
            here[key] = other_value(rng, here[key])
    return value


def spoil_text(rng: Random, raw: bytes) -> bytes:
    """JSON text that is still nearly JSON: keys twice, NaN, endless nesting or numbers, half a character, a mark in front."""
    kind = rng.randrange(9)
    lines = raw.split(b"\n")
    at = rng.randrange(len(lines))
    if kind == 0:
        return b"\n".join((*lines[:at], lines[at], *lines[at:]))
    if kind == 1:
        return raw.replace(rng.choice((b"0", b"1", b'""', b"null")), rng.choice((b"NaN", b"Infinity", b"-Infinity", b"1e999")), 1)
    if kind == 2:
        return raw.replace(rng.choice((b"0", b"1", b"2")), b"9" * rng.choice((30, 4000, 5000)), 1)
    if kind == 3:
        return b"\xef\xbb\xbf" + raw
    if kind == 4:
        return raw.replace(b'": "', b'": "\\ud800', 1)
    if kind == 5:
        return raw.replace(rng.choice((b"[]", b"{}", b'""', b"1", b"0")), b"[" * 100_000 + b"]" * 100_000, 1)
    if kind == 6:
        return raw.replace(b'{"', b'{"' + rng.choice((b"name", b"sha256", b"shape", b"format", b"dtype")) + b'": 1, "', 1)
    if kind == 7:
        return raw.replace(b'": "', b'": "\xff\xfe', 1)
    return raw[:rng.randrange(len(raw))]


# ------------------------------------------------------------------------------------------------------- safetensors
def split_weights(raw: bytes) -> tuple[Any, bytes]:
    """Header and data of a safetensors file."""
    size = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8:8 + size]), raw[8 + size:]


def join_weights(header: Any, data: bytes) -> bytes:
    """A safetensors file of these."""
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + data


def spoil_weights(rng: Random, raw: bytes) -> bytes:
    """A weight file with another header, other data, or none of either."""
    try:
        header, data = split_weights(raw)
    except ValueError:
        return spoil_bytes(rng, raw)
    kind = rng.randrange(10)
    if kind < 3:
        return join_weights(spoil_json(rng, header), data)
    if kind == 3:
        return join_weights(spoil_text(rng, json.dumps(header, indent=0).encode()), data)
    if kind == 4:
        return join_weights(header, spoil_bytes(rng, data))
    if kind == 5:
        size = rng.choice((0, 1, 7, len(raw), len(raw) - 8, 2**31, 10**8, 10**8 + 1, 2**63, 2**64 - 1))
        return struct.pack("<Q", size) + raw[8:]
    if kind == 6:
        return reshaped(rng, header, data)
    if kind == 7 and data:
        at = rng.randrange(len(data))
        return join_weights(header, data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1:])
    if kind == 8 and data:
        at = rng.randrange(len(data)) & ~1
        special = rng.choice((b"\0\x7c", b"\0\xfc", b"\x01\x7e", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80",
                              b"\x80\x7f"))
        return join_weights(header, (data[:at] + special + data[at + len(special):])[:len(data)])
    return spoil_bytes(rng, raw)


def reshaped(rng: Random, header: Any, data: bytes) -> bytes:
    """Types, shapes, ranges or names of a header changed in a way that may still fit."""
    header = copy.deepcopy(header)
    names = [n for n in header if n != "__metadata__"]
    if not names:
        return join_weights(header, data)
    name, other = rng.choice(names), rng.choice(names)
    entry = header[name]
    kind = rng.randrange(7)
    if kind == 0:
        entry["shape"] = list(reversed(entry["shape"]))
    elif kind == 1:
        entry["shape"] = [1, *entry["shape"]]
    elif kind == 2:
        entry["dtype"] = rng.choice(("BF16", "F16", "I16", "U16"))
    elif kind == 3:
        header[name], header[other] = header[other], header[name]
    elif kind == 4:
        header = dict(sorted(header.items(), key=lambda pair: rng.random()))
    elif kind == 5:
        header[rng.choice(("", "x", name + ".bias", "../" + name, "rotary_emb.inv_freq"))] = header.pop(name)
    else:
        entry["shape"] = rng.choice(([2**31, 2**31], [2**40, 0], [0, 2**63], [2**62, 2], [10**12], [0] * 65, [1] * 64))
    return join_weights(header, data)


# ------------------------------------------------------------------------------------------------------------ folders
NEW_FILES = ("modeling_x.py", "pytorch_model.bin", "training_args.bin", "adapter_config.json", "adapter_model.safetensors",
             "consolidated.safetensors", "extra.safetensors", "tokenizer.model", "sub/model.safetensors", "x.gguf",
             "model.safetensors.index.json", "model.safetensors", "delta_model-00001-of-00002.safetensors",
             "generation_config.json", "tokenizer_config.json", "added_tokens.json")


def spoil_folder(rng: Random, files: Files, outside: str) -> Files:
    """Files gone, emptied, exchanged, turned into links (to `outside`, round, nowhere), pipes, folders or holes; or new ones."""
    files = dict(files)
    name = rng.choice(list(files))
    kind = rng.randrange(12)
    if kind == 0:
        del files[name]
    elif kind == 1:
        files[name] = b""
    elif kind == 2:
        other = rng.choice(list(files))
        files[name], files[other] = files[other], files[name]
    elif kind < 6:
        target = (f"{outside}/{name}", f"../outside/{name}", "/etc/passwd", name, "nowhere", "/dev/zero", "/proc/self/mem", "..")
        files[name] = Link(rng.choice(target))
    elif kind == 6:
        files[name] = Special(rng.choice(("pipe", "folder", "hole")))
    elif kind == 7:
        files[rng.choice((name.upper(), name + ".bak", " " + name, "x." + name))] = files.pop(name)
    else:
        new = rng.choice(NEW_FILES)
        files[new] = rng.choice((b"", b"{}", b"[]", b"\x80\x04.", b"PK\x03\x04", rng.randbytes(50), b'{"auto_map": {"A": "b.C"}}',
                                 b"import os; os.abort()", *(f for f in files.values() if isinstance(f, bytes))))
    return files


# ------------------------------------------------------------------------------------------------------------- deltas
def seal_text(text: bytes) -> bytes:
    """A config's text, which ends in an empty hash, with the hash that belongs to it."""
    return text.removesuffix(b'"\n}\n') + hashlib.sha256(text).hexdigest().encode() + b'"\n}\n'


def config_text(config: Any) -> bytes:
    """A config as text that ends in an empty hash."""
    rest = {k: v for k, v in config.items() if k != "sha256"}
    return json.dumps({**rest, "sha256": ""}, indent=1).encode() + b"\n"


def seal(files: Files, config: Any, *, base: bool = True, listed: bool = True) -> Files:
    """The files with a config whose hashes all fit (its base's and its files' only if asked)."""
    config = copy.deepcopy(config)
    if base and isinstance(config.get("tensors"), list) and isinstance(config.get("base"), dict):
        lines = "".join(f"{r['base']}:{r.get('base_sha256', '')}\n" for r in config["tensors"]
                        if isinstance(r, dict) and r.get("base") is not None)
        config["base"]["sha256"] = hashlib.sha256(lines.encode("utf-8", "replace")).hexdigest()
    if listed and isinstance(config.get("files"), dict):
        for name, entry in config["files"].items():
            content = files.get(name)
            if isinstance(entry, dict) and isinstance(content, bytes):
                entry |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return {**files, CONFIG: seal_text(config_text(config))}


FIELDS = ("name", "codec", "shape", "dtype", "base", "base_shape", "base_dtype", "base_sha256", "output_dimension", "slices",
          "planes", "exponents", "rank", "count", "packed", "ranks", "kind", "block", "losses", "change", "note")


def spoil_record(rng: Random, config: Any) -> Any:
    """A config with fields of one record changed, such that they may still fit."""
    config = copy.deepcopy(config)
    record = rng.choice(config["tensors"])
    for _ in range(rng.choice((1, 1, 2))):
        field = rng.choice(FIELDS)
        other = rng.choice(config["tensors"])
        kind = rng.randrange(5)
        if kind == 0 and field in other:
            record[field] = copy.deepcopy(other[field])
        elif kind == 1:
            record.pop(field, None)
        elif kind == 2 and field == "exponents" and isinstance(record.get("exponents"), list):
            record["exponents"] = [rng.randrange(-126, 114) for _ in record["exponents"]]
        elif kind == 2 and (pieces := [p for p in places(record.get("slices")) if p[1] in ("start", "stop", "axis", "slots")]):
            piece, key = rng.choice(pieces)
            if type(piece[key]) is int:
                piece[key] += rng.choice((-1, 1, 7))
            else:
                piece[key] = rng.choice(("row", "column", "both", "scalar"))
        elif field in record:
            record[field] = other_value(rng, record[field])
        else:
            record[field] = copy.deepcopy(rng.choice((*NUMBERS, *ODD)))
    return config


def reduced(files: Files, codecs: tuple[str, ...]) -> Files:
    """A delta without the tensors that other codecs hold."""
    text = files[CONFIG]
    assert isinstance(text, bytes)
    config = json.loads(text)
    gone = {r["name"] for r in config["tensors"] if r["codec"] not in codecs}
    config["tensors"] = [r for r in config["tensors"] if r["name"] not in gone]
    result = dict(files)
    for name, content in files.items():
        if name.endswith(".safetensors") and isinstance(content, bytes):
            header, data = split_weights(content)
            kept: dict[str, Any] = {"__metadata__": header.pop("__metadata__", {})}
            joined = b""
            for tensor, entry in header.items():
                if tensor.rpartition(".")[0] not in gone:
                    begin, end = entry["data_offsets"]
                    kept[tensor] = {**entry, "data_offsets": [len(joined), len(joined) + end - begin]}
                    joined += data[begin:end]
            result[name] = join_weights(kept, joined)
    return seal(result, config)


def spoil_delta(rng: Random, files: Files, outside: str) -> tuple[Files, bool, str]:
    """(files, whether its own hashes were made right again, the kind of mutation)."""
    text = files[CONFIG]
    assert isinstance(text, bytes)
    config = json.loads(text)
    weights = [n for n in files if n.endswith(".safetensors")]
    kind = rng.choice(("bytes", "folder", "weights", "sealed weights", "sealed weights", "sealed record", "sealed record",
                       "sealed record", "sealed json", "sealed json", "sealed text", "sealed folder", "sealed swap"))
    if kind == "bytes":
        name = rng.choice(list(files))
        content = files[name]
        assert isinstance(content, bytes)
        return {**files, name: spoil_bytes(rng, content)}, False, kind
    if kind == "folder":
        return spoil_folder(rng, files, outside), False, kind
    if kind in ("weights", "sealed weights"):
        name = rng.choice(weights)
        content = files[name]
        assert isinstance(content, bytes)
        changed: Files = {**files, name: spoil_weights(rng, content)}
        return (seal(changed, config), True, kind) if kind.startswith("sealed") else (changed, False, kind)
    if kind == "sealed record":
        return seal(files, spoil_record(rng, config), base=rng.random() < 0.9), True, kind
    if kind == "sealed json":
        spoilt = spoil_json(rng, config)
        return (seal(files, spoilt, base=rng.random() < 0.7, listed=rng.random() < 0.7), True, kind)
    if kind == "sealed text":
        spoilt_text = spoil_text(rng, config_text(config))
        return {**files, CONFIG: seal_text(spoilt_text)}, True, kind
    if kind == "sealed swap":
        record, other = rng.choice(config["tensors"]), rng.choice(config["tensors"])
        record["name"], other["name"] = other["name"], record["name"]
        rng.shuffle(config["tensors"])
        return seal(files, config), True, kind
    spoilt_files = spoil_folder(rng, files, outside)
    name = rng.choice(list(spoilt_files) or ["x"])
    if rng.random() < 0.7:
        config["files"].setdefault(name, {"bytes": 0, "sha256": ""})
        config["files"] = {n: e for n, e in config["files"].items() if n in spoilt_files and n != CONFIG}
    return seal(spoilt_files, config), True, kind


# -------------------------------------------------------------------------------------------------------- checkpoints
def spoil_checkpoint(rng: Random, files: Files, outside: str) -> tuple[Files, bool, str]:
    """(files, False, the kind of mutation): a checkpoint holds no hashes."""
    weights = [n for n in files if n.endswith(".safetensors")]
    small = [n for n in files if n.endswith(".json")]
    kind = rng.choice(("bytes", "folder", "weights", "weights", "weights", "weights", "json", "json", "text"))
    if kind == "folder":
        return spoil_folder(rng, files, outside), False, kind
    name = rng.choice(small if kind in ("json", "text") else weights if kind == "weights" else list(files))
    content = files[name]
    assert isinstance(content, bytes)
    spoil: dict[str, Callable[[], bytes]] = {
        "bytes": lambda: spoil_bytes(rng, content), "weights": lambda: spoil_weights(rng, content),
        "json": lambda: json.dumps(spoil_json(rng, json.loads(content)), indent=1).encode(),
        "text": lambda: spoil_text(rng, content)}
    return {**files, name: spoil[kind]()}, False, kind
