from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QAbstractButton, QApplication, QComboBox, QMessageBox, QPushButton
from pytestqt.qtbot import QtBot

from app.actions import Act
from app.context import Context
from app.jobs.queue import Failure, QueueItem, State
from app.jobs.runstate import RunState, replace_stage
from app.jobs.worker import Outcome
from app.library.entry import DeltaEntry
from app.models.layers import LayerRow
from app.pages.run import RunPage
from app.pages.run.banner import done_text, failure_of, waiting_text
from app.pages.run.events import took_text
from app.pages.run.facts import clock_text, layer_facts, method_text, newest_with_run, stage_words, whole_percent
from core.errors import Cancelled, NoSpace
from core.events import AnyEvent, LayerFitted, LayerStarted, LossPoint, Progress, StageStarted, TunePoint, Warned, Written
from tests.app.conftest import Said

KINDS = ("q", "k")
LOSSES = {"scalar": 0.3, "row": 0.1, "column": 0.2}
LAYERS = [(f"layer.{i}", i // 2, KINDS[i % 2], (4, 4)) for i in range(4)]


def layer(number: int, *, finish: bool = True) -> list[AnyEvent]:
    tensor, block, kind, _ = LAYERS[number]
    at = 3.0 + number
    told: list[AnyEvent] = [LayerStarted(tensor=tensor, block=block, kind=kind, index=number, total=4, time=at)]
    for axis, loss in LOSSES.items():
        told += [LossPoint(tensor=tensor, slice=0, axis=axis, iteration=i, training=loss / 2, held_out=loss + 0.1 / (i + 1),
                           time=at) for i in range(3)]
    if finish:
        told.append(LayerFitted(tensor=tensor, block=block, kind=kind, codec="sign", axes=("row",), losses=(LOSSES,),
                                recovery=0.9, bytes=1000, seconds=0.5, index=number, total=4, time=at + 0.5))
    return told


FITTING: list[AnyEvent] = [
    StageStarted(stage="plan", total=9), Progress(stage="plan", done=9, total=9, fraction=0.0, time=1.0),
    StageStarted(stage="prepare", total=9, time=1.0), StageStarted(stage="fit", total=2, time=2.0),
    *layer(0), *layer(1), Warned(message="Block 0 k: 3 scales kept at the mean change, too few tokens reached them.", time=4.0),
    *layer(2, finish=False), Progress(stage="fit", done=1, total=2, fraction=0.4, seconds_left=65.0, time=5.0)]
TUNING: list[AnyEvent] = [
    *layer(2)[-1:], *layer(3), StageStarted(stage="tune", total=4, message="kl", time=7.0),
    TunePoint(step=0, total=4, epoch=0, held_out=0.006, time=7.0),
    *(TunePoint(step=i, total=4, epoch=0, training=0.006 / i, time=7.0 + i) for i in (1, 2))]
REST: list[AnyEvent] = [
    *(TunePoint(step=i, total=4, epoch=0, training=0.006 / i, time=7.0 + i) for i in (3, 4)),
    TunePoint(step=4, total=4, epoch=0, held_out=0.0045, time=12.0),
    StageStarted(stage="write", total=5000, time=12.0), Written(bytes=5000, total=5000, time=13.0)]


class Stage:
    """A runner that tells what it is given, when it is given it, and ends when told to."""

    def __init__(self) -> None:
        self.lines: list[AnyEvent] = []
        self.given = threading.Condition()
        self.ends = False
        self.error: Exception | None = None

    def give(self, *events: AnyEvent, end: bool = False, error: Exception | None = None) -> None:
        with self.given:
            self.lines += events
            self.ends, self.error = end, error
            self.given.notify_all()

    def __call__(self, request: dict[str, Any], tell: Callable[[AnyEvent], None], cancelled: Callable[[], bool]) -> Outcome:
        while True:
            with self.given:
                self.given.wait_for(lambda: bool(self.lines or self.ends or self.error), 0.005)
                lines, self.lines = self.lines, []
                ends, error = self.ends, self.error
                self.ends, self.error = False, None
            for event in lines:
                tell(event)
            if error is not None:
                raise error
            if ends:
                Path(request["output"]).mkdir(parents=True)
                return Outcome(request["output"], 5000)
            if cancelled():
                raise Cancelled("Cancelled.")


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def ctx(make_context: Callable[..., Context], stage: Stage) -> Context:
    made = make_context(stage)
    made.engine.started = True                         # the library would load it to read what is done
    return made


@pytest.fixture
def page(ctx: Context, qtbot: QtBot) -> Iterator[RunPage]:
    made = RunPage(ctx)
    qtbot.addWidget(made)
    made.resize(1180, 800)
    made.show()
    qtbot.waitExposed(made)
    yield made
    if (box := made.question()) is not None:
        box.reject()


def add(ctx: Context, name: str = "pirate", **fields: Any) -> QueueItem:
    request = {"base": "base", "fine_tuned": "tuned", "output": str(ctx.data / name), "recipe": "exact", "axis": "auto", **fields}
    return ctx.jobs.add(name, request, expect=LAYERS, base_name="SmolLM2", fine_tuned_name="pirate", estimate=120.0)


def play(page: RunPage, stage: Stage, qtbot: QtBot, events: list[AnyEvent], until: Callable[[RunState], bool]) -> RunState:
    """Tell events and wait until the page's run has taken them over."""
    stage.give(*events)

    def arrived() -> bool:
        state = page.state
        return state is not None and until(state) and (page.isHidden() or page.events.model.rowCount() == state.log_count)
    qtbot.waitUntil(arrived)
    state = page.state
    assert state is not None
    return state


def fitting(page: RunPage, stage: Stage, qtbot: QtBot) -> RunState:
    return play(page, stage, qtbot, FITTING, lambda s: s.fraction == 0.4 and s.current == "layer.2")


def reach(page: RunPage, qtbot: QtBot, wanted: State) -> None:
    qtbot.waitUntil(lambda: page.item is not None and page.item.state == wanted)


def texts(page: RunPage) -> list[str]:
    from PySide6.QtWidgets import QLabel

    return [w.text() for w in page.banner.findChildren(QLabel) if w.text()]


def press(page: RunPage, text: str) -> None:
    QApplication.processEvents()                       # what a layout takes up is shown with the next events
    found = [b for b in page.findChildren(QPushButton) if b.text() == text and b.isVisible()]
    assert len(found) == 1, [b.text() for b in found]
    QTest.mouseClick(found[0], Qt.MouseButton.LeftButton)


# ----------------------------------------------------------------------------------------------------- words
def test_words_of_figures() -> None:
    assert [clock_text(s) for s in (7, 871, 12_005)] == ["0:07", "14:31", "3:20:05"]
    assert [whole_percent(f) for f in (0.0, 0.4899, 0.9999, 1.0)] == ["0 %", "48 %", "99 %", "100 %"]
    assert [took_text(s) for s in (None, 0.029, 6.94, 278.0, 7920.0)] == ["", "0.03 s", "6.9 s", "5 min", "2.2 h"]


@pytest.mark.parametrize(("request_fields", "wanted"), [
    ({"recipe": "exact", "axis": "auto"}, "Per-axis, exact fit"), ({"recipe": "paper"}, "Per-axis, paper fit"),
    ({"recipe": "bitdelta"}, "BitDelta"), ({"recipe": "exact", "axis": "both"}, "Row x column, exact fit"),
])
def test_method_badge(request_fields: dict[str, str], wanted: str) -> None:
    assert method_text(QueueItem(id="a", name="a", request=request_fields)) == wanted


def test_facts_of_a_layer() -> None:
    row = LayerRow("t", 1, "q", losses=(LOSSES,), recovery=0.9, bytes=1000, winner="row")
    assert layer_facts(row) == "Held-out: row 0.100, column 0.200, scalar 0.300 · recovery 0.900 · 1.00 kB"
    assert layer_facts(LayerRow("t", state="now")) == "Losses of every axis follow when it is done"
    assert layer_facts(None) == ""


def test_stages_of_a_job_that_never_ran() -> None:
    item = QueueItem(id="a", name="a", request={"tune_samples": 0})
    said = [stage_words(name, None, item).text for name in ("plan", "fit", "tune", "write")]
    assert said == ["not begun", "then", "left out", "then"]


def test_what_waits_is_not_called_running() -> None:
    state = RunState("a")
    state.expect(LAYERS)
    state.stages["fit"] = replace_stage(state.stages["fit"], state="now", total=2)
    state.state = State.WAITING                        # resumed, and in line behind another
    item = QueueItem(id="a", name="a", request={})
    assert stage_words("fit", state, item).icon == "clock"
    state.state = State.RUNNING
    assert stage_words("fit", state, item).icon == "run"


def test_what_is_said_of_a_done_job() -> None:
    item = QueueItem(id="a", name="pirate", request={}, weights_bytes=13_900_000)
    assert done_text(item, None) == "13.90 MB."
    entry = DeltaEntry(Path("x"), "pirate", bytes=13_900_000, ratio=19.3, kl=0.0041, base_kl=0.339)
    assert done_text(item, entry) == "13.90 MB, 19.3 times smaller. KL 0.0041, base alone 0.339."


def test_a_failure_always_has_a_remedy() -> None:
    assert failure_of(Failure(what="It broke.")).remedy == "Try again. Finished layers are kept."
    assert failure_of(None).what


def test_why_a_job_waits() -> None:
    assert waiting_text(None, False)[1] == "It starts after the jobs before it."
    assert waiting_text(900.0, False)[1] == "It starts in about 15 min, after the jobs before it."
    assert "not start by themselves" in waiting_text(10.0, True)[1]


def test_first_the_running_then_the_last_job() -> None:
    done = QueueItem(id="a", name="a", request={}, state=State.DONE, began=1.0, ended=9.0)
    old = QueueItem(id="b", name="b", request={}, state=State.FAILED, began=1.0, ended=5.0)
    wait = QueueItem(id="c", name="c", request={})
    run = QueueItem(id="d", name="d", request={}, state=State.RUNNING, began=3.0)
    assert [newest_with_run(x) for x in ([wait, old, done], [done, run], [wait], [])] == [done, run, wait, None]


# ---------------------------------------------------------------------------------------------------- states
def test_without_a_job_the_page_says_what_to_do(page: RunPage, ctx: Context, said: Said, qtbot: QtBot) -> None:
    assert page.empty.isVisible() and not page.strip.isVisible()
    press(page, "Choose checkpoints...")
    with qtbot.waitSignal(ctx.actions[Act.DEMO].triggered):
        press(page, "Try the demo trio")
    assert said.pages == ["compress", "compress"]


def test_a_running_job(page: RunPage, ctx: Context, stage: Stage, qtbot: QtBot) -> None:
    add(ctx)
    fitting(page, stage, qtbot)
    assert not page.empty.isVisible() and page.header.name.whole_text() == "pirate"
    assert page.header.base.whole_text() == "SmolLM2" and page.header.method.text() == "Per-axis, exact fit"
    assert [v.accessibleName() for v in page.strip.stages.values()] == [
        "Plan: 4 layers, 2 blocks", "Fit layers: 2 of 4, in block 1", "Tune end to end: 150 samples",
        "Write and measure: 2.00 kB so far"]
    assert page.strip.bar.value() == 400
    assert page.strip.whole.accessibleName() == "of the whole job: 40 %"
    assert page.strip.left.accessibleName() in ("left: 65 s", "left: 64 s")
    assert page.map.map.counts()["row"] == 2 and page.map.map.counts()["todo"] == 2
    assert page.banner.isHidden()
    assert page.header.pause.isEnabled() and page.header.cancel.isEnabled() and page.header.resume.isHidden()


def test_curves_of_the_current_layer_are_followed(page: RunPage, ctx: Context, stage: Stage, qtbot: QtBot,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.pages.run.page.DWELL", 0.0)
    add(ctx)
    fitting(page, stage, qtbot)
    qtbot.waitUntil(lambda: page.tensor == "layer.2")
    assert page.loss.caption.text() == "block 1, q"
    assert page.loss.plot.sentence.startswith("Row leads: held-out loss")
    assert page.loss.plot.now == 2.0
    play(page, stage, qtbot, layer(2)[-1:] + layer(3, finish=False), lambda s: s.current == "layer.3")
    qtbot.waitUntil(lambda: page.tensor == "layer.3")
    assert page.loss.caption.text() == "block 1, k"


def test_choosing_a_layer_shows_it_and_ends_following(page: RunPage, ctx: Context, stage: Stage, qtbot: QtBot) -> None:
    add(ctx)
    state = fitting(page, stage, qtbot)
    rect = page.map.map.rect_of("layer.0")
    QTest.mouseClick(page.map.map, Qt.MouseButton.LeftButton, pos=rect.center())
    assert not page.loss.follow.isChecked() and page.tensor == "layer.0"
    assert page.loss.caption.text() == "block 0, q"
    assert page.loss.plot.sentence == "Row chosen: held-out loss 50 % below column"
    assert page.loss.plot.now is None
    assert "row 0.100, column 0.200, scalar 0.300" in page.loss.facts.accessibleName()
    play(page, stage, qtbot, layer(2)[-1:] + layer(3, finish=False), lambda s: s.current == "layer.3")
    assert page.tensor == "layer.0"
    page.loss.follow.setChecked(True)
    assert page.tensor == state.current == "layer.3"


def test_keys_choose_on_the_map(page: RunPage, ctx: Context, stage: Stage, qtbot: QtBot) -> None:
    add(ctx)
    fitting(page, stage, qtbot)
    page.show_layer(page.map.model.rows()[0])
    QTest.keyClick(page.map.map, Qt.Key.Key_Down)
    QTest.keyClick(page.map.map, Qt.Key.Key_Return)
    assert page.tensor == "layer.1" and not page.loss.follow.isChecked()


def test_tuning_has_a_chart_of_its_own(page: RunPage, ctx: Context, stage: Stage, qtbot: QtBot) -> None:
    add(ctx)
    fitting(page, stage, qtbot)
    assert page.tune.sentence.whole_text().startswith("Starts after block 1")
    assert page.tune.plot.message == "No steps yet"
    play(page, stage, qtbot, TUNING, lambda s: s.curves.tune_columns()[0].iterations[-1:].tolist() == [2])
    qtbot.waitUntil(lambda: page.tune.plot.message == "")
    assert page.tune.sentence.whole_text() == "Held-out 0.0060 at the start, next at the end"
    assert page.strip.stages["tune"].accessibleName() == "Tune end to end: step 2 of 4"
    assert page.strip.stages["fit"].accessibleName().startswith("Fit layers: 4 of 4")


def test_done_and_the_next_run_has_a_ghost(page: RunPage, ctx: Context, stage: Stage, qtbot: QtBot, said: Said) -> None:
    add(ctx, output=str(ctx.library.root / "pirate"))
    stage.give(*FITTING, *TUNING, *REST, end=True)
    reach(page, qtbot, State.DONE)
    assert page.strip.bar.value() == 1000
    assert "pirate is ready" in texts(page) and "5.00 kB." in texts(page)
    assert page.tune.plot.sentence == "Held-out 0.0045, 25 % below the start"
    assert not page.header.pause.isEnabled() and page.header.pause.toolTip() == "Can't be used: the job is done"
    assert not page.header.cancel.isEnabled() and "the job is done" in page.header.cancel.toolTip()
    with qtbot.waitSignal(ctx.library.select_asked) as asked:
        press(page, "Show delta")
    assert asked.args == [ctx.library.root / "pirate"] and said.pages == ["deltas"]
    add(ctx, "second")
    reach(page, qtbot, State.RUNNING)
    assert page.header.name.whole_text() == "second"
    assert page.tune._ghost.accessibleName() == "last run, pirate" and not page.tune._ghost.isHidden()
    assert page.events.model.rowCount() < 5


def test_failed_says_what_why_and_what_to_do(page: RunPage, ctx: Context, stage: Stage, qtbot: QtBot) -> None:
    add(ctx)
    fitting(page, stage, qtbot)
    stage.give(error=NoSpace("There are 3 GB left.", "This job needs 4 GB.", "Free some space."))
    reach(page, qtbot, State.FAILED)
    said = texts(page)
    for wanted in ("The disk is full", "What", "There are 3 GB left.", "Why", "This job needs 4 GB.", "What to do",
                   "Free some space."):
        assert wanted in said
    assert page.loss.isVisible() and page.map.map.counts()["row"] == 2
    assert page.tune.sentence.whole_text() == "The job ended before it was tuned"
    press(page, "Copy details")
    assert "NoSpace" in QGuiApplication.clipboard().text()
    press(page, "Retry")
    reach(page, qtbot, State.RUNNING)
    assert page.banner.isHidden() and page.tune.sentence.whole_text().startswith("Starts after")


def test_pause_and_resume(page: RunPage, ctx: Context, stage: Stage, qtbot: QtBot) -> None:
    add(ctx)
    fitting(page, stage, qtbot)
    press(page, "Pause")
    reach(page, qtbot, State.PAUSED)
    assert "Paused at block 1 of 2" in texts(page)
    assert page.header.pause.isHidden() and page.strip.rate.accessibleName() == "rate: –"
    QTest.mouseClick(page.header.resume, Qt.MouseButton.LeftButton)
    reach(page, qtbot, State.RUNNING)
    assert page.header.resume.isHidden()


@pytest.mark.parametrize("sure", [True, False])
def test_cancel_asks_once(page: RunPage, ctx: Context, stage: Stage, qtbot: QtBot, sure: bool) -> None:
    add(ctx)
    fitting(page, stage, qtbot)
    press(page, "Cancel...")
    box = page.question()
    assert isinstance(box, QMessageBox) and "Finished layers are kept" in box.informativeText()
    page.ask_cancel()
    assert page.question() is box
    named = {b.text(): b for b in box.buttons()}
    assert set(named) == {"Cancel the job", "Keep it running"} and box.defaultButton() is named["Keep it running"]
    named["Cancel the job" if sure else "Keep it running"].click()
    qtbot.waitUntil(lambda: page.question() is None)
    if sure:
        reach(page, qtbot, State.CANCELLED)
        assert any(text.startswith("Cancelled at block 1 of 2") for text in texts(page))
        press(page, "Retry")
    reach(page, qtbot, State.RUNNING)


def test_a_waiting_job_can_be_picked_and_stays(page: RunPage, ctx: Context, stage: Stage, qtbot: QtBot) -> None:
    first = add(ctx)
    fitting(page, stage, qtbot)
    assert page.header.jobs.isHidden()
    second = add(ctx, "second")
    assert page.item is not None and page.item.id == first.id
    assert [page.header.jobs.itemText(i) for i in range(2)] == ["pirate (running)", "second (waiting)"]
    page.header.jobs.setCurrentIndex(1)
    page.header.jobs.activated.emit(1)
    assert page.item.id == second.id and "Waiting" in texts(page)
    assert page.map.map.counts()["todo"] == 4 and page.events.model.rowCount() == 0
    stage.give(Warned(message="Something."))
    qtbot.waitUntil(lambda: (state := ctx.jobs.run_state(first.id)) is not None and state.warnings == 2)
    assert page.item.id == second.id and page.events.model.rowCount() == 0
    page.show_job(first.id)
    assert page.header.name.whole_text() == "pirate" and page.events.model.rowCount() > 4


def test_a_removed_job_leaves_the_page(page: RunPage, ctx: Context, stage: Stage, qtbot: QtBot) -> None:
    item = add(ctx)
    fitting(page, stage, qtbot)
    ctx.jobs.cancel(item.id)
    reach(page, qtbot, State.CANCELLED)
    ctx.jobs.remove(item.id)
    assert page.item is None and page.empty.isVisible() and not page.strip.isVisible()


def test_a_hidden_page_catches_up(page: RunPage, ctx: Context, stage: Stage, qtbot: QtBot) -> None:
    page.hide()
    item = add(ctx)
    stage.give(*FITTING)
    qtbot.waitUntil(lambda: (s := ctx.jobs.run_state(item.id)) is not None and s.fraction == 0.4)
    assert page.item is None
    page.show()
    assert page.item is not None and page.strip.bar.value() == 400 and page.map.map.counts()["row"] == 2


REAL = """{"event":"stagestarted","time":10.672,"stage":"fit","total":30}
{"event":"layerstarted","time":12.484,"tensor":"model.layers.0.self_attn.q_proj.weight","block":0,"kind":"q","index":0,"total":210}
{"event":"layerstarted","time":12.484,"tensor":"model.layers.0.self_attn.k_proj.weight","block":0,"kind":"k","index":0,"total":210}
{"event":"losspoint","time":12.92,"tensor":"%(q)s","slice":0,"axis":"scalar","iteration":0,"training":0.2978,"held_out":0.3046}
{"event":"losspoint","time":12.942,"tensor":"%(q)s","slice":0,"axis":"scalar","iteration":1,"training":0.196,"held_out":0.2123}
{"event":"losspoint","time":12.95,"tensor":"%(q)s","slice":0,"axis":"row","iteration":0,"training":0.2371,"held_out":0.244}
{"event":"losspoint","time":12.96,"tensor":"%(q)s","slice":0,"axis":"row","iteration":1,"training":0.0985,"held_out":0.1093}
{"event":"losspoint","time":13.0,"tensor":"%(q)s","slice":0,"axis":"column","iteration":0,"training":0.3417,"held_out":0.3462}
{"event":"losspoint","time":13.0,"tensor":"%(q)s","slice":0,"axis":"column","iteration":1,"training":0.1381,"held_out":0.1483}
{"event":"losspoint","time":13.0,"tensor":"%(q)s","slice":0,"axis":"column","iteration":2,"training":0.1202,"held_out":0.1255}
{"event":"losspoint","time":13.1,"tensor":"%(q)s","slice":0,"axis":"column","iteration":3,"training":0.1065,"held_out":0.1135}
{"event":"layerfitted","time":13.221,"tensor":"%(q)s","block":0,"kind":"q","codec":"sign","axes":["row"],
"losses":[{"scalar":0.212259296,"row":0.109334264,"column":0.113480309}],"recovery":0.880448258,"bytes":42624,"seconds":0.737,
"index":0,"total":210}
{"event":"progress","time":13.23,"stage":"fit","done":0.14,"total":30,"fraction":0.01,"seconds_left":640.0}"""


def test_events_as_the_engine_told_them(page: RunPage, ctx: Context, stage: Stage, qtbot: QtBot) -> None:
    lines = (REAL % {"q": "model.layers.0.self_attn.q_proj.weight"}).replace(",\n", ",").split("\n")
    add(ctx)
    play(page, stage, qtbot, [msgspec.json.decode(line, type=AnyEvent) for line in lines], lambda s: s.fraction == 0.01)
    row = next(r for r in page.map.model.rows() if r.kind == "q" and r.tensor.startswith("model"))
    page.show_layer(row)
    assert page.loss.plot.sentence == "Row chosen: held-out loss 4 % below column"
    assert [label.text for label in page.loss.plot.labels] == ["R  0.109", "C  0.113", "S  0.212"]
    assert layer_facts(row) == "Held-out: row 0.109, column 0.113, scalar 0.212 · recovery 0.880 · 42.62 kB"
    assert page.strip.left.accessibleName() == "left: 11 min"
    assert page.strip.stages["fit"].accessibleName() == "Fit layers: 1 of 210, in block 0"


# ----------------------------------------------------------------------------------- where it is, what is on screen
def test_a_delta_outside_the_library_shows_its_figures_and_is_added(
        page: RunPage, ctx: Context, stage: Stage, qtbot: QtBot, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    root = ctx.library.root
    found = DeltaEntry(ctx.data / "pirate", "pirate", bytes=13_900_000, ratio=19.3, kl=0.0041, base_kl=0.339, sha256="1")
    monkeypatch.setattr("app.library.reading.read_delta", lambda folder: replace(found, path=folder, name=folder.name))
    monkeypatch.setattr("app.library.operations.copy_delta", lambda task, source, library: library / source.name)
    opened: list[str] = []
    monkeypatch.setattr("app.pages.run.page.QDesktopServices.openUrl", lambda url: opened.append(url.toLocalFile()))
    ctx.engine.is_ready = True
    add(ctx)
    stage.give(*FITTING, *TUNING, *REST, end=True)
    reach(page, qtbot, State.DONE)
    wanted = "13.90 MB, 19.3 times smaller. KL 0.0041, base alone 0.339."
    qtbot.waitUntil(lambda: {wanted, "pirate is ready, outside the library"} <= set(texts(page)))
    press(page, "Open folder")
    assert opened == [str(ctx.data / "pirate")]
    press(page, "Add to library")
    qtbot.waitUntil(lambda: ("pirate is in the library", "success") in said.notes)
    monkeypatch.setattr(ctx.library, "entries", lambda: (replace(found, path=root / "pirate"),))
    ctx.library.changed.emit()
    assert {wanted, "pirate is ready"} <= set(texts(page))
    with qtbot.waitSignal(ctx.library.select_asked) as asked:
        press(page, "Show delta")
    assert asked.args == [root / "pirate"]


def test_the_done_card_is_low(page: RunPage, ctx: Context, stage: Stage, qtbot: QtBot) -> None:
    page.resize(1112, 628)
    add(ctx)
    stage.give(*FITTING, *TUNING, *REST, end=True)
    reach(page, qtbot, State.DONE)
    QApplication.processEvents()
    assert page.banner.height() <= 64


def test_a_paused_job_stays_on_screen_though_the_next_one_runs(page: RunPage, ctx: Context, stage: Stage, qtbot: QtBot,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    first = add(ctx)
    fitting(page, stage, qtbot)
    second = add(ctx, "second")
    press(page, "Pause")
    qtbot.waitUntil(lambda: (current := ctx.jobs.current()) is not None and current.id == second.id)
    stage.give(Progress(stage="fit", done=1, total=2, fraction=0.2, time=1.0))
    qtbot.waitUntil(lambda: (state := ctx.jobs.run_state(second.id)) is not None and state.fraction == 0.2)
    assert page.item is not None and page.item.id == first.id
    assert page.header.resume.isVisible() and page.header.pause.isHidden()
    QTest.mouseClick(page.header.resume, Qt.MouseButton.LeftButton)
    assert page.item.id == first.id and page.item.state == State.WAITING
    page.show_job(second.id)
    ctx.jobs.cancel(second.id)
    monkeypatch.setattr("app.pages.run.page.STAY", 0.0)
    qtbot.waitUntil(lambda: page.item is not None and page.item.id == first.id and page.item.state == State.RUNNING)


def test_curves_stay_until_the_next_layer_has_points(page: RunPage, ctx: Context, stage: Stage, qtbot: QtBot,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.pages.run.page.DWELL", 0.0)
    add(ctx)
    fitting(page, stage, qtbot)
    qtbot.waitUntil(lambda: page.tensor == "layer.2")
    start, *points = layer(3, finish=False)
    play(page, stage, qtbot, [*layer(2)[-1:], start], lambda s: s.current == "layer.3")
    assert page.tensor == "layer.2" and page.loss.plot.message == ""
    play(page, stage, qtbot, points, lambda s: bool(s.curves_of("layer.3")))
    qtbot.waitUntil(lambda: page.tensor == "layer.3")
    assert page.loss.plot.message == ""


def test_a_job_that_fits_nothing_says_what_its_layers_keep(page: RunPage, ctx: Context, stage: Stage, qtbot: QtBot) -> None:
    add(ctx, recipe="bitdelta")
    told = [StageStarted(stage="prepare", total=9), *layer(0)[-1:], StageStarted(stage="tune", total=4, message="mse", time=7.0)]
    play(page, stage, qtbot, told, lambda s: s.layers_done == 4)
    assert page.strip.stages["fit"].accessibleName() == "Fit layers: 3 of 4 at mean change"
    assert page.map.map.counts() == {"row": 1, "scalar": 3}
    page.show_layer(page.map.model.rows()[1])
    assert page.loss.plot.sentence.startswith("Keeps its mean change") and page.loss.plot.message == "No curves"


def test_after_a_restart_what_was_interrupted_comes_first() -> None:
    done = QueueItem(id="a", name="a", request={}, state=State.DONE, began=5.0, ended=9.0)
    old = QueueItem(id="b", name="b", request={}, state=State.PAUSED, began=1.0)
    last = QueueItem(id="c", name="c", request={}, state=State.INTERRUPTED, began=2.0)
    assert newest_with_run([old, last, done]) is last


# ---------------------------------------------------------------------------------------------------- events
def test_events_newest_first_with_a_count_of_warnings(page: RunPage, ctx: Context, stage: Stage, qtbot: QtBot) -> None:
    add(ctx)
    fitting(page, stage, qtbot)
    events = page.events
    lines = [events.shown.index(i, 1).data() for i in range(events.shown.rowCount())]
    assert lines[-1] == "Plan: looking at every tensor's change" and lines.index("Block 0 k: row by 50 %") < lines.index(
        "Block 0 q: row by 50 %")
    buttons = [b for b in events.filter.findChildren(QAbstractButton)]
    assert [b.text() for b in buttons] == ["All", "Warnings 1"]
    usual = events.table.verticalHeader().defaultSectionSize()
    QTest.mouseClick(buttons[1], Qt.MouseButton.LeftButton)
    assert events.shown.rowCount() == 1
    assert events.table.rowHeight(0) > usual
    QTest.mouseClick(buttons[0], Qt.MouseButton.LeftButton)
    assert events.shown.rowCount() == len(lines)
    heights = dict(zip(lines, [events.table.rowHeight(i) for i in range(len(lines))], strict=True))
    assert heights["Fit: 2 blocks"] == heights["Block 0 q: row by 50 %"] == usual
    assert max(heights, key=lambda line: heights[line]).startswith("Block 0 k: 3 scales")


def test_events_are_copied(page: RunPage, ctx: Context, stage: Stage, qtbot: QtBot) -> None:
    assert not page.events.copy_button.isEnabled() and page.events.copy_button.toolTip() == "There is nothing to copy"
    add(ctx)
    fitting(page, stage, qtbot)
    page.events.table.clearSelection()
    QTest.mouseClick(page.events.copy_button, Qt.MouseButton.LeftButton)
    copied = QGuiApplication.clipboard().text().split("\n")
    assert len(copied) == page.events.shown.rowCount() and copied[0].endswith("Plan: looking at every tensor's change")
    page.events.table.selectRow(0)
    page.events.table.setFocus()
    page.events.copy()
    newest = QGuiApplication.clipboard().text()
    assert "\n" not in newest and newest == copied[-1]


# ---------------------------------------------------------------------------------------------------- looks
def test_no_curve_of_another_run_without_its_key(page: RunPage, ctx: Context, stage: Stage, qtbot: QtBot) -> None:
    first = add(ctx, "a-name-that-takes-much-room")
    play(page, stage, qtbot, [*FITTING, *TUNING, *REST], lambda s: s.stage == "write")
    stage.give(end=True)
    qtbot.waitUntil(lambda: getattr(ctx.jobs.item(first.id), "state", None) == State.DONE)
    add(ctx, "next")
    card = page.tune

    def agree() -> bool:
        QApplication.processEvents()
        drawn = card.plot._ghost.last is not None
        assert drawn == card._ghost.isVisible() == card._ghost_key.isVisible()
        assert not drawn or card._ghost.text() == card._ghost.whole_text()
        return drawn
    reach(page, qtbot, State.RUNNING)
    page.resize(1112, 628)
    assert agree()                                     # there is room where nothing else is drawn
    stage.give(*FITTING, *TUNING)
    qtbot.waitUntil(lambda: card._begun)
    seen = set()
    for width in (1112, 1750, 1112):
        page.resize(width, 628)
        seen.add(agree())
    assert seen == {False, True}


def test_figures_under_the_curves_are_whole(page: RunPage, ctx: Context, stage: Stage, qtbot: QtBot) -> None:
    add(ctx)
    fitting(page, stage, qtbot)
    losses = {"row": 0.0614, "column": 0.0658, "both": 0.0612, "scalar": 0.123}
    row = replace(page.map.model.rows()[0], losses=(losses,), recovery=0.938, bytes=2306, shape=(128, 128))
    page.show_layer(row)
    for width in (1750, 1112, 880, 860):
        page.resize(width, 628)
        QApplication.processEvents()
        page.loss.show_layer(page.state, row)
        facts = page.loss.facts
        assert facts.text() == facts.whole_text() and "recovery 0.938" in facts.text() and "2.31 kB" in facts.text()
    assert layer_facts(row).endswith("bits per weight") and "bits" not in layer_facts(row, brief=1)


def test_a_layer_left_out_says_so_once_and_has_no_keys(page: RunPage, ctx: Context, stage: Stage, qtbot: QtBot) -> None:
    add(ctx, budget="20x")
    told = LayerFitted(tensor="layer.0", block=0, kind="q", codec="same", axes=(), losses=(), recovery=0.0, bytes=0, seconds=0.1,
                       index=0, total=4, time=3.0)
    play(page, stage, qtbot, [*FITTING[:4], told], lambda s: s.layers_done == 1)
    page.show_layer(page.map.model.rows()[0])
    card = page.loss
    assert card.sentence.text() == "Left out: its bytes are worth more elsewhere" and card.facts.text() == ""
    assert card.plot.message == "Nothing is stored of it" and not any(mark.isVisible() for mark in (*card._colours, *card._lines))
    play(page, stage, qtbot, layer(1), lambda s: s.layers_done == 2)
    page.show_layer(page.map.model.rows()[1])
    assert all(mark.isVisible() for mark in card._colours)


def test_every_control_has_a_name(page: RunPage, ctx: Context, stage: Stage, qtbot: QtBot) -> None:
    add(ctx)
    add(ctx, "second")
    fitting(page, stage, qtbot)
    page.loss.plot.zoom(1.3)
    nameless = [w for kind in (QAbstractButton, QComboBox) for w in page.findChildren(kind)
                if w.isVisible() and not (w.accessibleName() or getattr(w, "text", str)())]
    assert nameless == []
    for part in (page.strip, page.strip.bar, page.loss, page.loss.plot, page.tune, page.tune.plot, page.map, page.events,
                 page.events.table, page.header.jobs):
        assert part.accessibleName(), part


@pytest.mark.parametrize(("width", "height", "zoom"), [(856, 540, 1.0), (1112, 628, 1.0), (1112, 628, 1.5), (1750, 1040, 1.0)])
def test_nothing_is_wider_than_the_page(page: RunPage, ctx: Context, stage: Stage, qtbot: QtBot, width: int, height: int,
                                        zoom: float) -> None:
    ctx.theme.use("dark", zoom)
    page.resize(width, height)
    add(ctx)
    fitting(page, stage, qtbot)
    QApplication.processEvents()
    for card in (page.strip, page.loss, page.tune, page.map, page.events):
        right = card.mapTo(page, card.rect().topRight()).x()
        assert right <= width - 10, type(card).__name__
    assert page.loss.mapTo(page, page.loss.rect().bottomLeft()).y() < page.map.mapTo(page, page.map.rect().topLeft()).y()
    assert page.loss.plot.height() >= 80 and not page.grab().isNull()


def test_a_banner_takes_its_height_from_the_charts_only(page: RunPage, ctx: Context, stage: Stage, qtbot: QtBot) -> None:
    add(ctx)
    fitting(page, stage, qtbot)
    before = page.map.height() + page.loss.height()
    press(page, "Pause")
    reach(page, qtbot, State.PAUSED)
    QApplication.processEvents()
    assert 40 <= page.banner.height() <= 70
    assert page.map.height() + page.loss.height() < before


def test_pumps_of_another_layer_do_not_redraw_the_chart(page: RunPage, ctx: Context, stage: Stage, qtbot: QtBot,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    add(ctx)
    fitting(page, stage, qtbot)
    page.show_layer(page.map.model.rows()[0])
    drawn: list[object] = []
    monkeypatch.setattr(page.loss.plot, "show_curves", lambda *a, **k: drawn.append(a))
    play(page, stage, qtbot, layer(2)[-1:] + layer(3), lambda s: s.layers_done == 4)
    qtbot.waitUntil(lambda: page.map.map.counts()["row"] == 4)
    assert drawn == []


def test_a_stopped_clock_does_not_run(page: RunPage, ctx: Context, stage: Stage, qtbot: QtBot) -> None:
    add(ctx)
    fitting(page, stage, qtbot)
    press(page, "Pause")
    reach(page, qtbot, State.PAUSED)
    state = page.state
    assert state is not None
    before, until = state.elapsed, time.monotonic() + 0.02
    qtbot.waitUntil(lambda: time.monotonic() > until)
    assert state.elapsed == before
