"""The Compare page: what is chosen, what the charts get, measuring, exports, states."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import pytest
from PySide6.QtCore import QObject, Qt, Signal
from PySide6.QtGui import QGuiApplication, QImage
from PySide6.QtTest import QAbstractItemModelTester, QTest
from PySide6.QtWidgets import QAbstractButton, QComboBox, QLabel, QLineEdit, QMenu, QPushButton

from app.context import Context
from app.library.entry import DeltaEntry, KindCount
from app.library.store import Library
from app.pages.compare import ComparePage, facts
from app.pages.compare.add_popup import FACTS, MOST, ChoiceModel
from app.pages.compare.bench import bench_levels, bench_points, read_benchmark
from app.pages.compare.exports import csv_text, export_menu, save, text_table
from app.pages.compare.measuring import Measuring
from app.tasks import Failure, Task
from app.widgets.charts.scatter import Level
from core.errors import BadOption, WrongBase

HOME = Path("library")


def timing(median: float, runs: int = 3) -> dict[str, Any]:
    return {"median": median, "lowest": median * 0.9, "highest": median * 1.2, "runs": [median] * runs}


def times(switch: float, full: float = 2.0, date: str = "2026-01-02T03:04:05+00:00") -> dict[str, Any]:
    ways = {"full": timing(full), "switch": timing(switch), "start": timing(switch + 1)}
    return {"cold": ways, "warm": {w: timing(t["median"] / 2) for w, t in ways.items()}, "date": date, "repeats": 3, "note": ""}


def entry(name: str, size: float = 13.9, kl: float | None = 0.004, **values: Any) -> DeltaEntry:
    made = DeltaEntry(HOME / name, name, "base", "pirate", "LlamaForCausalLM", "Per-axis", "exact", "auto", int(size * 1e6),
                      int(size * 1e6), 269_000_000, 269 / size, 0.98, kl, None if kl is None else 0.339, 0.0003, "kl", 3840,
                      datetime(2026, 1, 1), base_path="places/base", fine_tuned_path="places/pirate", sha256=name,
                      base_sha256="b1", kinds=(KindCount("q", 19, 11, 0), KindCount("down", 0, 30, 0)), layers=60)
    return replace(made, **values)


class Shelf(QObject):
    """Stands in for the library: the test says what is in it and how measuring goes."""

    changed = Signal()
    compare_asked = Signal(object)

    def __init__(self, ctx: Context) -> None:
        super().__init__()
        self._ctx = ctx
        self.found: list[DeltaEntry] = []
        self.loading = False
        self.failure: Failure | None = None
        self.compare_wanted: tuple[Path, ...] = ()
        self.refreshed = 0
        self.measured: list[tuple[str, int]] = []
        self.work: Callable[[Task], dict[str, Any]] = lambda task: times(0.1)

    def entries(self) -> tuple[DeltaEntry, ...]:
        return tuple(self.found)

    def entry(self, path: Path) -> DeltaEntry | None:
        return next((e for e in self.found if e.path == path), None)

    def base_folder_of(self, one: DeltaEntry) -> str | None:
        return one.base_path

    def refresh(self) -> None:
        self.refreshed += 1

    def measure(self, owner: QObject, one: DeltaEntry, repeats: int, done: Any, failed: Any, progress: Any) -> Task:
        self.measured.append((one.name, repeats))

        def got(found: dict[str, Any]) -> None:
            self.found = [replace(e, load_times=found) if e.path == one.path else e for e in self.found]
            self.changed.emit()
            done(found)
        return self._ctx.tasks.run(owner, self.work, got, failed, progress)


class Stage:
    """A page over a shelf."""

    def __init__(self, ctx: Context, entries: list[DeltaEntry], wanted: tuple[Path, ...] = ()) -> None:
        self.shelf = Shelf(ctx)
        self.shelf.found, self.shelf.compare_wanted = entries, wanted
        self.ctx = replace(ctx, library=cast(Library, self.shelf))
        self.page = ComparePage(self.ctx)
        self.page.resize(1112, 628)

    def texts(self) -> str:
        QGuiApplication.processEvents()                 # what was just laid out is shown then
        return " | ".join(w.text() for w in self.page.findChildren(QLabel) if w.isVisibleTo(self.page))

    def button(self, text: str) -> QPushButton:
        QGuiApplication.processEvents()
        return next(b for b in self.page.findChildren(QPushButton) if b.text().startswith(text) and b.isVisibleTo(self.page))


ENTRIES = [entry("per-axis"), entry("chosen", kl=0.0032, method="Row"), entry("bitdelta", 13.6, 0.012, method="BitDelta")]


@pytest.fixture
def stage(qtbot: Any, make_context: Callable[..., Context]) -> Stage:
    made = Stage(make_context(), list(ENTRIES))
    qtbot.addWidget(made.page)
    made.page.show()
    return made


@pytest.fixture
def compared(stage: Stage) -> Stage:
    stage.shelf.compare_asked.emit(tuple(e.path for e in ENTRIES))
    return stage


# ------------------------------------------------------------------------------------------------------- the facts
def test_the_caption_counts_deltas_fine_tunes_and_bases() -> None:
    assert facts.page_caption(ENTRIES) == "3 deltas of one fine-tune, against the full checkpoint"
    assert facts.page_caption([entry("a"), entry("b", fine_tuned="bard")]).startswith("2 deltas of 2 fine-tunes")
    assert "fidelity only within one base" in facts.page_caption([entry("a"), entry("b", base_sha256="b2")])


def test_a_method_at_several_sizes_is_joined_and_labelled_by_its_numbers() -> None:
    ranks = [entry(f"low-{n}", n / 2, 1 / n, method=f"Low rank {n}") for n in (4, 8, 16, 32)]
    found = facts.points([ranks[2], ENTRIES[0]], {ranks[2].path: "star"}, ranks[2].path, [*ranks, *ENTRIES])
    aside = [(p.label, p.shape) for p in found if p.aside]
    assert aside == [("4", "star"), ("8", "star"), ("32", "star")]
    assert {(p.legend, p.role) for p in found if p.line} == {("Low rank", "row")}
    assert len({p.line for p in found if p.name.startswith("low")}) == 1
    assert [p.line for p in found if p.name == "per-axis"] == [""]      # alike in size with all of its method


def test_sizes_that_were_asked_for_make_a_curve_by_size() -> None:
    mixes = [entry(f"mix-{n}", 269 / n, n / 1000, method="Budgeted mix", asked=f"{n}x") for n in (8, 16, 32)]
    others = [entry(f"bard-{n}", 269 / n, n / 900, method="Budgeted mix", asked=f"{n}x", fine_tuned="bard") for n in (8, 16)]
    found = facts.points([mixes[0], others[0]], {}, mixes[0].path, [*mixes, *others])
    lines = {p.line: [q.label or q.name for q in found if q.line == p.line] for p in found}
    assert sorted(map(sorted, lines.values())) == [["16x", "32x", "mix-8"], ["16x", "bard-8"]]
    assert {p.legend: p.role for p in found} == {"Budgeted mix, bard": "row", "Budgeted mix, pirate": "column"}


def bench_file(folder: Path, rows: list[dict[str, Any]] | None = None, **pair: Any) -> Path:
    found = [{"method": m, "label": label, "size": n, "bytes": 26_900_000 * 16 / n, "ratio": 10, "kl_mean": kl * n / 16,
              "kl_se": kl / 20, "top1": 0.9, "recovery": 0.97, "fit_seconds": 61.0}
             for m, label, kl in (("deltamix", "DeltaMix", 0.01), ("mix", "Budgeted mix", 0.008)) for n in (8, 16)]
    facts = {"base": "base", "fine_tuned": "pirate", "tokens": 4096, "base_kl": 0.9, **pair}
    path = folder / "benchmark.json"
    path.write_text(json.dumps({"pair": facts, "rows": found if rows is None else rows, "failures": []}), "utf-8")
    return path


def test_a_benchmark_becomes_curves_with_errors(tmp_path: Path) -> None:
    found = read_benchmark(bench_file(tmp_path))
    assert found.methods == ("DeltaMix", "Budgeted mix") and found.title == "pirate on base, 4,096 tokens"
    made = bench_points(found)
    assert [(p.legend, round(p.size), p.shape) for p in made[:2]] == [("DeltaMix", 53_800_000, "circle"),
                                                                      ("DeltaMix", 26_900_000, "circle")]
    assert all(p.error and p.is_unnamed and p.aside for p in made) and len({p.role for p in made}) == 2
    assert made[0].name == "DeltaMix, 1/8" and ("Recovery", "97.0 %") in made[0].facts
    own = replace(made[0], line="own", legend="DeltaMix")
    assert {p.legend for p in bench_points(found, [own])} == {"DeltaMix (benchmark)", "Budgeted mix"}
    assert bench_levels(found, []) == [Level("base alone", 0.9)] and bench_levels(found, [Level("base alone", 0.905)]) == []


@pytest.mark.parametrize("content", ["", "[]", "{}", "not json", '{"pair": {}, "rows": []}', '{"pair": 3, "rows": 4}',
                                     '{"pair": {}, "rows": [{"label": "x", "bytes": -1, "kl_mean": 1}]}',
                                     '{"pair": {}, "rows": [{"label": "x", "bytes": 5, "kl_mean": NaN}]}', "[" * 100_000])
def test_what_is_no_benchmark_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(BadOption, match=r"x\.json"):
        read_benchmark(tmp_path / "x.json")


def test_a_benchmark_can_be_shown_without_deltas_and_with_them(stage: Stage, tmp_path: Path, said: Any) -> None:
    page = stage.page
    page.take_benchmark(bench_file(tmp_path))
    assert len(page.scatter.table()[1]) == 5 and page.export.isEnabled() and [f.key for f in page.figures()] == ["fidelity"]
    assert "Benchmark: pirate on base" in stage.texts() and not page.size_card.isVisible()
    save(stage.ctx, page.figures(), facts.table(page.chosen()), "", None, "png", tmp_path / "all.png")
    assert not QImage(str(tmp_path / "all.png")).isNull()
    page.add_all([ENTRIES[0].path])
    assert page.size_card.isVisible() and len(page.figures()) == 4 and len(page.scatter.table()[1]) == 1 + 4 + 2
    page.grab()
    page.scatter._pick(next(i for i, p in enumerate(page.scatter._points) if p.is_unnamed))
    assert page.accent == ENTRIES[0].path, "a benchmark's mark is no delta to choose"
    assert [e.name for e in page.scatter.legend()] == ["Budgeted mix", "DeltaMix"]
    page.drop_benchmark()
    assert len(page.scatter.table()[1]) == 2 and page.scatter.legend() == []
    (tmp_path / "bad.json").write_text("{}")
    page.take_benchmark(tmp_path / "bad.json")
    assert "no benchmark" in said.errors[0].what


def test_deltas_of_other_fine_tunes_are_not_joined() -> None:
    others = [entry("a", 2.0), entry("b", 9.0, fine_tuned="bard")]
    assert [p.name for p in facts.points(others[:1], {}, None, others)] == ["a"]


def test_one_yardstick_per_pair() -> None:
    chosen = [entry("a"), entry("b", base_kl=0.341), entry("c", fine_tuned="bard", base_kl=0.5)]
    assert [(x.name, x.kl) for x in facts.levels(chosen)] == [("base alone for pirate", 0.34), ("base alone for bard", 0.5)]
    assert facts.levels([entry("a", kl=None)]) == []


def test_what_the_scatter_leaves_out_is_said() -> None:
    note = facts.fidelity_note([entry("a", kl=None), entry("b", kl=0.0), entry("c"), entry("d", base_kl=0.5)])
    assert "no KL measured: a." in note
    assert "Exact, KL 0" in note
    assert "different texts (base alone from 0.339 to 0.5)" in note
    assert facts.fidelity_note(ENTRIES) == ""
    assert [p.name for p in facts.points([entry("b", kl=0.0), entry("c")], {}, None, [])] == ["c"]


def test_load_bars_name_what_is_missing() -> None:
    chosen = [entry("a", load_times=times(0.1)), entry("b"), entry("c", fine_tuned_path=None), entry("d", base_path=None)]
    bars = facts.load_bars(chosen, chosen[0].path, "switch", {e.path: e.base_path for e in chosen})
    assert [b.name for b in bars] == ["Full checkpoint", "a", "b", "c", "d"]
    assert bars[0].cold is not None
    assert bars[0].cold.median == 2.0
    assert [b.reason for b in bars[1:]] == ["", "not measured yet", "not measured: its fine-tune's folder is not known",
                                            "not measured: its base's folder is not known"]


def test_the_yardstick_is_the_one_measured_with_the_accent_else_the_latest() -> None:
    old, new = entry("old", load_times=times(0.1, 1.0)), entry("new", load_times=times(0.1, 3.0, "2026-02-02T00:00:00+00:00"))
    for accent, wanted in ((old.path, "old"), (new.path, "new"), (None, "new")):
        found = facts.yardstick([new, old, entry("none")], accent)
        assert found is not None
        assert found.name == wanted
    assert facts.yardstick([entry("none")], None) is None
    assert facts.yardstick([entry("odd", load_times={**times(0.1), "date": "long ago"}), new], None) == new


def test_faster_and_slower_are_told_apart() -> None:
    both = [facts.Faster("20 ×", "faster cold"), facts.Faster("20 ×", "faster warm")]
    assert facts.faster(entry("a", load_times=times(0.1)), "switch") == both
    assert facts.faster(entry("a", load_times=times(5.0)), "switch")[0] == facts.Faster("2.5 ×", "slower cold")
    assert facts.faster(entry("a"), "switch") == []


def test_captions_of_load_times_say_runs_and_whiskers() -> None:
    seven = times(0.1)
    seven["cold"] = {w: timing(1.0, 7) for w in seven["cold"]}
    assert facts.load_caption([entry("a", load_times=times(0.1))], "switch") == "median of 3, whiskers lowest to highest"
    mixed = facts.load_caption([entry("a", load_times=seven)], "switch")
    assert mixed == "median of 3 to 7, whiskers 10 to 90 %, below 5 runs all"
    assert facts.load_caption(ENTRIES, "switch") == "nothing measured yet"


def test_the_table_has_a_row_per_delta_and_per_full_checkpoint() -> None:
    header, rows = facts.table([entry("a", load_times=times(0.1)), entry("b", fine_tuned="bard", kl=None)])
    assert [r[0] for r in rows] == ["Full pirate", "Full bard", "a", "b"]
    assert all(len(r) == len(header) for r in rows)
    assert rows[2][header.index("Switch cold median s")] == "0.1000"
    assert rows[2][header.index("Column")] == "41"
    assert rows[3][header.index("KL")] == ""
    text = text_table((header, rows)).splitlines()
    assert len({line.count("\t") for line in text}) == 1
    assert csv_text((header, rows)).count("\n") == 5


# -------------------------------------------------------------------------------------------------------- the states
def test_an_empty_library_offers_the_next_step(stage: Stage, said: Any) -> None:
    stage.shelf.found = []
    stage.shelf.changed.emit()
    assert "Nothing to compare yet" in stage.texts()
    assert not stage.page.copy.isEnabled()
    assert stage.page.copy.toolTip() == "Choose a delta first"
    stage.button("Compress").click()
    assert said.pages == ["compress"]


def test_a_library_that_is_read_or_unreadable_says_so(stage: Stage) -> None:
    stage.shelf.found, stage.shelf.loading = [], True
    stage.shelf.changed.emit()
    assert "Reading the library" in stage.texts()
    stage.shelf.loading, stage.shelf.failure = False, Failure("The folder is gone.", "", "Plug the disk in.", "")
    stage.shelf.changed.emit()
    assert "Plug the disk in." in stage.texts()
    stage.button("Try again").click()
    assert stage.shelf.refreshed == 1


def test_nothing_chosen_offers_what_belongs_together(stage: Stage) -> None:
    stage.button("Compare all 3 of pirate").click()
    assert {e.name for e in stage.page.chosen()} == {"per-axis", "chosen", "bitdelta"}


# --------------------------------------------------------------------------------------------------------- choosing
def test_asked_deltas_are_added_and_the_first_is_in_accent(compared: Stage) -> None:
    page = compared.page
    assert [e.name for e in page.chosen()] == ["per-axis", "chosen", "bitdelta"]
    assert page.accent == ENTRIES[0].path
    assert page.sizes.table()[1][0][0] == "Full checkpoint"
    assert len(page.scatter.keys()) == 3
    assert page.axes.totals() == (19, 41, 0)


def test_what_was_asked_before_the_page_was_made_is_shown(qtbot: Any, make_context: Callable[..., Context]) -> None:
    made = Stage(make_context(), list(ENTRIES), (ENTRIES[1].path, ENTRIES[0].path))
    qtbot.addWidget(made.page)
    assert [e.name for e in made.page.chosen()] == ["chosen", "per-axis"]
    assert made.shelf.compare_wanted == ()


def test_a_renamed_delta_stays_chosen(compared: Stage) -> None:
    shape = compared.page._shapes[ENTRIES[0].path]
    compared.shelf.found[0] = replace(ENTRIES[0], path=HOME / "renamed", name="renamed")
    compared.shelf.changed.emit()
    assert [e.name for e in compared.page.chosen()] == ["renamed", "chosen", "bitdelta"]
    assert compared.page.accent == HOME / "renamed"
    assert compared.page._shapes[HOME / "renamed"] == shape


def test_a_delta_that_arrives_later_is_added_then(compared: Stage) -> None:
    late = entry("late")
    compared.shelf.compare_asked.emit((late.path,))
    assert late.path not in [e.path for e in compared.page.chosen()]
    compared.shelf.found.append(late)
    compared.shelf.changed.emit()
    assert compared.page.accent == late.path


def test_a_click_on_a_chip_puts_it_in_accent_everywhere(compared: Stage) -> None:
    page, path = compared.page, ENTRIES[2].path
    QTest.mouseClick(page.chips.chip(path), Qt.MouseButton.LeftButton)
    assert page.accent == path
    assert page.chips.chip(path).isChecked()
    assert not page.chips.chip(ENTRIES[0].path).isChecked()
    assert [p.key for p in page.scatter._points if p.accent] == [str(path)]
    assert [b.key for b in page.sizes._bars if b.accent] == [str(path)]
    assert [b.key for b in page.load_card.bars._bars if b.accent] == [str(path)]
    assert page.axis_card.caption.accessibleName() == "bitdelta"


def test_arrows_move_the_accent_and_delete_takes_out(compared: Stage) -> None:
    page = compared.page
    QTest.keyClick(page.chips.chip(ENTRIES[0].path), Qt.Key.Key_Right)
    assert page.accent == ENTRIES[1].path
    QTest.keyClick(page.chips.chip(ENTRIES[1].path), Qt.Key.Key_Left)
    QTest.keyClick(page.chips.chip(ENTRIES[0].path), Qt.Key.Key_Left)
    assert page.accent == ENTRIES[2].path
    QTest.keyClick(page.chips.chip(ENTRIES[2].path), Qt.Key.Key_Delete)
    assert [e.name for e in page.chosen()] == ["per-axis", "chosen"]
    assert page.accent == ENTRIES[1].path


def test_the_close_button_takes_out(compared: Stage) -> None:
    chip = compared.page.chips.chip(ENTRIES[0].path)
    close = next(b for b in chip.findChildren(QAbstractButton) if b.accessibleName() == "Take per-axis out")
    QTest.mouseClick(close, Qt.MouseButton.LeftButton)
    assert [e.name for e in compared.page.chosen()] == ["chosen", "bitdelta"]


def test_a_click_in_a_chart_puts_its_delta_in_accent(compared: Stage) -> None:
    compared.page.sizes.picked.emit(str(ENTRIES[1].path))
    assert compared.page.accent == ENTRIES[1].path


def test_there_are_no_more_than_there_are_marks(stage: Stage, said: Any) -> None:
    stage.shelf.found = [entry(f"d{i}", 10 + i) for i in range(MOST + 2)]
    stage.shelf.compare_asked.emit(tuple(e.path for e in stage.shelf.found))
    assert len(stage.page.chosen()) == MOST
    assert len(set(stage.page._shapes.values())) == MOST
    assert [tone for _, tone in said.notes] == ["warning"]


def test_a_delta_that_leaves_the_library_leaves_the_page(compared: Stage) -> None:
    compared.shelf.found = compared.shelf.found[1:]
    compared.shelf.changed.emit()
    assert [e.name for e in compared.page.chosen()] == ["chosen", "bitdelta"]
    assert compared.page.accent == ENTRIES[1].path


def test_chips_go_on_in_a_second_line(compared: Stage) -> None:
    bar = compared.page.chips
    assert bar.heightForWidth(300) > bar.heightForWidth(2000)


# ------------------------------------------------------------------------------------------------------ adding more
@pytest.fixture
def model(qapp: Any) -> ChoiceModel:
    made = ChoiceModel()
    made.tester = QAbstractItemModelTester(made, QAbstractItemModelTester.FailureReportingMode.Fatal)  # type: ignore[attr-defined]
    return made


def test_the_list_puts_the_shown_pair_first_and_says_other_bases(model: ChoiceModel) -> None:
    other = entry("a-first", base_sha256="b2", base_name="Llama")
    model.show_entries([other, *ENTRIES, entry("bad", state="damaged")], ENTRIES[:1])
    names = [model.index(i).data() for i in range(model.rowCount())]
    assert names == ["bitdelta", "chosen", "per-axis", "a-first"]
    assert "another base: Llama" in model.index(3).data(FACTS)
    checked = [model.index(i).data(Qt.ItemDataRole.CheckStateRole) for i in range(4)]
    assert checked == [Qt.CheckState.Unchecked, Qt.CheckState.Unchecked, Qt.CheckState.Checked, Qt.CheckState.Unchecked]


def test_searching_matches_every_word(model: ChoiceModel) -> None:
    model.show_entries(ENTRIES, [])
    model.search("pirate bitdel")
    assert [model.index(i).data() for i in range(model.rowCount())] == ["bitdelta"]
    model.search("nothing like it")
    assert model.rowCount() == 0
    model.search("")
    assert model.rowCount() == 3


def test_a_full_page_takes_no_more(model: ChoiceModel) -> None:
    many = [entry(f"d{i}") for i in range(MOST + 1)]
    model.show_entries(many, many[:MOST])
    enabled = [bool(model.index(i).flags() & Qt.ItemFlag.ItemIsEnabled) for i in range(MOST + 1)]
    assert enabled == [True] * MOST + [False]


def test_the_popup_adds_and_takes_out_by_keys(compared: Stage) -> None:
    page = compared.page
    compared.shelf.found.append(entry("zeta"))
    page.open_add()
    popup = page._popup
    assert popup is not None
    popup.search.setText("zeta")
    QTest.keyClick(popup, Qt.Key.Key_Return)
    assert page.chosen()[-1].name == "zeta"
    QTest.keyClick(popup.list, Qt.Key.Key_Space)
    assert [e.name for e in page.chosen()] == ["per-axis", "chosen", "bitdelta"]
    popup.hide()


# -------------------------------------------------------------------------------------------------------- measuring
def test_measuring_times_one_delta_after_the_other(compared: Stage, qtbot: Any) -> None:
    card = compared.page.load_card
    card.repeats.setCurrentIndex(card.repeats.findData(7))
    with qtbot.waitSignal(card.measuring.ended, timeout=60_000):
        card.measure.click()
    assert compared.shelf.measured == [("per-axis", 7), ("chosen", 7), ("bitdelta", 7)]
    assert all(b.cold is not None for b in card.bars._bars)
    assert "20 ×" in compared.texts()
    assert card.measure.isVisibleTo(compared.page)


def test_what_fails_is_said_and_stops_no_other(compared: Stage, qtbot: Any, said: Any) -> None:
    calls: list[int] = []

    def work(task: Task) -> dict[str, Any]:
        calls.append(1)
        if len(calls) == 1:
            raise WrongBase("This is another base.", "", "Choose its own.")
        return times(0.1)
    compared.shelf.work = work
    with qtbot.waitSignal(compared.page.load_card.measuring.ended, timeout=60_000):
        compared.page.load_card.measure.click()
    assert len(calls) == 3
    assert "per-axis could not be measured." in compared.texts()
    compared.button("Details").click()
    assert said.errors[0].what == "This is another base."


def test_a_cancelled_measurement_is_over_only_when_its_run_is(compared: Stage, qtbot: Any) -> None:
    running, go_on = threading.Event(), threading.Event()

    def work(task: Task) -> dict[str, Any]:
        running.set()
        go_on.wait(5)
        task.progress(None)
        return times(0.1)
    compared.shelf.work = work
    card = compared.page.load_card
    card.measure.click()
    qtbot.waitUntil(running.is_set)
    card.cancel.click()
    assert card.measuring.is_busy
    assert card.cancel.text() == "Stopping..."
    with qtbot.waitSignal(card.measuring.ended, timeout=60_000):
        go_on.set()
    assert not card.measuring.is_busy
    assert len(compared.shelf.measured) == 1
    assert card.bars._bars[1].reason == "not measured yet"


def test_a_disabled_button_says_why(compared: Stage) -> None:
    compared.shelf.found = [replace(e, fine_tuned_path=None) for e in compared.shelf.found]
    compared.shelf.changed.emit()
    card = compared.page.load_card
    assert not card.measure.isEnabled()
    assert "Its fine-tune's folder is not known. Set it on the Deltas page." in compared.texts()


def test_copies_of_a_delta_are_measured_once(compared: Stage) -> None:
    twin = replace(ENTRIES[0], path=HOME / "twin", name="twin")
    compared.shelf.found.append(twin)
    compared.shelf.compare_asked.emit((twin.path,))
    assert [e.name for e in compared.page.load_card.measurable()] == ["per-axis", "chosen", "bitdelta"]


def test_the_other_way_shows_its_own_times(compared: Stage) -> None:
    compared.shelf.found = [replace(e, load_times=times(0.1)) for e in compared.shelf.found]
    compared.shelf.changed.emit()
    compared.button("Start").click()
    bars = compared.page.load_card.bars._bars
    assert [round(b.cold.median, 3) for b in bars if b.cold is not None] == [2.0, 1.1, 1.1, 1.1]


def test_nothing_is_started_twice(compared: Stage, qtbot: Any) -> None:
    measuring = Measuring(compared.ctx, compared.page)
    measuring.start([], 3)
    assert not measuring.is_busy
    with qtbot.waitSignal(measuring.ended, timeout=60_000):
        measuring.start(ENTRIES[:1], 3)
        measuring.start(ENTRIES[1:], 3)
    assert compared.shelf.measured == [("per-axis", 3)]


# ---------------------------------------------------------------------------------------------------------- exports
def test_figures_are_saved_as_pictures_drawings_and_tables(compared: Stage, tmp_path: Path) -> None:
    page, table = compared.page, facts.table(compared.page.chosen())
    for figure in (None, *page.figures()):
        for kind in ("png", "svg", "csv"):
            path = tmp_path / f"{figure.key if figure else 'page'}.{kind}"
            save(compared.ctx, page.figures(), table, "3 deltas", figure, kind, path)
            assert path.stat().st_size > 20
    picture = QImage(str(tmp_path / "page.png"))
    assert picture.width() > 2000
    assert "per-axis,base,pirate" in (tmp_path / "page.csv").read_text()
    assert "<svg" in (tmp_path / "fidelity.svg").read_text()[:400]


def test_copy_puts_picture_and_table_on_the_clipboard(compared: Stage, said: Any) -> None:
    compared.page.copy.click()
    data = QGuiApplication.clipboard().mimeData()
    assert data.hasImage()
    assert data.text().startswith("Name\tBase\t")
    assert said.notes[-1][1] == "success"


def test_the_menu_offers_every_chart_in_every_form(compared: Stage) -> None:
    told: list[tuple[str, str]] = []
    menu = export_menu(compared.page.figures(), lambda key, kind: told.append((key, kind)), compared.page)
    for inner in menu.findChildren(QMenu):
        for action in inner.actions():
            action.trigger()
    assert len(told) == 15
    assert {key for key, _ in told} == {"page", "fidelity", "axis", "load", "size"}


# ------------------------------------------------------------------------------------------------- looks and access
def test_every_control_has_a_name(compared: Stage) -> None:
    controls = [w for kind in (QAbstractButton, QComboBox, QLineEdit) for w in compared.page.findChildren(kind)]
    assert len(controls) > 10
    assert [w for w in controls if w.isVisibleTo(compared.page) and not w.accessibleName()] == []
    for chart in (compared.page.scatter, compared.page.axes, compared.page.sizes, compared.page.load_card.bars):
        assert chart.accessibleName()
        assert len(chart.accessibleDescription()) > 20


@pytest.mark.parametrize("size", [(1112, 628), (1752, 1052), (700, 400)])
def test_the_page_fits_every_window(compared: Stage, size: tuple[int, int]) -> None:
    compared.page.resize(*size)
    assert (compared.page.width(), compared.page.height()) == size
    assert compared.page.fidelity_card.geometry().right() <= size[0]


def test_light_and_dark_switch_live(compared: Stage) -> None:
    page = compared.page

    def accents() -> int:
        image = page.sizes.grab().toImage()
        colour = compared.ctx.theme.color("accent").name()
        places = [(x, y) for y in range(0, image.height(), 3) for x in range(0, image.width(), 2)]
        return sum(image.pixelColor(x, y).name() == colour for x, y in places)
    assert accents() > 0
    compared.ctx.theme.use("dark", 1.25)
    assert accents() > 0
    assert page.chosen()


MIXED = (KindCount("q", 2, 0, 8, (("sign", 2), ("svdmix", 3), ("coded", 1), ("left-out", 4))),
         KindCount("down", 0, 1, 9, (("sign", 1), ("planes", 2), ("left-out", 7))))


def test_a_budgeted_delta_names_how_its_layers_are_stored(stage: Stage) -> None:
    stage.shelf.found = [entry("mix", kinds=MIXED), *ENTRIES]
    stage.page.add_all([HOME / "mix", HOME / "per-axis"])
    said = stage.texts()
    for words in ("Storage by layer kind", "Signs 3", "Sign planes 2", "DeltaMix 3", "Coded levels 1", "Left out 11"):
        assert words in said
    assert "Other" not in said and "Row 2" not in said
    assert [part.letter for part in stage.page.axes.parts()] == ["S", "P", "M", "E", ""]
    assert len({part.colour.name() for part in stage.page.axes.parts()}) == 5
    titles, rows = stage.page.axes.table()
    assert titles == ("Layer kind", "Signs", "Sign planes", "DeltaMix", "Coded levels", "Left out")
    assert rows[0] == ("q", "2", "0", "3", "1", "4")
    figure = next(f for f in stage.page.figures() if f.key == "axis")
    assert (figure.title, [text for _, text in figure.legend][-1]) == ("Storage by layer kind", "Left out 11")
    stage.page.highlight(HOME / "per-axis")
    said = stage.texts()
    assert "Axis by layer kind" in said and "Row 19" in said and "Left out" not in said


def test_deltas_of_different_texts_show_their_recovery_and_no_common_base(stage: Stage) -> None:
    stage.shelf.found = [entry("a", recovery=0.9998), entry("b", recovery=0.99914, base_kl=2.5), entry("c", fine_tuned="bard")]
    stage.page.add_all([e.path for e in stage.shelf.found])
    said = stage.texts()
    assert "recovery 0.99980" in said and "recovery 0.99914" in said
    assert "different texts" in said and "compare them by recovery, which their chips above tell" in said
    assert [level.name for level in facts.levels(stage.shelf.found)] == ["base alone for bard"]
    assert stage.page.chips.chip(HOME / "c")._kl.text() == "0.0040"
    stage.page.remove(HOME / "b")
    assert "recovery 0.9998" not in stage.texts()
