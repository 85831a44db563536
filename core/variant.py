"""A variant in the making: the plan's records, what was learnt for each so far, and the tensors that follow."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import torch
from torch import Tensor

from core.changes import range_svd
from core.checkpoint import Checkpoint
from core.codecs import CODECS
from core.codecs.scales import exponent_for
from core.codecs.sign import join_scales, scale_count
from core.journal import Entry
from core.record import TensorRecord


def is_learnt(record: TensorRecord) -> bool:
    """Whether a record's content is learnt, not read off the fine-tune's tensor."""
    return record.codec in ("sign", "lowrank") or bool(record.method)


class Variant:
    """Records by name (fitted ones carry their exponents and axes) and the learnt tensors by name and suffix."""

    def __init__(self, base: Checkpoint, tuned: Checkpoint, records: tuple[TensorRecord, ...]) -> None:
        self.base, self.tuned = base, tuned
        self.records = {r.name: r for r in records}
        self.planned = dict(self.records)
        self.learnt: dict[str, dict[str, Tensor]] = {}

    def base_view(self, record: TensorRecord) -> Tensor | None:
        """The mapped base tensor a record starts from."""
        return self.base.view(record.base) if record.base else None

    def base_like(self, name: str) -> Tensor:
        """The base's tensor in the fine-tune's shape: rows that it lacks are the fine-tune's."""
        record = self.records[name]
        base, tuned = self.base_view(record), self.tuned.view(name)
        assert base is not None
        if not record.tail:
            return base[:record.shape[0]] if record.shape else base
        return torch.cat([base.to(tuned.dtype), tuned[base.shape[0]:]])

    def encode(self, record: TensorRecord) -> dict[str, Tensor]:
        """What is stored for a record, with what was learnt."""
        if record.method:
            return self.learnt[record.name]
        return CODECS[record.codec].encode(record, self.base_view(record), self.tuned.view(record.name),
                                           self.learnt.get(record.name))

    def read(self, name: str) -> Tensor:
        """The variant's tensor as it will be used; the base's own while its scales are still to be learnt."""
        record = self.records[name]
        if self.is_open(record):
            base = self.base_view(record)
            assert base is not None
            return base[:record.shape[0]] if not record.tail else self.tuned.view(name)
        if record.codec == "full":
            return self.tuned.view(name)
        return CODECS[record.codec].add(record, self.encode(record), self.base_view(record))

    def is_open(self, record: TensorRecord) -> bool:
        """Whether what a record stores is still to be learnt."""
        return is_learnt(record) and record.name not in self.learnt

    def forget(self, names: Iterable[str]) -> None:
        """Make tensors open again, with the records that were planned: what an attempt that failed has left of them is not to
        be built upon."""
        for name in names:
            if self.learnt.pop(name, None) is not None:
                self.records[name] = msgspec.structs.replace(self.planned[name], base_sha256=self.records[name].base_sha256)

    def learn(self, record: TensorRecord, stored: dict[str, Tensor]) -> TensorRecord:
        """Keep what a method has chosen, complete as it is stored, and its record."""
        self.learnt[record.name] = {k: v.cpu() for k, v in stored.items()}
        self.records[record.name] = record
        return record

    def learn_scales(self, record: TensorRecord, planes: list[Tensor], signs: Tensor | None = None) -> TensorRecord:
        """Keep FP32 scales (slots,) per plane, in FP16; returns (and keeps) the record with their exponents.

        `signs` (planes, rows, bytes) are kept where they are not simply the change's own (and stay once they are kept).
        """
        assert all(p.numel() == scale_count(record) for p in planes)
        record = msgspec.structs.replace(record, exponents=tuple(exponent_for(p) for p in planes))
        learnt = {"scale": join_scales(record, planes).cpu()}
        if signs is None:
            signs = self.learnt.get(record.name, {}).get("signs")
        if signs is not None:
            learnt["signs"] = signs
        self.learnt[record.name] = learnt
        self.records[record.name] = record
        return record

    def learn_factors(self, record: TensorRecord) -> TensorRecord:
        """Factor a low-rank change; returns (and keeps) the record with their exponent."""
        base = self.base_view(record)
        assert base is not None
        u, s, v = range_svd(self.tuned.view(record.name).float() - base.float(), record.rank)
        left, right = u * s.sqrt(), s.sqrt()[:, None] * v
        record = msgspec.structs.replace(record, exponents=(exponent_for(torch.cat([left.flatten(), right.flatten()])),))
        self.learnt[record.name] = {"left": left, "right": right}
        self.records[record.name] = record
        return record

    def restore(self, entry: Entry) -> None:
        """Take over what a journal entry holds."""
        for record in entry.records:
            self.records[record.name] = record
            self.learnt[record.name] = dict(entry.tensors.get(record.name, {}))
