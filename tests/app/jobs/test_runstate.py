"""What the Run page shows, from a job's events."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest

from app.jobs.buffer import EventBuffer
from app.jobs.queue import Failure, QueueItem, State
from app.jobs.runlog import fit_text
from app.jobs.runstate import Expected, RunState
from app.models.layers import LayerRow
from app.pages.run.facts import stage_words, tune_start_text
from core.events import AnyEvent, LayerFitted, Progress, StageStarted, TunePoint, Warned
from tests.app.jobs.play import fitted, point, started, whole_job


def told(events: Iterable[AnyEvent], state: RunState | None = None) -> RunState:
    state = state or RunState("id", "pirate")
    buffer = EventBuffer(state.curves)
    if not state.is_running:
        state.begin()
    for event in events:
        buffer.tell(event)
        state.start_pump()
        state.apply(buffer.drain())
    return state


def texts(state: RunState, level: str) -> list[str]:
    return [entry.text for entry in state.log if entry.level == level]


def test_a_whole_job() -> None:
    state = told(whole_job("/tmp/pirate"))
    state.end(State.DONE, folder="/tmp/pirate")
    assert [s.state for s in state.stages.values()] == ["done"] * 5
    assert [s.seconds for s in state.stages.values()] == [1.0, 1.0, 8.0, 4.0, 1.0]
    assert (state.blocks_done, state.blocks, state.layers_done, state.layers_total) == (2, 2, 4, 4)
    assert (state.bytes_fitted, state.bytes_written, state.bytes_total, state.fraction) == (4000, 5000, 5000, 1.0)
    assert state.winners() == {"row": 4} and state.current is None and state.folder == "/tmp/pirate"
    assert texts(state, "done") == ["Block 0 q: row by 50 %", "Block 0 k: row by 50 %", "Block 1 q: row by 50 %",
                                    "Block 1 k: row by 50 %", "Fit done: row 4", "Done: 5.00 kB in 15.0 s"]
    assert texts(state, "step") == ["Block 0 done, journalled", "Block 1 done, journalled", "Tuning starts at KL 0.004",
                                    "Tuning done: held-out KL 0.003, 25 % below the start"]
    curve = state.tune_curve()
    assert curve.objective == "kl" and curve.total == 3 and list(curve.held_out.iterations) == [0, 3]
    assert {view.axis for view in state.curves_of("layer.1")} == {"row", "column"}


def test_layers_go_from_to_do_to_now_to_done() -> None:
    state = RunState("id")
    state.expect([("layer.0", 0, "q", (4, 4)), ("layer.1", 0, "k", (4, 4))])
    assert [row.state for row in state.layers] == ["todo", "todo"] and state.layers_total == 2
    told([started(0), started(1)], state)
    assert [row.state for row in state.layers] == ["now", "now"] and state.current == "layer.0"
    told([point(1, 0)], state)
    assert state.current == "layer.1" and state.changed_curves == {"layer.1"}
    told([fitted(1)], state)
    assert [row.state for row in state.layers] == ["now", "done"] and state.changed_layers == {1}
    row = state.row("layer.1")
    assert row is not None and row.margin == pytest.approx(0.5) and row.winner == "row" and row.held_out == pytest.approx(0.1)
    state.end(State.PAUSED)
    assert [row.state for row in state.layers] == ["todo", "done"] and state.current is None
    assert not state.is_running and state.seconds_left is None


def test_rate_over_the_last_stretch() -> None:
    state = told([StageStarted(stage="fit", total=2), started(0, at=10.0)])
    assert state.rate is None and state.rate_unit == "layers/min"
    told([fitted(i, 200, at=10.0 + 2 * (i + 1)) for i in range(100)], state)
    assert state.rate == pytest.approx(30.0)
    told([StageStarted(stage="tune", total=10, time=300.0), *(TunePoint(step=i, total=10, epoch=0, training=1.0, time=300.0 + i)
                                                              for i in range(4))], state)
    assert state.rate == pytest.approx(60.0) and state.rate_unit == "steps/min"


def test_progress_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("app.jobs.runstate.time.monotonic", lambda: now)
    state = told([StageStarted(stage="fit", total=4), Progress(stage="fit", done=1.5, total=4, fraction=0.25, seconds_left=60.0)])
    now = 110.0
    assert state.seconds_left == 50.0 and state.elapsed == 10.0
    assert state.fraction == 0.25 and state.blocks_done == 1 and state.stages["fit"].done == 1.5
    state.end(State.PAUSED)
    now = 500.0
    assert state.elapsed == 10.0 and state.stages["fit"].state == "now"
    state.begin()
    now = 505.0
    assert state.elapsed == 15.0 and state.stages["fit"].state == "todo"


def test_a_resumed_job_takes_layers_over_without_counting_them_twice() -> None:
    def restored(number: int) -> LayerFitted:
        return msgspec.structs.replace(fitted(number), seconds=0.0, restored=True)
    state = told([StageStarted(stage="fit", total=2), started(0), fitted(0), started(1), fitted(1), started(2)])
    state.end(State.INTERRUPTED)
    before = len(state.log)
    told([StageStarted(stage="fit", total=2), restored(0), restored(1), started(2), fitted(2)], state)
    assert state.layers_done == 3 and state.bytes_fitted == 3000
    assert state.layers[0].seconds == 0.5
    new = [entry.text for entry in list(state.log)[before:]]
    assert new == ["Resumed: finished layers are taken up again", "Fit: 2 blocks", "2 layers taken over from before",
                   "Block 1 q: row by 50 %"]


def test_a_layer_that_is_fitted_again_counts_once() -> None:
    state = told([started(0), fitted(0), started(0), fitted(0, losses={"row": 0.2, "column": 0.1}), fitted(0)])
    assert state.layers_done == 1 and state.bytes_fitted == 1000 and len(state.layers) == 1


def test_warnings_are_counted_and_a_failure_is_the_last_line() -> None:
    state = told([Warned(message="Short text."), Warned(message="Odd weights.")])
    state.end(State.FAILED, Failure(what="The disk is full."))
    assert state.warnings == 2 and texts(state, "warning") == ["Short text.", "Odd weights."]
    assert state.log[-1].level == "error" and state.log[-1].text == "The disk is full."


def test_stages_that_a_job_leaves_out_are_done() -> None:
    state = told([StageStarted(stage="plan", total=1), StageStarted(stage="fit", total=2, time=2.0)])
    assert [s.state for s in state.stages.values()] == ["done", "done", "now", "todo", "todo"]


def test_no_tuning_says_nothing_of_it() -> None:
    state = told([StageStarted(stage="tune", total=0, message="kl"), TunePoint(step=0, total=0, epoch=0, held_out=0.1),
                  TunePoint(step=0, total=0, epoch=0, held_out=0.1)])
    assert texts(state, "step") == []


def test_tuning_that_did_not_help() -> None:
    state = told([StageStarted(stage="tune", total=2, message="kl"), TunePoint(step=0, total=2, epoch=0, held_out=0.1),
                  TunePoint(step=2, total=2, epoch=0, held_out=0.2)])
    assert texts(state, "step")[-1] == "Tuning done: held-out KL 0.2, not below the start"


def test_layers_that_nobody_fits_are_done_with_the_fit() -> None:
    state = RunState("id", "pirate")
    state.expect([(f"layer.{i}", 0, "q", (4, 12)) for i in range(3)])
    tune = StageStarted(stage="tune", total=2, message="mse", time=2.0)
    told([StageStarted(stage="prepare", total=3), fitted(0, 3), tune], state)
    assert state.winners() == {"row": 1, "scalar": 2} and state.layers_done == 3
    assert [row.bytes for row in state.layers[1:]] == [4 * 2 + 2] * 2 and state.bytes_fitted == 1000 + 20
    assert texts(state, "done")[-1] == "2 layers keep their mean change"


def test_a_summary_counts_layers_in_blocks() -> None:
    rows = [LayerRow("a", 0, "q", winner="row"), LayerRow("b", 0, "k", winner="both"), LayerRow("c", None, "head", winner="row")]
    assert fit_text(rows) == "Fit done: row 1, row x column 1"


def test_a_job_of_a_size_tells_of_every_codec() -> None:
    state = RunState("id", "mix")
    state.expect(Expected(f"l.{k}", 0, k, (64, 128), 0.01) for k in "qkvou")
    ways = [("q", "svdmix", "deltamix", 512), ("k", "same", "", 0), ("v", "full", "", 16384), ("o", "sign", "planes", 3200),
            ("u", "wavelet", "haar", 100)]
    told([StageStarted(stage="fit", total=1),
          *(LayerFitted(tensor=f"l.{k}", block=0, kind=k, codec=codec, axes=("row",) if codec == "sign" else (), losses=({},),
                        recovery=None if codec in ("same", "full") else 0.9, bytes=size, seconds=0.1, index=i, total=5,
                        method=method)
            for i, (k, codec, method, size) in enumerate(ways)),
          StageStarted(stage="tune", total=0)], state)
    rows = {row.kind: row for row in state.layers}
    assert [rows[k].coding for k in "qkvou"] == ["svdmix", "left-out", "full", "planes", "wavelet"]
    assert [rows[k].bits for k in "qkvo"] == [0.5, 0.0, 16.0, 3.125] and rows["o"].planes == 3 and rows["q"].planes == 1
    assert rows["k"].note.startswith("Left out") and rows["k"].winner == "left-out" and not rows["q"].note
    said = texts(state, "done")
    assert said[0] == "Block 0 q: DeltaMix" and said[1] == "Block 0 k: left out"
    assert "Fit done: DeltaMix 1, left out 1, in full 1, row 1, wavelet 1" in said


def test_a_predicted_curve_counts_in_percent_and_then_tensors() -> None:
    item = QueueItem(id="a", name="a", request={})
    first: list[AnyEvent] = [StageStarted(stage="prepare", total=38), Progress(stage="prepare", done=0.71, total=1, fraction=0.1)]
    state = told(first)
    assert stage_words("plan", state, item).text == "predicting, 71 %"
    told([Progress(stage="prepare", done=5, total=38, fraction=0.2)], state)
    assert stage_words("plan", state, item).text == "5 of 38 tensors"


def test_a_job_that_was_killed_before_it_could_be_noted_has_no_made_up_numbers() -> None:
    item = QueueItem(id="a", name="a", request={}, state=State.INTERRUPTED)
    state = told([StageStarted(stage="plan", total=38)])
    state.catch_up([0])
    state.state = State.INTERRUPTED
    assert [stage_words(name, state, item).text for name in ("plan", "fit")] == ["done", "1 block kept"]
    assert tune_start_text(state, item) == "Starts after the last block"
