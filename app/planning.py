"""What a job would do, worked out before it is started: plain data for the page, made on a worker thread.

Reading both checkpoints costs seconds; choosing codecs for measured changes next to nothing. So the measured pair is
kept, and another recipe is planned at once.
"""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.codings import coding_of, coding_word, method_word, quiet
from app.forecasting import Curve, curve_of, known_forecast
from app.words import count, size

if TYPE_CHECKING:
    from app.tables import KindSummary
    from core.forecast import Forecast
    from core.plan import Plan, Survey
    from core.record import TensorRecord
    from core.request import Request

_BY = {"auto": "axis by layer", "row": "by row", "column": "by column", "both": "row x column", "scalar": "one scale"}
_CODECS = {"same": "same as base", "rows": "changed rows", "sparse": "changed entries", "lowrank": "low rank", "full": "whole",
           "left-out": "left out"}


PREDICTING = 0.4
"""What predicting the curve takes, as a share of fitting and tuning; a job counts it so too."""


@dataclass(frozen=True)
class Dot:
    """The change of one tensor. `block` is None outside the blocks."""

    tensor: str
    block: int | None
    change: float


@dataclass(frozen=True)
class KindFacts:
    """All tensors of one kind: changes as shares of the base's norm, `bytes` in the delta."""

    kind: str
    dots: tuple[Dot, ...]
    median: float
    unchanged: float
    stored: str
    bytes: int
    full_bytes: int


@dataclass(frozen=True)
class PlanFacts:
    """A pair that fits, and what its delta will be. Byte counts of the delta are exact; time, memory and disk are estimates."""

    tensors: int
    weights_bytes: int
    sign_bytes: int
    sidecar_bytes: int
    full_bytes: int
    kinds: tuple[KindFacts, ...]
    sidecars: tuple[str, ...]
    expect: tuple[tuple[str, int | None, str, tuple[int, ...], float], ...]
    """Tensors that the job fits: name, block, kind, shape, change."""
    warnings: tuple[str, ...]
    seconds: float
    memory_bytes: int
    memory_total: int
    memory_free: int
    disk_bytes: int
    disk_free: int
    cores: int
    device: str
    sequence_length: int
    is_at_most: bool = False
    """Whether `weights_bytes` is only what the delta will not exceed: a size was asked for, or a fidelity."""
    smallest: int = 0
    """Bytes of weight files with every change left out that a size decides on, and (`largest`) with all of those whole."""
    largest: int = 0
    signs: int = 0
    """Bytes with one bit per weight: what there is without asking for a size."""
    ahead: Curve | None = None
    """The predicted curve, where the pair's was made before."""
    prediction_seconds: float = 0.0
    """About how long predicting it takes; in `seconds` where the job will have to."""

    @property
    def rest_bytes(self) -> int:
        """Scales, factors, exactly stored tensors and file headers."""
        return self.weights_bytes - self.sign_bytes

    @property
    def ratio(self) -> float:
        """How many times smaller than the full checkpoint."""
        return self.full_bytes / max(1, self.weights_bytes)

    @property
    def is_short_of_disk(self) -> bool:
        """Whether the disk has too little room."""
        return self.disk_bytes > self.disk_free

    @property
    def is_short_of_memory(self) -> bool:
        """Whether the job wants more memory than is free now."""
        return self.memory_bytes > self.memory_free


@dataclass
class PlanCache:
    """What of former plans can be used again: the last pair as measured, and how fast the devices are. Any thread may ask."""

    pair: tuple[tuple[str, str], tuple[Any, ...], Survey] | None = None
    """(base, fine-tune), the state of their files, and what was measured."""
    speeds: dict[str, float] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


def plan_facts(request: dict[str, Any], cache: PlanCache, *, offline: bool | None = None,
               progress: Callable[[int, int], None] | None = None) -> PlanFacts:
    """Plan a job. `request` holds fields of `core.request.Request`; `progress` gets (tensors measured, of how many).

    For a worker thread. Raises the `Refused` errors of opening, pairing and options.
    """
    from core.budget import is_item
    from core.budget_stage import shaped
    from core.checkpoint import open_checkpoint
    from core.devices import choose_device
    from core.estimate import estimate, machine_speed, sizes_of
    from core.outer_ways import is_outer
    from core.plan import plan_from, survey
    from core.request import Request, sequence_length
    from core.variant import is_learnt

    asked = Request(**request)
    options = asked.options()
    device = choose_device(asked.device)
    with open_checkpoint(asked.base, offline=offline) as base, open_checkpoint(asked.fine_tuned, offline=offline) as tuned:
        key, state = (asked.base, asked.fine_tuned), (*_state(base.folder), *_state(tuned.folder))
        known = cache.pair
        speed = cache.speeds.get(str(device), 0.0)
        if known is not None and known[:2] == (key, state):
            measured = known[2]
        else:
            measured = survey(base, tuned, progress)
            speed = max(speed, machine_speed(device))       # what slowed the machine at the first look may be over
            with cache.lock:
                cache.pair = (key, state, measured)
        plan = first = plan_from(measured, options)
        smallest, largest = size_range(plan.records)
        length = sequence_length(asked, tuned.config)
        cache.speeds[str(device)] = speed = speed or machine_speed(device)
        sizes = sizes_of(asked, length)
        width = int(tuned.config.get("hidden_size") or tuned.config.get("n_embd") or 1024)
        if asked.is_uniform:
            plan = shaped(plan, asked)
        found = known_forecast(asked, plan, base, tuned, device)
        cost = estimate(plan, sizes, device, width, speed, forecast=asked.is_allocated and found is None)
        predicting = PREDICTING * cost.seconds
        ahead = None if found is None else curve_of(found, first)
        weights, expect = plan.weights_bytes, plan.records
        # Left out or whole, the job tells of it.
        told = {r.name for r in first.records if asked.is_allocated and (is_item(r) or is_outer(r))}
        if asked.is_allocated:
            plan, weights = planned_size(asked, plan, found, smallest)
            expect = plan.records
    total, free = memory()
    return PlanFacts(
        tensors=len(plan.records), weights_bytes=weights, sign_bytes=sign_bytes(plan.records),
        sidecar_bytes=plan.sidecar_bytes, full_bytes=plan.full_bytes, kinds=kind_facts(plan.records),
        sidecars=tuple(sorted(plan.sidecars)), warnings=plan.warnings,
        expect=tuple((r.name, r.block, r.kind, r.shape, r.change) for r in expect if r.name in told or is_learnt(r)),
        seconds=cost.seconds + (predicting if asked.is_allocated and ahead is None else 0.0),
        memory_bytes=cost.memory_bytes, memory_total=total, memory_free=free, disk_bytes=cost.disk_bytes,
        disk_free=disk_free(Path(asked.output).expanduser()), cores=cores(), device=str(device), sequence_length=length,
        is_at_most=asked.is_allocated, smallest=smallest, largest=largest, signs=first.weights_bytes, ahead=ahead,
        prediction_seconds=predicting)


def size_range(records: Sequence[TensorRecord]) -> tuple[int, int]:
    """(bytes of weight files with every change left out that a size decides on, bytes with all of those stored whole)."""
    import msgspec

    from core.artifact import weights_bytes
    from core.budget import is_item
    from core.outer_ways import is_outer, stored, ways_of

    def made(record: TensorRecord, codec: str) -> TensorRecord:
        if is_item(record):
            return msgspec.structs.replace(record, codec=codec, slices=(), planes=1, exponents=())
        return stored(record, ways_of(record)[0 if codec == "same" else -1]) if is_outer(record) else record
    smallest, largest = (weights_bytes([made(r, codec) for r in records]) for codec in ("same", "full"))
    return smallest, largest


def planned_size(asked: Request, plan: Plan, found: Forecast | None, smallest: int) -> tuple[Plan, int]:
    """(the plan, bytes that the delta will not exceed) of a size or a fidelity. Before the pair is predicted, the plan stays as
    it is and its size is what was asked for; a fidelity's is not known then: 0. Raises `BadOption` where it is too small.
    """
    from core.budget import parse_budget
    from core.errors import BadOption
    from core.forecast import parse_quality

    if asked.quality:
        if found is None:
            return plan, 0
        budget = found.budget_for(plan.records, parse_quality(asked.quality))
    else:
        budget = parse_budget(asked.budget, plan.full_bytes)
    if found is not None:
        plan = replace(plan, records=found.allocate(plan.records, budget))
        return plan, plan.weights_bytes
    if budget < smallest:
        raise BadOption(f"{size(budget)} are too little for this pair.", "What is not up to the size alone (norms, exact "
                        f"changes) takes {size(smallest)}.", "Ask for a larger size.")
    return plan, budget


def _state(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of a checkpoint's files: another state, and it has to be measured anew."""
    return tuple((p.name, s.st_size, s.st_mtime_ns) for p in sorted(folder.iterdir()) if p.is_file() and (s := p.stat()))


def memory() -> tuple[int, int]:
    """Bytes of memory in this machine, and how many are free for a job."""
    import psutil

    found = psutil.virtual_memory()
    return int(found.total), int(found.available)


def cores() -> int:
    """Processor cores that this program may use."""
    import psutil

    try:
        return len(psutil.Process().cpu_affinity())
    except (AttributeError, psutil.Error):         # some systems know no affinity
        return psutil.cpu_count() or 1


def disk_free(output: Path) -> int:
    """Bytes free where an output would go; its folders need not exist yet. 0 where nothing can be told."""
    where = output.absolute()
    while not where.exists() and where != where.parent:
        where = where.parent
    try:
        return shutil.disk_usage(where).free
    except OSError:
        return 0


def sign_bytes(records: Sequence[TensorRecord]) -> int:
    """Bytes of packed sign bits."""
    from core.artifact import stored_tensors

    return sum(t.nbytes for r in records if r.codec == "sign" for t in stored_tensors(r) if t.dtype == "U8")


def kind_facts(records: Sequence[TensorRecord]) -> tuple[KindFacts, ...]:
    """One entry per layer kind, in the order in which data meets them; dots by block."""
    from app.tables import by_kind

    members: dict[str, list[TensorRecord]] = {}
    for record in records:
        members.setdefault(record.kind, []).append(record)
    return tuple(_kind(summary, members[summary.kind]) for summary in by_kind(records))


def _kind(summary: KindSummary, records: list[TensorRecord]) -> KindFacts:
    found = sorted((-1 if r.block is None else r.block, r.name, r.change) for r in records)
    dots = tuple(Dot(name, None if block < 0 else block, change) for block, name, change in found)
    return KindFacts(summary.kind, dots, summary.change, summary.unchanged, stored_words(records), summary.bytes,
                     summary.full_bytes)


def stored_words(records: Sequence[TensorRecord]) -> str:
    """How the changes of one kind are stored: `sign, axis by layer`, or `26 sign, 4 low rank` where they differ."""
    from app.tables import record_size

    ways = Counter(_way(r) for r in records if record_size(r) or r.codec == "same")
    if len(ways) <= 1:
        return next(iter(ways), "nothing")
    heads: Counter[str] = Counter()
    for way, n in ways.items():
        heads[way.partition(",")[0]] += n
    if len(heads) == 1:
        return next(iter(heads))
    (first, most), total = heads.most_common(1)[0], sum(heads.values())
    if most >= 0.9 * total:
        return f"{first}, {total - most} otherwise"
    return ", ".join(f"{n} {head}" for head, n in heads.most_common())


def _way(record: TensorRecord) -> str:
    if record.codec != "sign":
        key = coding_of(record.codec, record.method, 1, record.note)
        return _CODECS.get(key) or quiet(method_word(record.method) or coding_word(key))
    head = "sign" if record.planes == 1 else f"{record.planes} signs"
    axes = {s.axis for s in record.slices}
    return f"{head}, {_BY[axes.pop()]}" if len(axes) == 1 else head


def fit_words(facts: PlanFacts, same_tokenizer: bool | None, own_template: bool) -> tuple[str, str]:
    """Title and sentence of a pair that fits."""
    title = "Fits: same architecture, same tokenizer" if same_tokenizer else "Fits: same architecture"
    text = f"{count(facts.tensors, 'tensor')} pair up."
    if same_tokenizer is False:
        text += " The fine-tune's own tokenizer goes into the delta."
    if own_template:
        text += " Its own chat template goes into the delta."
    return title, text
