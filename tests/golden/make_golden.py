"""Makes the golden deltas: every codec, axis, orientation and type once, on numbers that no library can change.

`python -m tests.golden.make_golden` writes them anew. Their bytes pin format version 1: when a test finds them
changed, the code is wrong, or the format version must go up (see core/FORMAT.md).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from core.artifact import BaseInfo, DeltaConfig, base_digest, open_delta, write_delta
from core.checkpoint import open_checkpoint
from core.codecs import CODECS, rans
from core.codecs.scales import exponent_for, to_half
from core.codecs.sign import scale_count
from core.codecs.svdmix import packed_size
from core.record import DTYPE_NAMES, DTYPES, Losses, Ranks, Slice, StoredTensor, TensorRecord
from core.safefile import raw_bytes, write_file

HERE = Path(__file__).parent
SHARD = 100
"""Bytes per file of the sharded delta."""


def numbers(shape: tuple[int, ...], seed: int, size: float = 1.0) -> Tensor:
    """FP32 numbers in [-size, size): a congruential sequence, exact in FP64 on every machine."""
    count = int(torch.Size(shape).numel())
    values, state = [], seed * 2654435761 % 2**32
    for _ in range(count):
        state = (state * 1664525 + 1013904223) % 2**32
        values.append(state / 2**31 - 1)
    return (torch.tensor(values, dtype=torch.float64).reshape(shape) * size).float()


@dataclass(frozen=True)
class Case:
    """One tensor: the base's, the fine-tune's, and what its record says beyond that."""

    name: str
    base: Tensor
    tuned: Tensor
    codec: str
    options: Mapping[str, object] = field(default_factory=dict)
    base_name: str = ""


def _sign(name: str, shape: tuple[int, int], base_dtype: str, dtype: str, slices: tuple[Slice, ...], seed: int, *,
          planes: int = 1, output_dimension: int = 0, rows: int = 0) -> Case:
    """`rows` of the base, where it has another number of them."""
    base = numbers((max(rows, shape[0]), shape[1]), seed, 0.05)
    tuned = base[:shape[0]] + numbers(shape, seed + 100, 0.002)
    return Case(name, base[:rows or shape[0]].to(DTYPES[base_dtype]), tuned.to(DTYPES[dtype]), "sign",
                {"slices": slices, "planes": planes, "output_dimension": output_dimension})


def _svdmix(name: str, shape: tuple[int, int], base_dtype: str, dtype: str, ranks: tuple[Ranks, ...], seed: int, *,
            output_dimension: int = 0, spare: int = 0) -> Case:
    base = numbers(shape, seed, 0.05).to(DTYPES[base_dtype])
    size = packed_size((shape[output_dimension], shape[1 - output_dimension]), ranks)
    return Case(name, base, base.to(DTYPES[dtype]), "svdmix",
                {"ranks": ranks, "packed": size + spare, "output_dimension": output_dimension})


def _coded(name: str, shape: tuple[int, int], base_dtype: str, dtype: str, levels: int, count: int, seed: int, *, rank: int = 0,
           output_dimension: int = 0) -> Case:
    base = numbers(shape, seed, 0.05)
    return Case(name, base.to(DTYPES[base_dtype]), base.to(DTYPES[dtype]), "coded",
                {"levels": levels, "count": count, "rank": rank, "output_dimension": output_dimension})


def cases() -> list[Case]:
    """In alphabetical order of names, as a plan has them."""
    bf16, f16 = torch.bfloat16, torch.float16
    rows = numbers((8, 6), 1, 0.05).to(f16)
    grown = torch.cat([rows[:2], rows[2:3] * 2, rows[3:], numbers((3, 6), 2).to(f16)])
    vector = numbers((24,), 3)
    moved = vector.clone()
    moved[[0, 7, 23]] += 0.5
    matrix = numbers((5, 9), 4).to(bf16)
    spots = matrix.clone()
    spots[1, 2], spots[4, 8] = 0.25, -3.0
    low = numbers((26, 30), 5, 0.05)
    result = [
        Case("a.full", numbers((3, 4), 6).to(bf16), numbers((5, 4), 7).to(f16), "full"),
        Case("b.new", torch.empty(0), numbers((2, 3), 8), "full"),
        Case("c.rows", rows, grown, "rows", {"count": 4}),
        Case("d.same", numbers((7,), 9).to(bf16), torch.empty(0), "same"),
        Case("e.same_cast", numbers((4, 3), 10), torch.empty(0), "same", {"dtype": "BF16", "shape": (2, 3)}),
        Case("f.scalar", numbers((1,), 11)[0], torch.empty(0), "same", {"dtype": "F16", "shape": ()}),
        Case("g.sparse", vector, moved, "sparse", {"count": 3}),
        Case("h.sparse", matrix, spots, "sparse", {"count": 2}),
        Case("i.lowrank", low.to(bf16), low.to(bf16), "lowrank", {"rank": 2}),
        Case("j.lowrank", low[:25].clone(), low[:24].clone(), "lowrank", {"rank": 3, "output_dimension": 1}),
        _sign("k.scalar", (9, 21), "BF16", "BF16", (Slice(0, 9, "scalar", 1),), 12),
        _sign("l.row", (7, 545), "BF16", "F16", (Slice(0, 7, "row", 7),), 13),
        _sign("m.row_padded", (6, 13), "F16", "F16", (Slice(0, 6, "row", 13),), 14),
        _sign("n.column", (6, 13), "F32", "F32", (Slice(0, 6, "column", 13),), 15),
        _sign("o.column_padded", (17, 11), "F16", "BF16", (Slice(0, 17, "column", 17),), 16),
        _sign("p.both", (10, 19), "F32", "BF16", (Slice(0, 10, "both", 29),), 17),
        _sign("q.slices", (12, 10), "BF16", "BF16", (Slice(0, 6, "row", 10), Slice(6, 9, "column", 10),
                                                    Slice(9, 12, "both", 13)), 18),
        _sign("r.planes", (8, 33), "F16", "F16", (Slice(0, 8, "both", 41),), 19, planes=2),
        _sign("s.tail", (11, 12), "BF16", "BF16", (Slice(0, 8, "row", 8),), 20, planes=2, rows=8),
        _sign("t.cut", (5, 14), "BF16", "BF16", (Slice(0, 5, "row", 14),), 21, rows=7),
        _sign("u.conv", (10, 18), "F32", "F32", (Slice(0, 18, "row", 18),), 22, output_dimension=1),
        _sign("v.conv_column", (10, 18), "BF16", "BF16", (Slice(0, 18, "column", 18),), 23, output_dimension=1),
        _sign("w.conv_both", (10, 18), "BF16", "F16", (Slice(0, 18, "both", 28),), 24, output_dimension=1, planes=2),
        _sign("x.wide", (2, 1100), "BF16", "BF16", (Slice(0, 2, "column", 1100),), 25),
    ]
    head = result[10]
    every = tuple(Ranks(count, outputs, inputs) for count, outputs, inputs in (
        (1, 16, 8), (1, 8, 16), (1, 6, 5), (2, 5, 6), (1, 4, 3), (1, 3, 4), (2, 2, 2)))
    return [*result,
            Case("z.head", head.base, (head.base.float() + numbers((9, 21), 26, 0.01)).to(bf16), "sign",
                 {"slices": (Slice(0, 9, "both", 30),)}, head.name),
            _svdmix("za.svdmix", (9, 21), "BF16", "BF16", every, 27),
            _svdmix("zb.svdmix_conv", (10, 18), "F16", "F32", (Ranks(3, 3, 2), Ranks(4, 2, 3)), 28, output_dimension=1, spare=3),
            _svdmix("zc.svdmix_empty", (2, 5), "F32", "F16", (), 29, spare=7),
            _coded("zd.coded", (9, 21), "BF16", "BF16", 5, 100, 30),
            _coded("ze.coded_conv", (10, 18), "F16", "F32", 63, 251, 31, rank=2, output_dimension=1),
            _coded("zf.coded_short", (3, 40), "F32", "F16", 1, 16, 32)]


def record_of(case: Case) -> TensorRecord:
    """The record but for exponents."""
    new = case.codec == "full" and case.base.numel() == 0
    like = case.base if case.codec == "same" else case.tuned
    fields: dict[str, object] = {
        "name": case.name, "codec": case.codec, "shape": tuple(like.shape), "dtype": DTYPE_NAMES[like.dtype],
        "base": None if new else case.base_name or case.name}
    if not new:
        fields |= {"base_shape": tuple(case.base.shape), "base_dtype": DTYPE_NAMES[case.base.dtype],
                   "base_sha256": hashlib.sha256(raw_bytes(case.base)).hexdigest()}
    if case.name == "k.scalar":                       # what is for people only, once
        fields |= {"kind": "q", "block": 0, "change": 0.04, "unchanged": 0.125, "note": "für alle",
                   "losses": (Losses(axis={"scalar": 0.25}, guess={"scalar": 0.5}, training=0.25, held_out=None),)}
    return msgspec.convert(fields | dict(case.options), TensorRecord)


def _prepare_coded(record: TensorRecord, seed: int) -> tuple[TensorRecord, dict[str, Tensor]]:
    """Levels of every size and class; a stream that is cut short, where `count` says so."""
    out, n, top = record.outputs, record.inputs, record.levels
    levels = (numbers((out, n), seed).double()**3 * (top + 1)).trunc().to(torch.int8)
    columns = torch.arange(n) * 37 % 256
    counts = torch.zeros(rans.CLASSES, top + 1, dtype=torch.int64)
    for i in range(n):
        counts[columns[i] % 16] += torch.bincount(levels[:, i].abs().long(), minlength=top + 1)
    tables = rans.frequencies_of(counts.numpy())
    stream = torch.from_numpy(rans.encode(levels.numpy(), (columns % 16).numpy(), tables))
    stream = torch.nn.functional.pad(stream, (0, max(0, record.count - len(stream))))[:record.count]
    exponents = (-22, -24)[:1 + (record.rank > 0)]
    fitted = {"columns": columns.to(torch.uint8),
              "tables": torch.from_numpy(tables[..., None] // (1, 256) % 256).to(torch.uint8),
              "scale": numbers((1 + record.rank,), seed + 1).half(), "stream": stream}
    for suffix, shape in (("left", (out, record.rank)), ("right", (record.rank, n))):
        fitted[suffix] = ((numbers(shape, seed + 2 + len(fitted)) + 1) * 128).to(torch.uint8)
    return msgspec.structs.replace(record, exponents=exponents), fitted


def prepare(case: Case, seed: int) -> tuple[TensorRecord, dict[str, Tensor]]:
    """The record and what is stored for it; scales and factors are made up, not fitted."""
    record, fitted = record_of(case), None
    if case.codec == "lowrank":
        m, n = record.shape
        fitted = {"left": numbers((m, record.rank), seed, 0.06), "right": numbers((record.rank, n), seed + 1, 0.06)}
        record = msgspec.structs.replace(record, exponents=(exponent_for(fitted["left"]),))
    if case.codec == "svdmix":
        pairs = sum(r.count for r in record.ranks)
        # About the size of a fine-tune's change, whatever the width.
        spans = [2.0**(r.outputs + r.inputs) for r in record.ranks for _ in range(r.count)]
        scale = numbers((pairs,), seed, 0.01) / torch.tensor(spans)
        record = msgspec.structs.replace(record, exponents=(exponent_for(scale),))
        fitted = {"scale": scale}
        for side, size in (("outputs", record.outputs), ("inputs", record.inputs)):
            widths = [getattr(r, side) for r in record.ranks for _ in range(r.count)]
            tops = torch.tensor(widths)[:, None]
            codes = ((numbers((pairs, size), seed + 1 + len(fitted)).double() + 1) / 2 * 2.0**tops).floor()
            fitted[side] = (2 * codes + 1 - 2.0**tops).float()
    if case.codec == "coded":
        record, fitted = _prepare_coded(record, seed)
    if case.codec == "sign":
        scales = []
        for plane in range(record.planes):
            parts = []
            for piece in record.slices:
                span = 0.03 if piece.axis == "both" else 0.002 / (1 + plane)
                values = numbers((piece.used(record.inputs),), seed + plane, span)
                parts.append(torch.nn.functional.pad(values, (0, piece.slots - len(values))))
            scales.append(torch.cat(parts))
        assert all(len(s) == scale_count(record) for s in scales)
        record = msgspec.structs.replace(record, exponents=tuple(exponent_for(s) for s in scales))
        fitted = {"scale": torch.cat([to_half(s, e) for s, e in zip(scales, record.exponents, strict=True)])}
    base = None if record.base is None else case.base
    return record, CODECS[case.codec].encode(record, base, case.tuned, fitted)


def write_base(target: Path, made: list[Case]) -> None:
    """A checkpoint folder that holds the base tensors."""
    target.mkdir()
    (target / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    tensors = {c.name: c.base for c in made if c.base.numel() and not c.base_name}
    announced = [StoredTensor(n, DTYPE_NAMES[t.dtype], tuple(t.shape)) for n, t in tensors.items()]
    write_file(target / "model.safetensors", announced, {"format": "pt"}, lambda t: tensors[t.name])


def write_golden(target: Path) -> None:
    """base, delta (one file), sharded (several files, a sidecar) and variants.json (a hash per tensor) in `target`."""
    made = cases()
    write_base(target / "base", made)
    prepared = {case.name: prepare(case, 1000 + 10 * i) for i, case in enumerate(made)}
    records = tuple(record for record, _ in prepared.values())
    config = DeltaConfig(tool_version="1", base=BaseInfo("base", "LlamaForCausalLM", base_digest(records)), fine_tuned="tuned",
                         method={"recipe": "exact"}, calibration={}, fidelity={"kl": 0.5}, warnings=("Nothing is fitted.",),
                         files={}, tensors=records)
    write_delta(target / "delta", config, lambda r: prepared[r.name][1], {}, "# Golden delta\n")
    few = tuple(r for r in records if r.name[0] in "acdgks")
    config = msgspec.structs.replace(config, tensors=few, base=BaseInfo("base", "LlamaForCausalLM", base_digest(few)))
    write_delta(target / "sharded", config, lambda r: prepared[r.name][1], {"config.json": target / "base/config.json"},
                "# Golden delta in several files\n", limit=SHARD)
    delta = open_delta(target / "delta")
    with open_checkpoint(target / "base") as base:
        hashes = {name: hashlib.sha256(raw_bytes(delta.variant(base, name))).hexdigest() for name in delta.records}
    (target / "variants.json").write_text(json.dumps(hashes, indent=1) + "\n")


if __name__ == "__main__":
    for part in ("base", "delta", "sharded"):
        shutil.rmtree(HERE / part, ignore_errors=True)
    write_golden(HERE)
