"""The event table: appended to, bounded, filtered."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QAbstractItemModel, Qt
from pytestqt.qtbot import QtBot

from app.jobs.buffer import EventBuffer
from app.jobs.runstate import RunState
from app.models.events import COLUMNS, ENTRY_ROLE, LEVEL_ROLE, EventFilter, EventModel
from core.events import Warned
from tests.app.jobs.play import fitted

Watch = Callable[[QAbstractItemModel], None]


def say(state: RunState, *texts: str) -> None:
    buffer = EventBuffer(state.curves)
    for text in texts:
        buffer.tell(Warned(message=text))
    state.apply(buffer.drain())


def lines(model: QAbstractItemModel) -> list[str]:
    """Oldest first."""
    return [model.index(row, 1).data() for row in range(model.rowCount())][::-1]


def test_it_appends_what_is_new(qtbot: QtBot, watched: Watch) -> None:
    model, state = EventModel(), RunState("a")
    watched(model)
    say(state, "one", "two")
    model.sync(state)
    resets: list[bool] = []
    model.modelReset.connect(lambda: resets.append(True))
    say(state, "three")
    model.sync(state)
    model.sync(state)
    assert lines(model) == ["one", "two", "three"] and resets == []
    assert model.index(0, 0).data(LEVEL_ROLE) == "warning" and model.index(0, 0).data(ENTRY_ROLE) is state.log[-1]
    assert model.index(2, 1).data(Qt.ItemDataRole.AccessibleTextRole).endswith("Warning: one")
    assert [model.headerData(i, Qt.Orientation.Horizontal) for i in range(3)] == list(COLUMNS)


def test_another_run_begins_anew(qtbot: QtBot, watched: Watch) -> None:
    model, first, second = EventModel(), RunState("a"), RunState("b")
    watched(model)
    say(first, "one")
    say(second, "two")
    model.sync(first)
    model.sync(second)
    assert lines(model) == ["two"]
    model.sync(None)
    assert model.rowCount() == 0


def test_it_is_bounded_in_rows(qtbot: QtBot, watched: Watch) -> None:
    model, state = EventModel(most=20), RunState("a")
    watched(model)
    for number in range(0, 95, 5):
        say(state, *(str(n) for n in range(number, number + 5)))
        model.sync(state)
        assert model.rowCount() <= 20
        assert lines(model)[-1] == str(number + 4)
    found = lines(model)
    assert found == [str(n) for n in range(95 - len(found), 95)]


def test_a_log_that_ran_ahead_is_taken_over_from_its_end(qtbot: QtBot, watched: Watch) -> None:
    model, state = EventModel(most=20), RunState("a")
    watched(model)
    say(state, "first")
    model.sync(state)
    say(state, *(str(n) for n in range(60)))
    model.sync(state)
    assert lines(model) == [str(n) for n in range(40, 60)]


def test_warnings_only(qtbot: QtBot, watched: Watch) -> None:
    model, state = EventModel(), RunState("a")
    proxy = EventFilter(model)
    watched(model)
    watched(proxy)
    say(state, "odd")
    buffer = EventBuffer(state.curves)
    buffer.tell(fitted(0))
    state.apply(buffer.drain())
    model.sync(state)
    assert lines(proxy) == ["odd", "Block 0 q: row by 50 %"] and proxy.index(0, 2).data() == "0.500 s"
    proxy.show_only_warnings(True)
    say(state, "odder")
    model.sync(state)
    assert lines(proxy) == ["odd", "odder"]
    proxy.show_only_warnings(False)
    assert len(lines(proxy)) == 3


def test_copying(qtbot: QtBot) -> None:
    model, state = EventModel(), RunState("a")
    say(state, "one", "two")
    model.sync(state)
    first, second = model.text().split("\n")
    assert first.endswith("Warning: one") and second.endswith("Warning: two")
