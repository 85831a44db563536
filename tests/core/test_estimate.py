"""Predicted memory against tensors that were alive at once in real jobs; bytes, seconds and large shapes by formula."""

from __future__ import annotations

import dataclasses
import weakref
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from core.budget import uniform
from core.estimate import FP32, LOOSE, PROGRAM, Estimate, Sizes, estimate, groups, memory, operations, sizes_of, solving
from core.events import AnyEvent, StageStarted, Warned
from core.job import Job
from core.plan import Plan
from core.request import Request
from core.shortage import memory_warning
from core.stream import SPILL_FROM
from core.tune import OPENED_AT_MOST
from core.weights import Lent
from tests.benchmarks.large_shapes import LLAMA_8B, LLAMA_70B, Shape, make_pair, make_text, plan_of

CPU = torch.device("cpu")
SMALL = Shape("small", 512, 192, 672, 4, 1, 1)
"""The proportions of `LLAMA_8B`."""


class Live(TorchDispatchMode):
    """Counts bytes of storages that operations have made and that are still alive, and their peak since `restart`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.known: dict[int, weakref.ref[Any]] = {}
        self.made: dict[Any, bool] = {}
        """By operation, whether what it returns is new."""

    def restart(self) -> None:
        """Begin a new peak."""
        self.peak = self.now

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func not in self.made:
            self.made[func] = all(r.alias_info is None for r in func._schema.returns)
        if self.made[func]:
            for tensor in out if isinstance(out, tuple | list) else (out,):
                if isinstance(tensor, Tensor) and tensor.device.type == "cpu" and tensor.numel():
                    self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage.data_ptr(), storage.nbytes()

        def gone(_: object) -> None:
            self.now -= size
            self.known.pop(address, None)
        if address not in self.known:
            self.known[address] = weakref.ref(storage, gone)
            self.now += size
            self.peak = max(self.peak, self.now)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    return (*make_pair(folder, SMALL, 1), make_text(folder / "text.txt"))


def run(pair: tuple[Path, Path, Path], output: Path, recipe: str) -> tuple[dict[str, int], Estimate]:
    """Peaks of living tensors by stage of a small job, and what was predicted."""
    request = Request(base=str(pair[0]), fine_tuned=str(pair[1]), output=str(output), calibration=str(pair[2]), recipe=recipe,
                      samples=5, tune_samples=0, sequence_length=64)
    peaks, stage = {}, "plan"
    live = Live()

    def tell(event: AnyEvent) -> None:
        nonlocal stage
        if isinstance(event, StageStarted):
            peaks[stage] = live.peak
            stage = event.stage
            live.restart()
    job = Job(request, tell)
    with live:
        result = job.run()
    assert result.delta.weights_bytes == result.plan.weights_bytes
    return peaks, estimate(result.plan, sizes_of(request, job.length), CPU, SMALL.width, speed=1e11)


@pytest.mark.parametrize(("recipe", "keep"), [("chosen", 0), ("exact", Lent.KEEP)])
def test_what_lives_at_the_peak_of_a_fit(pair: tuple[Path, Path, Path], tmp_path: Path, recipe: str, keep: int,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lent, "KEEP", keep)            # a large block's parameters are let go while it is solved for
    peaks, cost = run(pair, tmp_path / "delta", recipe)
    tensors = {stage: (nbytes - PROGRAM) / (1 + LOOSE) for stage, nbytes in cost.memory.items()}
    assert tensors["fit"] == pytest.approx(peaks["fit"], rel=0.1)
    assert tensors["tune"] > peaks["tune"]       # a bound: what a pass leaves behind depends on the model
    assert cost.memory_bytes == max(cost.memory.values())


def test_matrices_that_read_the_same_input_are_counted_together() -> None:
    block = [r for r in plan_of(LLAMA_8B, 1).records if r.block == 0]
    found = groups(block)
    assert [(g.inputs, g.outputs, g.widest, len(g.records)) for g in found] == [
        (4096, 6144, 4096, 3), (4096, 4096, 4096, 1), (4096, 28672, 14336, 2), (14336, 4096, 4096, 1)]
    whole = [msgspec.structs.replace(r, codec="full") for r in block]
    assert groups(whole) == []
    experts = [msgspec.structs.replace(r, name=f"model.layers.0.mlp.experts.{i}.{r.kind}") for r in block for i in (0, 1)]
    assert len(groups(experts)) == 8
    down = found[-1]
    assert solving(down, "chosen") > solving(down, "exact") > 4 * 14336**2
    assert 5.9 * 14336**2 < solving(down, "chosen") < 9 * 14336**2
    method = dataclasses.replace(down, records=(msgspec.structs.replace(down.records[0], method="planes", planes=3),))
    assert solving(method, "chosen") > solving(down, "exact")


def test_memory_does_not_grow_with_depth_but_for_what_is_learnt() -> None:
    sizes = Sizes(51200, 0, 8192)
    few, many = (plan_of(LLAMA_8B, blocks) for blocks in (2, 8))
    more = memory(many, sizes, CPU, 4096)["fit"] - memory(few, sizes, CPU, 4096)["fit"]
    assert more == pytest.approx(many.weights_bytes - few.weights_bytes, rel=0.01)


def test_hidden_states_are_in_memory_until_they_are_in_a_file() -> None:
    plan = plan_of(LLAMA_8B, 1)
    most = SPILL_FROM // (FP32 * 4096)                 # tokens of one stream
    some, all_of_it, spilled = (memory(plan, Sizes(n, 0, 2048), CPU, 4096)["fit"] for n in (most // 2, most, most + 1024))
    assert all_of_it - some == SPILL_FROM > 0          # half of each of two streams
    assert spilled == all_of_it - 2 * SPILL_FROM
    disk = [estimate(plan, Sizes(n, 0, 2048), CPU, 4096, 1e11).disk_bytes for n in (most, most + 1024)]
    assert disk[1] - disk[0] == 2 * (most + 1024) * FP32 * 4096


def test_large_models_by_formula() -> None:
    sizes = Sizes(51200, 153600, 15360)
    for shape, least, delta in ((LLAMA_8B, 8e9, 0.9e9), (LLAMA_70B, 30e9, 9e9)):
        plan = plan_of(shape, 2)
        cost = estimate(plan, sizes, CPU, shape.width, 1e11)
        assert least < cost.memory_bytes < 2 * least and plan.weights_bytes < delta * 2.2 / shape.depth
        assert cost.block_seconds * 2 < cost.seconds
    moved = plan_of(LLAMA_8B, 1, embeddings_move=True)
    still = plan_of(LLAMA_8B, 1)
    outer = 128256 * 4096 * FP32
    both = [memory(p, sizes, CPU, 4096) for p in (still, moved)]
    assert both[1]["tune"] - both[0]["tune"] > 2 * outer       # two models' own embeddings and heads
    assert both[1]["prepare"] > 2 * outer > both[0]["prepare"]
    assert memory(still, sizes, CPU, 4096, forecast=True)["budget"] > both[0]["fit"]


def test_fitting_costs_what_its_recipe_does() -> None:
    few, many = Sizes(2048, 0, 2048), Sizes(4096, 0, 2048)
    by_recipe = {r: operations(plan_of(LLAMA_8B, 1, r), few, CPU)["fit"] for r in ("chosen", "exact", "paper", "bitdelta")}
    assert by_recipe["chosen"] > 2 * by_recipe["exact"] and by_recipe["paper"] > by_recipe["exact"] and not by_recipe["bitdelta"]
    plan = plan_of(LLAMA_8B, 1)
    double = operations(plan, many, CPU)["fit"] / by_recipe["chosen"]
    assert 1 < double < 2                              # solving does not depend on the number of tokens


def test_tuning_what_has_to_be_unpacked_costs_more() -> None:
    signs, sizes = plan_of(LLAMA_8B, 4), Sizes(2048, 8192, 2048)

    def spent_and_held(plan: Plan) -> tuple[float, int]:
        return operations(plan, sizes, CPU)["tune"], memory(plan, sizes, CPU, 4096)["tune"]
    time, held = spent_and_held(signs)
    for method in ("deltamix-h", "coded"):
        longer, more = spent_and_held(dataclasses.replace(signs, records=uniform(signs.records, method, signs.weights_bytes)))
        assert time < longer < 20 * time and held < more < held + 2 * OPENED_AT_MOST


def test_a_job_that_wants_more_memory_than_is_free_says_so_before_it_begins(
        pair: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory_warning(1, CPU) == ""
    monkeypatch.setattr("core.shortage.free_memory", lambda device: 20_000_000)
    told: list[AnyEvent] = []

    class Enough(Exception):
        """Ends the job once it has begun to work."""

    def tell(event: AnyEvent) -> None:
        told.append(event)
        if isinstance(event, StageStarted) and event.stage == "prepare":
            raise Enough
    request = Request(base=str(pair[0]), fine_tuned=str(pair[1]), output=str(tmp_path / "delta"), calibration=str(pair[2]),
                      samples=5, tune_samples=0, sequence_length=64)
    job = Job(request, tell)
    with pytest.raises(Enough):
        job.run()
    words = [e.message for e in told if isinstance(e, Warned)]
    assert len(words) == 1 and "20 MB are free" in words[0] and "predicted to need 4" in words[0]
    assert not job.warnings                            # it says nothing of the delta
