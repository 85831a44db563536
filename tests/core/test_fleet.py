"""Batches: the bytes of single jobs, things read once, failures that stop no other, stops and lost processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import torch
from filelock import FileLock

from core import fleet, fleet_sources
from core.calibration import SampleParts
from core.checkpoint import Checkpoint, open_checkpoint
from core.errors import BadOption, CheckpointNotFound
from core.events import AnyEvent, LayerFitted
from core.fleet import Member, Outcome, Surroundings, carry_out, members_of, run_fleet
from core.fleet_local import Slot, local_engine, plan_slots
from core.fleet_sources import Shared
from core.job import Job
from core.request import Request, draw_samples
from tests.conftest import byte_tokenizer
from tests.models import (
    make_model,
    one_thread,  # noqa: F401 (takes effect by being here)
    perturb,
    save_beside,
    save_model,
    tensors_of,
    write_text,
)

ONE = [Slot("cpu", 1)]


class Family:
    """A base, two fine-tunes of it, and the bytes that single jobs make of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = save_model(folder / "base", make_model("llama-tied"), byte_tokenizer())
        tensors = tensors_of(self.base)
        self.tunes = [save_beside(folder / name, self.base, perturb(tensors, 0.03, seed=seed))
                      for seed, name in enumerate(("owl", "elk"))]
        self.options: dict[str, Any] = {"calibration": str(write_text(folder)), "samples": 4, "tune_samples": 2,
                                        "sequence_length": 24, "device": "cpu"}
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        self.single = {m.name: contents(Job(m.request, lambda event: None).run().folder) for m in self.members(folder / "single")}
        torch.set_num_threads(threads)

    def members(self, folder: Path, *more: Path, **options: Any) -> tuple[Member, ...]:
        return members_of(str(self.base), [str(t) for t in (*self.tunes, *more)], folder, {**self.options, **options}, 1)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return Family(tmp_path_factory.mktemp("family"))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def states(outcomes: list[Outcome]) -> dict[str, str]:
    return {o.name: o.state for o in outcomes}


def test_a_batch_writes_what_single_jobs_write_and_reads_what_they_share_once(
        family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[tuple[str, str]] = []
    drawn: list[str] = []
    data, draw = Checkpoint._data, draw_samples

    @contextmanager
    def counted(checkpoint: Checkpoint, name: str) -> Iterator[Any]:
        hashed.append((checkpoint.folder.name, name))
        with data(checkpoint, name) as file:
            yield file

    def counted_draw(request: Any, *others: Any) -> Any:
        drawn.append(request.fine_tuned)
        return draw(request, *others)
    monkeypatch.setattr(Checkpoint, "_data", counted)
    monkeypatch.setattr(fleet_sources, "draw_samples", counted_draw)
    told: list[str] = []
    events: list[tuple[str, AnyEvent]] = []
    outcomes = run_fleet(family.members(tmp_path), local_engine(ONE), lambda name, event: events.append((name, event)),
                         told=lambda outcome: told.append(outcome.name))
    assert states(outcomes) == {"owl": "done", "elk": "done"}
    assert told == ["owl", "elk"]
    assert {m: contents(tmp_path / m) for m in family.single} == family.single
    of_base = [name for folder, name in hashed if folder == "base"]
    assert of_base
    assert len(of_base) == len(set(of_base)), "a base tensor was hashed twice"
    assert len(drawn) == 1
    assert {name for name, event in events if isinstance(event, LayerFitted)} == {"owl", "elk"}
    for outcome in outcomes:
        assert outcome.recovery is not None and outcome.recovery > 0.5
        assert outcome.full_bytes > outcome.weights_bytes > 0
        assert not (tmp_path / f"{outcome.name}.job").exists()


def test_run_again_skips_what_is_done_and_refuses_what_is_something_else(family: Family, tmp_path: Path) -> None:
    members = family.members(tmp_path)
    run_fleet(members[:1], local_engine(ONE))
    before = (tmp_path / "owl" / "delta_config.json").stat().st_mtime_ns
    began: list[str] = []
    again = run_fleet(members, local_engine(ONE), lambda name, event: began.append(name))
    assert states(again) == {"owl": "kept", "elk": "done"}
    assert set(began) == {"elk"}
    assert (tmp_path / "owl" / "delta_config.json").stat().st_mtime_ns == before
    assert again[0].weights_bytes == again[1].weights_bytes > 0
    other = run_fleet(family.members(tmp_path, axis="both"), local_engine(ONE))
    assert [o.problem.kind for o in other if o.problem] == ["OutputExists", "OutputExists"]
    assert {m: contents(tmp_path / m) for m in family.single} == family.single


def test_one_that_fails_is_told_and_stops_no_other(family: Family, tmp_path: Path) -> None:
    broken = shutil.copytree(family.tunes[0], tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    tensors = tensors_of(family.tunes[0])
    name = next(n for n in tensors if n.endswith("q_proj.weight"))
    tensors[name][0, 0] = float("nan")
    lost = save_beside(tmp_path / "lost", family.base, tensors)
    members = family.members(tmp_path / "out", broken, lost)
    outcomes = run_fleet((*members[2:], *members[:2]), local_engine(ONE))
    assert states(outcomes) == {"broken": "failed", "lost": "failed", "owl": "done", "elk": "done"}
    assert [o.problem.kind for o in outcomes if o.problem] == ["BadSafetensors", "NotFinite"]
    assert all(o.problem.what and o.problem.remedy for o in outcomes if o.problem)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"owl", "elk", fleet.NOTES}


def test_a_base_that_cannot_be_used_is_refused_before_anything_is_written(family: Family, tmp_path: Path) -> None:
    members = members_of(str(tmp_path / "none"), [str(family.tunes[0])], tmp_path / "out", family.options, 1)
    with pytest.raises(CheckpointNotFound):
        run_fleet(members, local_engine(ONE))
    assert not (tmp_path / "out").exists()


def test_a_stop_keeps_what_is_done_and_the_next_run_goes_on(family: Family, tmp_path: Path) -> None:
    seen: list[AnyEvent] = []

    def cancelled() -> bool:
        return sum(isinstance(e, LayerFitted) for e in seen) > 8
    members = family.members(tmp_path)
    stopped = run_fleet(members, local_engine(ONE), lambda name, event: seen.append(event), cancelled)
    assert states(stopped) == {"owl": "stopped", "elk": "waiting"}
    assert (tmp_path / "owl.job" / "job.json").is_file()
    restored: list[str] = []
    outcomes = run_fleet(members, local_engine(ONE), lambda name, event: restored.append(name) if isinstance(
        event, LayerFitted) and event.restored else None)
    assert states(outcomes) == {"owl": "done", "elk": "done"}
    assert set(restored) == {"owl"}
    assert {m: contents(tmp_path / m) for m in family.single} == family.single


def test_a_job_whose_process_was_killed_goes_on_in_another(family: Family, tmp_path: Path) -> None:
    killed: list[int] = []
    restored: list[str] = []

    def tell(name: str, event: AnyEvent) -> None:
        if isinstance(event, LayerFitted) and event.restored:
            restored.append(event.tensor)
        if isinstance(event, LayerFitted) and event.index > 8 and not killed:
            killed.extend(p.pid for p in psutil.Process().children() if "--multiprocessing-fork" in p.cmdline())
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
    outcomes = run_fleet(family.members(tmp_path)[:1], local_engine([Slot("cpu", 1), Slot("cpu", 1)]), tell)
    assert len(killed) == 1
    assert states(outcomes) == {"owl": "done"}
    assert restored
    assert contents(tmp_path / "owl") == family.single["owl"]


def test_an_attempt_waits_for_the_lock_of_one_that_is_ending(family: Family, tmp_path: Path) -> None:
    member = family.members(tmp_path)[0]
    (tmp_path / "owl.job").mkdir()
    held = FileLock(tmp_path / "owl.job" / "lock")
    held.acquire()
    asked: list[None] = []

    def cancelled() -> bool:                           # asked at each look at the lock, then at each event
        asked.append(None)
        if len(asked) == 1:
            held.release()
        return False
    outcome = carry_out(member, lambda event: None, cancelled, Surroundings(lock_seconds=60))
    assert outcome.state == "done"
    (tmp_path / "elk.job").mkdir()
    with FileLock(tmp_path / "elk.job" / "lock"):
        second = family.members(tmp_path)[1]
        problem = carry_out(second, lambda event: None, lambda: False, Surroundings(lock_seconds=0.01)).problem
    assert problem is not None and problem.kind == "JobMismatch"
    again = carry_out(member, lambda event: None, lambda: False)      # as after a node that was lost once it had written
    assert (again.state, again.weights_bytes) == ("kept", outcome.weights_bytes)


def test_shared_sources_open_a_changed_base_anew_and_tell_tokenisers_apart(family: Family, tmp_path: Path) -> None:
    base = shutil.copytree(family.base, tmp_path / "base")
    other = shutil.copytree(family.tunes[0], tmp_path / "other")
    settings = other / "tokenizer_config.json"
    settings.write_text(settings.read_text().replace("{", '{"words": 1,', 1))
    request = msgspec.structs.replace(family.members(tmp_path)[0].request, base=str(base))
    with Shared() as shared:
        with shared.base(str(base)) as first, shared.base(str(base)) as second:
            assert first is second
        drawn = []
        for tuned in (*family.tunes, other):
            with open_checkpoint(tuned) as opened:
                drawn.append(shared.samples(request, first, opened, 24, 260))
        assert drawn[0] is drawn[1]
        assert drawn[0] is not drawn[2]
        assert all(torch.equal(drawn[0].parts[k], drawn[2].parts[k]) for k in drawn[0].parts)
        weights = base / "model.safetensors"
        weights.write_bytes(weights.read_bytes())
        with shared.base(str(base)) as third:
            assert third is not first
            assert third.sha256(next(iter(third.tensors)))


def test_a_base_that_was_away_is_opened_anew(family: Family, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    base = shutil.copytree(family.base, outer / "base")
    with Shared() as shared:
        with shared.base(str(base)) as first:
            pass
        outer.rename(tmp_path / "away")
        with pytest.raises(CheckpointNotFound), shared.base(str(base)):
            pass
        (tmp_path / "away").rename(outer)
        with shared.base(str(base)) as again:
            assert again is not first and again.sha256(next(iter(again.tensors)))
        with pytest.raises(ValueError, match="closed"):
            first.check()


def test_tokens_are_drawn_anew_from_other_text_or_by_another_tokeniser(family: Family, tmp_path: Path) -> None:
    base = shutil.copytree(family.base, tmp_path / "base")
    tuned = shutil.copytree(family.tunes[0], tmp_path / "tuned")
    for file in tuned.glob("tokenizer*"):              # it has none of its own
        file.unlink()
    text = tmp_path / "text.txt"
    text.write_text("One line of text, and one more. " * 400)
    request = Request(base="", fine_tuned="", output="", calibration=str(text), samples=4, tune_samples=2)
    with Shared() as shared, open_checkpoint(tuned) as opened:
        def drawn() -> SampleParts:
            with shared.base(str(base)) as first:
                return shared.samples(request, first, opened, 24, 260)
        before = drawn()
        assert drawn() is before
        text.write_text("Quite another text, of other words. " * 400)
        edited = drawn()
        assert not torch.equal(edited.parts["fit"], before.parts["fit"])
        settings = base / "tokenizer_config.json"
        settings.write_text(json.dumps({**json.loads(settings.read_text()), "model_max_length": 77}))
        assert drawn() is not edited


@pytest.mark.parametrize(("tunes", "names"), [(["/a/x", "/b/y"], ["x", "y"]), (["/a/x", "/b/x"], ["a-x", "b-x"]),
                                              (["org/m@main", "other/m"], ["org-m", "other-m"]),
                                              (["/a/x.job", "/a/y"], ["x", "y"])])
def test_deltas_are_named_after_their_fine_tunes(tunes: list[str], names: list[str]) -> None:
    members = members_of("base", tunes, Path("/out"), {}, 1)
    assert [m.name for m in members] == names
    assert [m.request.output for m in members] == [f"/out/{n}" for n in names]


def test_options_and_names_that_can_not_be_used() -> None:
    for tunes, options in ((["a", "a"], {}), (["x/a", "x//a"], {}), (["a"], {"samples": 1})):
        with pytest.raises(BadOption):
            members_of("base", tunes, Path("/out"), options, 1)


def test_slots() -> None:
    assert plan_slots("cpu", None, 8) == [Slot("cpu", 8)]
    assert plan_slots("cpu", 3, 8) == [Slot("cpu", 2)] * 3
    assert plan_slots("cuda:1", None, 8, ["0", "1"]) == [Slot("cuda:1", 8)]
    assert plan_slots("cuda", None, 8, ["4", "6"]) == [Slot("cuda", 4, {"CUDA_VISIBLE_DEVICES": g}) for g in ("4", "6")]
    assert [s.environment["CUDA_VISIBLE_DEVICES"] for s in plan_slots("cuda", 3, 6, ["0", "1"])] == ["0", "1", "0"]
    with pytest.raises(BadOption):
        plan_slots("cpu", 0, 8)
