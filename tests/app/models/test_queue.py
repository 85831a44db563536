"""The queue as a list: follows the manager without resets, reorders by dragging."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import QAbstractItemModel, QModelIndex, Qt
from pytestqt.qtbot import QtBot

from app.jobs.manager import JobManager
from app.jobs.queue import Failure, QueueItem, State
from app.models.queue import MIME, OpenJobs, QueueModel, Role, status_text
from tests.app.jobs.play import Player, request

Watch = Callable[[QAbstractItemModel], None]


@pytest.fixture
def jobs(qtbot: QtBot, tmp_path: Path) -> Iterator[JobManager]:
    manager = JobManager(tmp_path / "store", Player())
    manager.hold()
    for name in "abcd":
        manager.add(name, request(tmp_path, name), base_name="base", fine_tuned_name=name * 2)
    yield manager
    assert manager.shutdown(5.0)


@pytest.fixture
def model(jobs: JobManager, watched: Watch) -> QueueModel:
    found = QueueModel(jobs)
    watched(found)
    return found


def order(model: QueueModel) -> str:
    return "".join(model.index(row).data() for row in range(model.rowCount()))


def test_fields_by_role(jobs: JobManager, model: QueueModel) -> None:
    index, item = model.index(1), jobs.items()[1]
    assert index.data(Role.ITEM) == item and index.data(Role.ID) == item.id and index.data(Role.STATE) == "waiting"
    assert index.data(Role.FINE_TUNED_NAME) == "bb" and index.data(Role.BASE_NAME) == "base" and index.data(Role.FRACTION) == 0
    assert index.data(Qt.ItemDataRole.AccessibleTextRole) == "b, waiting"
    assert str(item.output) in index.data(Qt.ItemDataRole.ToolTipRole)
    assert model.roleNames()[Role.SECONDS_LEFT].data() == b"seconds_left"
    assert model.row_of(item.id) == 1 and model.row_of("other") == -1 and model.data(QModelIndex()) is None


def test_it_follows_the_manager_without_resets(jobs: JobManager, model: QueueModel, tmp_path: Path) -> None:
    resets: list[bool] = []
    model.modelReset.connect(lambda: resets.append(True))
    a, b, _, d = jobs.items()
    jobs.move(d.id, 0)
    assert order(model) == "dabc"
    jobs.remove(b.id)
    assert order(model) == "dac"
    jobs.add("e", request(tmp_path, "e"))
    jobs.pause(a.id)
    assert order(model) == "dace" and model.index(1).data(Role.STATE) == "paused" and resets == []


def test_a_running_job_changes_its_row_only(jobs: JobManager, model: QueueModel, qtbot: QtBot) -> None:
    rows: list[int] = []
    model.dataChanged.connect(lambda first, last: rows.extend(range(first.row(), last.row() + 1)))
    jobs.hold(False)
    assert set(rows) == {0} and model.index(0).data(Role.STATE) == "running"
    with qtbot.waitSignal(jobs.pumped):
        jobs.cancel(jobs.items()[0].id)
    qtbot.waitUntil(lambda: model.index(0).data(Role.STATE) == "cancelled")


@pytest.mark.parametrize(("row", "count", "to", "expected"), [(0, 1, 2, "bacd"), (0, 1, 4, "bcda"), (3, 1, 0, "dabc"),
                                                              (2, 2, 0, "cdab"), (0, 2, 3, "cabd"), (1, 2, 4, "adbc")])
def test_moving_rows(model: QueueModel, row: int, count: int, to: int, expected: str) -> None:
    assert model.moveRows(QModelIndex(), row, count, QModelIndex(), to)
    assert order(model) == expected


@pytest.mark.parametrize(("row", "count", "to"), [(0, 1, 0), (0, 1, 1), (3, 2, 0), (0, 1, 9), (-1, 1, 2)])
def test_moves_that_lead_nowhere(model: QueueModel, row: int, count: int, to: int) -> None:
    assert not model.moveRows(QModelIndex(), row, count, QModelIndex(), to)
    assert order(model) == "abcd"


@pytest.mark.parametrize(("dragged", "row", "onto", "expected"), [((3,), 0, -1, "dabc"), ((0,), -1, -1, "bcda"),
                                                                  ((0,), -1, 2, "bacd"), ((2, 3), 1, -1, "acdb")])
def test_dragging(model: QueueModel, dragged: tuple[int, ...], row: int, onto: int, expected: str) -> None:
    data = model.mimeData([model.index(i) for i in dragged])
    assert data.hasFormat(MIME) and model.mimeTypes() == [MIME]
    parent = model.index(onto) if onto >= 0 else QModelIndex()
    assert model.dropMimeData(data, Qt.DropAction.MoveAction, row, 0, parent)
    assert order(model) == expected


def test_only_moves_of_jobs_are_taken(model: QueueModel) -> None:
    data = model.mimeData([model.index(0)])
    assert not model.dropMimeData(data, Qt.DropAction.CopyAction, 0, 0, QModelIndex())
    assert model.supportedDropActions() == Qt.DropAction.MoveAction
    assert model.flags(model.index(0)) & Qt.ItemFlag.ItemIsDragEnabled
    assert model.flags(QModelIndex()) & Qt.ItemFlag.ItemIsDropEnabled


@pytest.mark.parametrize(("changes", "expected"), [
    ({"state": State.RUNNING, "fraction": 0.489}, "48 %"), ({"state": State.PAUSED, "blocks": 32, "blocks_done": 12},
                                                            "paused at block 12 of 32"),
    ({"state": State.PAUSING}, "pausing after this step"), ({"state": State.INTERRUPTED}, "interrupted"),
    ({"state": State.FAILED, "error": Failure(what="The disk is full.")}, "failed: The disk is full."), ({}, "waiting")])
def test_status_in_words(changes: dict[str, object], expected: str) -> None:
    assert status_text(QueueItem(id="a", name="a", request={}, **changes)) == expected      # type: ignore[arg-type]


def test_what_is_over_is_listed_only_when_asked_for(jobs: JobManager, model: QueueModel, watched: Watch) -> None:
    shown = OpenJobs(model)
    watched(shown)
    first = jobs.items()[0]
    jobs.cancel(first.id)
    assert [shown.index(i, 0).data() for i in range(shown.rowCount())] == ["b", "c", "d"] and shown.first_open() == 0
    shown.show_ended(True)
    assert shown.rowCount() == 4 and shown.first_open() == 1
    shown.show_ended(False)
    assert shown.rowCount() == 3
