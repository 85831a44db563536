"""How a variant's parameters are rewritten: as jobs for the kernels wherever these can do it, and as calls where not.

What a parameter needs is found out once per variant and kept (addresses of base, signs, scales and parameter, see
core.deck_kernels). A switch then only looks whether the parameter still lies where it did and the files are still what they
were, and hands all jobs to the kernels together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core import deck_kernels as kernels
from core.checkpoint import Checkpoint
from core.codecs.contract import Stored
from core.codecs.sign import plane_scales, split_scales
from core.deck_kernels import Spec, Table, copy_jobs, sum_jobs
from core.deck_variant import Base, DeltaVariant, Source, WholeVariant, fill, in_threads, slot
from core.record import TensorRecord
from core.signs_kernels import handles

_LARGE = 4 << 20
"""Bytes from which a parameter that the kernels here do not take is shared out among threads by whatever fills it."""


Place = tuple[int, torch.dtype, tuple[int, ...], tuple[int, ...]]
"""Where a parameter lies and how: address, type, shape, strides."""


@dataclass(frozen=True)
class Work:
    """The jobs that write one parameter; without any it is to be filled otherwise.

    `reads`: a tensor of each checkpoint file that they read; `keep`: what lies at their addresses.
    """

    jobs: tuple[tuple[Spec, Table], ...] = ()
    reads: Mapping[Path, tuple[Checkpoint, str]] = field(default_factory=dict)
    keep: tuple[Tensor, ...] = ()


class Rewriter:
    """Writes a source's values into parameters; remembers how."""

    def __init__(self) -> None:
        self._works: dict[str, tuple[Source, dict[str, tuple[Place, Work]]]] = {}

    def prepare(self, source: Source, parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Have the jobs for these parameters ready, and the kernels compiled."""
        works = [self._work(source, key, parameter) for key, parameter in parameters]
        kernels.run([(spec, table[:0]) for work in works for spec, table in work.jobs])

    def forget(self, name: str) -> None:
        """Let go of a source's jobs, and of what they hold on to."""
        self._works.pop(name, None)

    def write(self, source: Source, parameters: Sequence[tuple[str, Tensor]]) -> None:
        """Fill parameters that have the source's shapes. Raises what reading files and codecs do; then some are written."""
        lists: dict[Spec, list[Table]] = {}
        reads: dict[Path, tuple[Checkpoint, str]] = {}
        large: list[tuple[str, Tensor]] = []
        small: list[tuple[str, Tensor]] = []
        for key, parameter in parameters:
            work = self._work(source, key, parameter)
            for spec, table in work.jobs:
                lists.setdefault(spec, []).append(table)
            reads |= work.reads
            if not work.jobs and parameter.numel():
                (large if parameter.nbytes >= _LARGE or parameter.device.type != "cpu" else small).append((key, parameter))
        for checkpoint, tensor in reads.values():
            checkpoint.view(tensor)                    # raises where the file is not what it was
        kernels.run([(spec, np.concatenate(tables)) for spec, tables in lists.items()])
        for key, parameter in large:
            fill(source, key, parameter)
        in_threads([partial(fill, source, key, parameter) for key, parameter in small])

    def _work(self, source: Source, key: str, parameter: Tensor) -> Work:
        owner, works = self._works.get(source.name, (None, {}))
        if owner is not source:
            works = {}
            self._works[source.name] = source, works
        at = parameter.data_ptr(), parameter.dtype, tuple(parameter.shape), parameter.stride()
        place, work = works.get(key, (None, Work()))
        if place != at:
            work = _work_of(source, key, parameter)
            works[key] = at, work
        return work


def _work_of(source: Source, key: str, parameter: Tensor) -> Work:
    """The jobs that fill a parameter; none where the kernels can't do all of it."""
    if parameter.device.type != "cpu" or not parameter.is_contiguous():
        return Work()
    found = [_piece(source, piece.tensor, slot(parameter, source.pieces[key], piece)) for piece in source.pieces[key]]
    if not all(work.jobs for work in found):
        return Work()
    reads = {path: read for work in found for path, read in work.reads.items()}
    return Work(tuple(job for work in found for job in work.jobs), reads, tuple(t for work in found for t in work.keep))


def _piece(source: Source, tensor: str, target: Tensor) -> Work:
    """The jobs that write one tensor on disk."""
    if isinstance(source, Base):
        return _copied(source.loaded.checkpoint, tensor, target)
    if isinstance(source, WholeVariant):
        return _copied(source.checkpoint, tensor, target)
    if not isinstance(source, DeltaVariant):
        return Work()
    record, stored = source.records[tensor], source.stored_on(tensor, target.device)
    if record.torch_dtype != target.dtype or record.shape != tuple(target.shape):
        return Work()
    if record.codec == "full":
        weight = stored["weight"].contiguous()
        return Work((copy_jobs(weight, target),), keep=(weight,))
    if record.base is None or record.base_shape != record.shape:
        return Work()
    if record.codec == "same":
        return _copied(source.loaded.checkpoint, record.base, target)
    if record.codec == "sign" and handles(target):
        return _summed(source.loaded.checkpoint, record, stored, target)
    return Work()


def _mapped(checkpoint: Checkpoint, tensor: str, target: Tensor) -> Tensor | None:
    """A tensor where it lies in the mapped file, if it does so and is of the target's type and shape."""
    found, again = checkpoint.view(tensor), checkpoint.view(tensor)
    fits = found.dtype == target.dtype and found.shape == target.shape and found.is_contiguous()
    return found if fits and found.data_ptr() == again.data_ptr() else None      # else it is a copy: not to be kept


def _copied(checkpoint: Checkpoint, tensor: str, target: Tensor) -> Work:
    found = _mapped(checkpoint, tensor, target)
    if found is None:
        return Work()
    return Work((copy_jobs(found, target),), {checkpoint.tensors[tensor].file: (checkpoint, tensor)}, (found,))


def _summed(checkpoint: Checkpoint, record: TensorRecord, stored: Stored, target: Tensor) -> Work:
    """Base plus sign planes, slice by slice."""
    name = str(record.base)
    base = _mapped(checkpoint, name, target)
    if base is None:
        return Work()
    signs = stored["signs"].contiguous()
    keep, jobs = [base, signs], []
    for planes in zip(*(split_scales(record, scales) for scales in plane_scales(record, stored)), strict=True):
        piece = planes[0][0]
        part = slice(0, len(target)) if record.output_dimension else slice(piece.start, piece.stop)
        rows, columns = [row for _, row, _ in planes], [column for _, _, column in planes]
        if record.output_dimension:                    # stored rows are inputs
            rows, columns = columns, rows
        by_row = _stacked(rows)
        if by_row is None:
            by_row = torch.ones(len(planes), part.stop - part.start, dtype=torch.float32)
        by_column = _stacked(columns)
        jobs.append(sum_jobs(base[part], target[part], [plane[part] for plane in signs], by_row, by_column))
        keep += [by_row] if by_column is None else [by_row, by_column]
    return Work(tuple(jobs), {checkpoint.tensors[name].file: (checkpoint, name)}, tuple(keep))


def _stacked(scales: Sequence[Tensor | None]) -> Tensor | None:
    """Scales of all planes (planes, k), which have them all or none."""
    given = [s for s in scales if s is not None]
    return torch.stack(given).contiguous() if given else None
