"""The default runner carries out a real request, and is stopped and resumed like any other."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from pytestqt.qtbot import QtBot

from app.jobs.queue import State
from app.jobs.worker import Batch, Outcome
from core.checkpoint import Checkpoint, open_checkpoint
from core.events import AnyEvent, LayerFitted
from core.request import Request, draw_samples
from tests.app.jobs.play import Asked, Tell
from tests.app.jobs.test_manager import Make, wait_for
from tests.conftest import byte_tokenizer
from tests.models import make_pair, write_text


def small(folder: Path, tuned: str = "") -> dict[str, Any]:
    base, fine_tuned = make_pair(folder, "llama", byte_tokenizer(), dtype=torch.bfloat16)
    return {"base": str(base), "fine_tuned": tuned or str(fine_tuned), "output": str(folder / "delta"), "samples": 6,
            "calibration": str(write_text(folder)), "tune_samples": 4, "sequence_length": 16, "device": "cpu"}


def test_a_real_job_is_paused_resumed_and_done(make_jobs: Make, tmp_path: Path, qtbot: QtBot,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.jobs.worker.gc.freeze", lambda: None)
    batch, at_layer, asked = Batch(), threading.Event(), threading.Event()

    def run(request: dict[str, Any], tell: Tell, cancelled: Asked) -> Outcome:
        def listen(event: AnyEvent) -> None:
            tell(event)
            if isinstance(event, LayerFitted) and event.index == 9 and not at_layer.is_set():
                at_layer.set()
                assert asked.wait(20)                  # the stop comes here, however fast the rest is
        return batch.run(request, listen, cancelled)
    jobs = make_jobs(run)
    item = jobs.add("tiny", small(tmp_path))
    qtbot.waitUntil(at_layer.is_set, timeout=60_000)
    jobs.pause(item.id)
    asked.set()
    paused = wait_for(qtbot, jobs, item, State.PAUSED)
    assert paused.job_folder.is_dir() and paused.blocks_done == 1
    state = jobs.run_state(item.id)
    assert state is not None and state.layers_done == 10

    jobs.resume(item.id)
    done = wait_for(qtbot, jobs, item, State.DONE)
    assert done.folder == str(tmp_path / "delta") and (tmp_path / "delta" / "delta_config.json").is_file()
    assert not paused.job_folder.exists() and done.weights_bytes > 0
    assert state.layers_done == state.layers_total == len(state.layers) and {row.state for row in state.layers} == {"done"}
    assert state.curves_of(state.layers[0].tensor) and jobs.last_tune_curve() is not None
    assert all(stage.state == "done" for stage in state.stages.values())


def test_a_bad_request_fails_with_the_engines_words(make_jobs: Make, tmp_path: Path, qtbot: QtBot) -> None:
    jobs = make_jobs(Batch().run)
    item = jobs.add("tiny", small(tmp_path, tuned=str(tmp_path / "missing")))
    failed = wait_for(qtbot, jobs, item, State.FAILED)
    assert failed.error is not None and "missing" in failed.error.what and failed.error.kind == "CheckpointNotFound"


def test_jobs_that_wait_together_share_their_base(make_jobs: Make, tmp_path: Path, qtbot: QtBot,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    drawn: list[str] = []

    def open_base(source: str) -> Checkpoint:
        opened.append(source)
        return open_checkpoint(source)

    def draw(request: Request, *rest: Any) -> Any:
        drawn.append(request.fine_tuned)
        return draw_samples(request, *rest)
    monkeypatch.setattr("core.fleet_sources.open_checkpoint", open_base)
    monkeypatch.setattr("core.fleet_sources.draw_samples", draw)
    monkeypatch.setattr("app.jobs.worker.gc.freeze", lambda: None)
    jobs, asked = make_jobs(None), small(tmp_path)
    both = [jobs.add(name, {**asked, "output": str(tmp_path / name)}) for name in ("one", "two")]
    for item in both:
        wait_for(qtbot, jobs, item, State.DONE)
    assert len(opened) == len(drawn) == 1
    one, two = ({f.name: f.read_bytes() for f in (tmp_path / n).glob("*.safetensors")} for n in ("one", "two"))
    assert one == two and one
    # The queue was empty since: what they shared is let go of, and the next job reads its base anew.
    wait_for(qtbot, jobs, jobs.add("three", {**asked, "output": str(tmp_path / "three")}), State.DONE)
    assert len(opened) == len(drawn) == 2


def test_a_job_that_takes_other_threads_leaves_those_of_the_next_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: Any) -> Any:
        torch.set_num_threads(before + 1)              # as a resumed one does
        raise OSError("gone")
    before = torch.get_num_threads()
    monkeypatch.setattr("app.jobs.worker.gc.freeze", lambda: None)
    monkeypatch.setattr("core.job.Job.run", run)
    with pytest.raises(OSError, match="gone"):
        Batch().run(small(tmp_path), lambda event: None, lambda: False)
    assert torch.get_num_threads() == before
