from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from PySide6.QtCore import QAbstractItemModel, Qt

from app.library.entry import DeltaEntry
from app.models.library import (
    BASE,
    COLUMNS,
    DATE,
    ENTRY_ROLE,
    KL,
    NAME,
    NOTE,
    SIZE,
    SORT_ROLE,
    LibraryFilter,
    LibraryModel,
    header_text,
    kl_text,
    recovery_text,
    row_text,
    short_date,
    short_size,
    short_time,
)

NOW = datetime(2026, 11, 21, 12)


def entry(name: str, **changes: object) -> DeltaEntry:
    made = DeltaEntry(Path("deltas") / name, name, base_name="small", fine_tuned=name, method="Per-axis", bytes=13_730_000,
                      full_bytes=269_000_000, ratio=19.6, recovery=0.988, kl=0.0041, base_kl=0.3, tokens=3840, created=NOW,
                      sha256=name, state="verified")
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture
def model(watched: Callable[[QAbstractItemModel], None]) -> LibraryModel:
    made = LibraryModel()
    watched(made)
    return made


@pytest.fixture
def proxy(model: LibraryModel, watched: Callable[[QAbstractItemModel], None]) -> LibraryFilter:
    made = LibraryFilter()
    made.setSourceModel(model)
    watched(made)
    return made


def shown(proxy: LibraryFilter) -> list[str]:
    return [proxy.index(i, NAME).data() for i in range(proxy.rowCount())]


def test_a_row_says_what_is_known(model: LibraryModel) -> None:
    model.sync([entry("pirate", note="in use")])
    cells = [model.index(0, i).data() for i in range(model.columnCount())]
    date = short_date(NOW)
    assert cells == ["pirate", "small", "Per-axis", "13.7 MB", "19.6 \N{MULTIPLICATION SIGN}", "0.988", "0.0041", date, "in use"]
    assert row_text(entry("pirate", note="in use")) == "\t".join(cells)
    assert header_text().split("\t") == [c.name for c in COLUMNS]
    assert model.index(0, NAME).data(Qt.ItemDataRole.AccessibleTextRole) == "Name: pirate, verified"
    assert model.index(0, 0).data(ENTRY_ROLE).name == "pirate"


def test_a_damaged_row_is_empty_but_named(model: LibraryModel) -> None:
    model.sync([DeltaEntry(Path("x"), "x", state="damaged", problem="It is cut.")])
    assert [model.index(0, i).data() for i in range(model.columnCount())] == ["x", "", "", "", "", "", "", "", ""]
    assert "It is cut." in model.index(0, NAME).data(Qt.ItemDataRole.ToolTipRole)
    assert not model.flags(model.index(0, NOTE)) & Qt.ItemFlag.ItemIsEditable


def test_sync_keeps_rows_that_stay(model: LibraryModel) -> None:
    model.sync([entry("a"), entry("b"), entry("c")])
    resets: list[None] = []
    changed: list[int] = []
    model.modelReset.connect(lambda: resets.append(None))
    model.dataChanged.connect(lambda top, bottom: changed.append(top.row()))
    model.sync([entry("b", note="x"), entry("c"), entry("d")])
    assert [e.name for e in model.entries()] == ["b", "c", "d"]
    assert changed == [0] and resets == []


def test_a_note_is_written_back(watched: Callable[[QAbstractItemModel], None]) -> None:
    written: list[tuple[str, str]] = []
    model = LibraryModel(lambda e, note: written.append((e.name, note)))
    watched(model)
    model.sync([entry("a", note="old")])
    index = model.index(0, NOTE)
    assert model.flags(index) & Qt.ItemFlag.ItemIsEditable and index.data(Qt.ItemDataRole.EditRole) == "old"
    assert model.setData(index, "old") and written == []
    assert model.setData(index, "new") and written == [("a", "new")]
    assert not model.setData(model.index(0, NAME), "other")


@pytest.mark.parametrize(("text", "base", "found"), [
    ("", "", ["bard", "pirate", "sql"]), ("PIR", "", ["pirate"]), ("large", "", ["sql"]), ("use keep", "", ["bard"]),
    ("per-axis", "", ["bard", "pirate", "sql"]), ("not found", "", ["sql"]), ("pirate use", "", []),
    ("", "small", ["bard", "pirate"]), ("sql", "small", [])])
def test_search_and_base(model: LibraryModel, proxy: LibraryFilter, text: str, base: str, found: list[str]) -> None:
    model.sync([entry("pirate"), entry("bard", note="In use, keep"), entry("sql", base_name="large", state="base-missing")])
    proxy.sort(NAME)
    proxy.search(text)
    proxy.show_base(base)
    assert shown(proxy) == found
    assert proxy.is_narrowed is bool(text or base)


def test_sorting_is_by_value_and_the_unknown_comes_first(model: LibraryModel, proxy: LibraryFilter) -> None:
    model.sync([entry("a", bytes=9_000_000), entry("b", bytes=100_000_000), entry("c", bytes=0, kl=None),
                entry("d", bytes=9_000_000)])
    proxy.sort(SIZE)
    assert shown(proxy) == ["c", "a", "d", "b"]
    proxy.sort(SIZE, Qt.SortOrder.DescendingOrder)
    assert shown(proxy)[0] == "b"
    proxy.sort(KL)
    assert shown(proxy)[0] == "c"
    proxy.sort(BASE)
    assert shown(proxy) == ["a", "b", "c", "d"]
    assert model.index(2, DATE).data(SORT_ROLE) == NOW.timestamp()


def test_a_row_moves_when_its_value_changes(model: LibraryModel, proxy: LibraryFilter) -> None:
    model.sync([entry("a", note="x"), entry("b", note="y")])
    proxy.sort(NOTE)
    model.sync([entry("a", note="z"), entry("b", note="y")])
    assert shown(proxy) == ["b", "a"]


def test_numbers_in_short() -> None:
    assert [short_size(n) for n in (0, 999, 42_620, 13_732_864, 269_000_000, 1.02e9, 9.996e6)] == [
        "0 B", "1.00 kB", "42.6 kB", "13.7 MB", "269 MB", "1.02 GB", "10.0 MB"]
    assert [short_time(s) for s in (0.0412, 0.306, 1.919, 12.44)] == ["0.041 s", "0.31 s", "1.92 s", "12.4 s"]
    assert [recovery_text(r) for r in (None, 0.9999, 1.0, 0.9814, -0.2)] == ["", "0.99990", "1.000", "0.981", "-0.200"]
    assert [kl_text(k) for k in (None, 0.0, 0.00414, 0.00003)] == ["", "0.0000", "0.0041", "3e-05"]
    assert short_date(datetime(2026, 3, 5), NOW) == "5 Mar" and short_date(datetime(2024, 3, 5), NOW) == "Mar 2024"
    assert short_date(None) == ""
