"""The layer table: in place, formatted for people, raw for sorting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from PySide6.QtCore import QAbstractItemModel, QModelIndex, QSortFilterProxyModel, Qt
from pytestqt.qtbot import QtBot

from app.models.layers import COLUMNS, ROW_ROLE, SORT_ROLE, LayerModel, LayerRow, as_state, margin_of, row_of_record, winner_of

Watch = Callable[[QAbstractItemModel], None]
DONE = LayerRow("model.layers.3.q", 3, "q", (8, 8), "sign", ("row",), ({"row": 0.14, "column": 0.2},), 0.87, 0.13, 0.12, 0.0062,
                42_624, 0.7, 0.3, "row")
TODO = LayerRow("model.layers.4.q", 4, "q", state="todo")


def names() -> list[str]:
    return [column.name for column in COLUMNS]


def shown(model: QAbstractItemModel, row: int, role: int = Qt.ItemDataRole.DisplayRole) -> list[object]:
    return [model.index(row, column).data(role) for column in range(model.columnCount())]


def test_margin() -> None:
    assert margin_of({"scalar": 0.9, "row": 0.14, "column": 0.2}) == pytest.approx(0.3)
    assert margin_of({"row": 0.2, "column": 0.14}) == pytest.approx(0.3)
    assert margin_of([{"row": 0.1, "column": 0.2}, {"row": 0.2, "column": 0.2}]) == pytest.approx(0.25)
    assert margin_of({"row": 0.1}) is None and margin_of([]) is None
    assert margin_of({"row": 0.0, "column": 0.0}) == 0.0


def test_winner_and_verdict() -> None:
    assert winner_of("sign", ("row", "column", "column")) == "column" and winner_of("sign", ("row", "column")) == "row"
    assert winner_of("lowrank", ()) == "lowrank"
    assert DONE.verdict == "row by 30 %" and DONE.title == "Block 3, q"
    assert replace(DONE, winner="lowrank").verdict == "low rank" and TODO.verdict == ""
    assert LayerRow("model.embed", None, "embed").title == "Embed"
    assert DONE.loss_of("column") == 0.2 and DONE.loss_of("both") is None


def test_a_record_of_a_delta_becomes_a_row() -> None:
    record = {"name": "a.b", "codec": "sign", "kind": "qkv", "block": 2, "shape": [12, 4], "change": 0.01,
              "slices": [{"start": 0, "stop": 4, "axis": "row", "slots": 4}, {"start": 4, "stop": 12, "axis": "row", "slots": 8}],
              "losses": [{"axis": {"row": 0.1, "column": 0.2}, "training": 0.2, "held_out": 0.3}, {"axis": {"row": 0.3}}]}
    row = row_of_record(record, 99)
    assert (row.axes, row.winner, row.margin, row.held_out, row.recovery) == (("row", "row"), "row", 0.5, 0.3, 0.7)
    assert (row.training, row.bytes, row.state, row.shape) == (0.2, 99, "done", (12, 4))
    plain = row_of_record({"name": "norm", "codec": "same"})
    assert plain.winner == "same" and plain.held_out is None and plain.margin is None


def test_what_is_shown_sorted_and_given(qtbot: QtBot, watched: Watch) -> None:
    model = LayerModel()
    watched(model)
    model.show([DONE, TODO])
    assert shown(model, 0) == ["3", "q", "Row", "Signs", "", "5328.0", "30 %", "0.130", "0.870", "0.62 %", "42.62 kB", "0.700 s"]
    assert shown(model, 1) == ["4", "q", *[""] * 10]
    assert shown(model, 0, SORT_ROLE) == [3, "q", "row", "signs", "", 5328.0, 0.3, 0.13, 0.87, 0.0062, 42_624, 0.7]
    assert model.index(1, 6).data(SORT_ROLE) == float("-inf")
    assert model.index(0, 0).data(ROW_ROLE) is DONE
    right = int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
    assert [a == right for a in shown(model, 0, Qt.ItemDataRole.TextAlignmentRole)] == [c.is_number for c in COLUMNS]
    assert [model.headerData(i, Qt.Orientation.Horizontal) for i in range(len(COLUMNS))] == names()
    assert all(model.headerData(i, Qt.Orientation.Horizontal, Qt.ItemDataRole.ToolTipRole) for i in range(len(COLUMNS)))
    assert model.index(1, 2).data(Qt.ItemDataRole.AccessibleTextRole) == "Block 4, q: Axis to do"
    assert "model.layers.3.q" in model.index(0, 0).data(Qt.ItemDataRole.ToolTipRole)
    assert model.row_of("model.layers.4.q") == 1 and model.row_of("other") == -1


def test_sync_changes_in_place_and_appends(qtbot: QtBot, watched: Watch) -> None:
    model = LayerModel()
    watched(model)
    rows = [replace(TODO, tensor=f"t{i}", block=i) for i in range(10)]
    model.sync(rows)
    resets: list[bool] = []
    changes: list[tuple[int, int]] = []
    inserts: list[tuple[int, int]] = []
    model.modelReset.connect(lambda: resets.append(True))
    model.dataChanged.connect(lambda first, last: changes.append((first.row(), last.row())))
    model.rowsInserted.connect(lambda parent, first, last: inserts.append((first, last)))
    newer = list(rows)
    for i in (2, 3, 4, 8):
        newer[i] = as_state(newer[i], "now")
    newer += [replace(TODO, tensor="t10"), replace(TODO, tensor="t11")]
    model.sync(newer)
    assert changes == [(2, 4), (8, 8)] and inserts == [(10, 11)] and resets == []
    assert list(model.rows()) == newer
    model.sync(newer)
    assert len(changes) == 2 and len(inserts) == 1
    model.sync(newer[:5])
    assert model.rowCount() == 5 and resets == []


def test_sorting_through_a_proxy_follows_changes(qtbot: QtBot, watched: Watch) -> None:
    model, proxy = LayerModel(), QSortFilterProxyModel()
    watched(model)
    watched(proxy)
    proxy.setSourceModel(model)
    proxy.setSortRole(SORT_ROLE)
    proxy.sort(names().index("Recovery"), Qt.SortOrder.DescendingOrder)
    rows = [replace(DONE, tensor=f"t{i}", block=i, recovery=value) for i, value in enumerate((0.5, None, 0.9))]
    model.show(rows)
    assert [proxy.index(i, 0).data() for i in range(3)] == ["2", "0", "1"]
    rows[1] = replace(rows[1], recovery=0.95)
    model.sync(rows)
    assert [proxy.index(i, 0).data() for i in range(3)] == ["1", "2", "0"]


def test_a_table_has_no_children(qtbot: QtBot) -> None:
    model = LayerModel()
    model.show([DONE])
    inside = model.index(0, 0)
    assert model.rowCount(inside) == 0 and model.columnCount(inside) == 0 and model.data(QModelIndex()) is None
