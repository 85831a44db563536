"""The Compare page: chips of the chosen deltas over four charts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QFileDialog, QGridLayout, QLabel, QStackedWidget, QWidget

from app.context import Context
from app.library.entry import DeltaEntry
from app.pages.compare import facts
from app.pages.compare.add_popup import MOST, AddPopup
from app.pages.compare.bench import Benchmark, bench_levels, bench_note, bench_points, read_benchmark
from app.pages.compare.blank import BlankState, blank_state, blank_view
from app.pages.compare.chips import ChipBar
from app.pages.compare.exports import copy_figures, export, export_menu
from app.pages.compare.load_card import LoadCard
from app.pages.compare.parts_legend import PartsLegend
from app.pages.compare.sheet import Figure
from app.tasks import Failure
from app.widgets.basics import (
    Card,
    ElidedLabel,
    PageHeader,
    Swatch,
    boxed,
    button,
    clear_layout,
    column,
    label,
    row,
    scrolled,
    tool_button,
)
from app.widgets.charts.bars import SizeBars
from app.widgets.charts.marks import SHAPES, ColourKey
from app.widgets.charts.scatter import FidelityScatter
from app.widgets.charts.stacked import StackedAxes
from core.errors import DeltadeckError

_TWO_COLUMNS = 860
"""Below this width (at zoom 1) the cards stand in one column."""


class ComparePage(QWidget):
    """Chips, and four cards. What is chosen stays for the session; one chosen delta is in accent everywhere."""

    name = "compare"

    def __init__(self, ctx: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._ctx = ctx
        self._chosen: list[Path] = []
        self._shapes: dict[Path, str] = {}
        self._hashes: dict[Path, str] = {}
        self._accent: Path | None = None
        self._wanted: list[Path] = []
        """Asked for, but not in the library yet."""
        self._popup: AddPopup | None = None
        self._state: BlankState | None = None
        self._benchmark: Benchmark | None = None
        self.header = PageHeader("Compare")
        self.copy = button("Copy figures", icons=ctx.icons, icon="copy", clicked=self.copy_all)
        self.export = button("Export...", icons=ctx.icons, icon="export", clicked=self._open_export)
        self.bench = button("Load benchmark...", icons=ctx.icons, icon="folder",
                            clicked=self.load_benchmark, tip="Curves of a benchmark.json that 'deltadeck benchmark' wrote")
        self.header.at_right(self.bench, self.copy, self.export)
        self.chips = ChipBar(ctx)
        self.chips.picked.connect(self.highlight)
        self.chips.removed.connect(self.remove)
        self.chips.add_asked.connect(self.open_add)
        self._build_cards()
        self._stack = QStackedWidget()
        self._blank = QWidget()
        self._blank.setLayout(column())
        self._charts = scrolled(self._cards, name="Charts")
        self._empty = scrolled(self._blank, name="Nothing chosen yet")
        self._stack.addWidget(self._empty)
        self._stack.addWidget(self._charts)
        outer = column(self.header, self.chips, 4, self._stack, gap=8, margins=(24, 0, 24, 24))
        outer.setStretch(3, 1)
        self.setLayout(outer)
        ctx.library.changed.connect(self._library_changed)
        ctx.library.compare_asked.connect(self._asked)
        ctx.theme.changed.connect(self._restyle)
        self._asked(ctx.library.compare_wanted)         # asked for before this page was made

    def _build_cards(self) -> None:
        ctx = self._ctx
        self.scatter, self.axes, self.sizes = FidelityScatter(ctx.theme), StackedAxes(ctx.theme), SizeBars(ctx.theme)
        self.fidelity_card = Card("Fidelity against size", "KL to fine-tune, ± standard error")
        self._yardstick = label(tone="faded")
        self._whole = tool_button(ctx.icons, "zoom", "Show the whole chart", size=12, clicked=self.scatter.reset)
        self._whole.hide()
        self.scatter.zoomed.connect(self._whole.setVisible)
        self._drop = tool_button(ctx.icons, "close", "Take the benchmark out", size=12, clicked=self.drop_benchmark)
        self._drop.hide()
        self.fidelity_card.at_right(self._yardstick, self._whole, self._drop)
        self._fidelity_note = label(size="small", tone="faded", wrap=True)
        self.fidelity_card.add(self.scatter, self._fidelity_note)
        self.fidelity_card.body.setStretch(1, 1)
        self.axis_card = Card("Axis by layer kind", " ")
        self._counts: list[QLabel] = []
        self._axes_shown: list[QWidget] = []
        for axis in ("row", "column"):
            count = label(weight=500)
            self._counts.append(count)
            self._axes_shown.append(boxed(row(Swatch(ctx.icons, "row" if axis == "row" else "column"), count, gap=6)))
        self.axis_card.at_right(*self._axes_shown)
        others = label(weight=500)
        self._counts.append(others)
        self._others = boxed(row(ColourKey(ctx.theme, self.axes.other_colour), others, gap=6))
        self.axis_card.at_right(self._others)
        self.stored = PartsLegend(ctx.theme, self.axes)
        self._no_axes = label("This delta has no layers with scales.", tone="faded")
        self._no_axes.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.axis_card.add(self.stored, self.axes, self._no_axes)
        self.axis_card.body.setStretch(2, 1)
        self.load_card = LoadCard(ctx)
        self.size_card = Card("Size", "of the weights on disk")
        self.size_card.add(self.sizes)
        self.size_card.body.setStretch(1, 1)
        self._cards = QWidget()
        self._grid = QGridLayout(self._cards)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setSpacing(12)
        self._columns = 0
        self._arrange(2)
        for chart in (self.scatter, self.sizes, self.load_card.bars):
            chart.picked.connect(self._picked)

    def _arrange(self, columns: int) -> None:
        if columns == self._columns:
            return
        self._columns = columns
        for i, card in enumerate((self.fidelity_card, self.axis_card, self.load_card, self.size_card)):
            self._grid.addWidget(card, i // columns, i % columns)
        for i in range(4):
            self._grid.setColumnStretch(i, (58, 42)[i] if i < columns else 0)

    # ------------------------------------------------------------------------------------------------ what is chosen
    def chosen(self) -> list[DeltaEntry]:
        """The chosen deltas that the library has, in their order."""
        return [e for p in self._chosen if (e := self._ctx.library.entry(p)) is not None and e.usable]

    @property
    def accent(self) -> Path | None:
        """The delta that is highlighted."""
        return self._accent

    def _asked(self, paths: Iterable[Path]) -> None:
        self._ctx.library.compare_wanted = ()
        self.add_all(paths)

    def add_all(self, paths: Iterable[Path]) -> None:
        """Add deltas (those not in the library yet as soon as they are), and highlight the first of them."""
        asked = [Path(p) for p in paths]
        known = [p for p in asked if self._ctx.library.entry(p) is not None]
        self._wanted += [p for p in asked if p not in known and p not in self._wanted]
        refused = [p for p in known if not self._add(p)]
        if refused:
            self._ctx.notify(f"{MOST} deltas fit at once. Take one out to add another.", "warning")
        if first := next((p for p in known if p in self._chosen), None):
            self._accent = first
        self._show()

    def _add(self, path: Path) -> bool:
        if path in self._chosen:
            return True
        if len(self._chosen) >= MOST:
            return False
        self._chosen.append(path)
        self._shapes[path] = next(s for s in SHAPES if s not in self._shapes.values())
        return True

    def remove(self, path: Path) -> None:
        """Take a delta out."""
        if path in self._chosen:
            at = self._chosen.index(path)
            self._chosen.remove(path)
            self._shapes.pop(path, None)
            if self._accent == path:
                self._accent = self._chosen[min(at, len(self._chosen) - 1)] if self._chosen else None
            self._show()

    def toggle(self, path: Path) -> None:
        """Add a delta, or take it out."""
        if path in self._chosen:
            self.remove(path)
        else:
            self._add(path)
            self._show()

    def highlight(self, path: Path) -> None:
        """Show a chosen delta in accent, in all charts; one that is not chosen is added."""
        if self._add(path):
            self._accent = path
            self._show()

    def _picked(self, key: str) -> None:
        if key:
            self.highlight(Path(key))

    # -------------------------------------------------------------------------------------------------- benchmarks
    def load_benchmark(self) -> None:
        """Ask for a benchmark's table, and draw its curves."""
        path, _ = QFileDialog.getOpenFileName(self, "Load a benchmark", str(Path.home()), "Benchmark (*.json);;All files (*)")
        if path:
            self.take_benchmark(Path(path))

    def take_benchmark(self, path: Path) -> None:
        """Draw the curves of a benchmark."""
        try:
            self._benchmark = read_benchmark(path)
        except (DeltadeckError, OSError) as e:
            self._ctx.show_error(Failure.of(e))
            return
        self._show()

    def drop_benchmark(self) -> None:
        """Take them away again."""
        self._benchmark = None
        self._show()

    # ------------------------------------------------------------------------------------------------------ showing
    def shown(self) -> None:
        """The page came on screen."""
        if not self._ctx.library.entries():
            self._ctx.library.refresh()

    def _library_changed(self) -> None:
        library = self._ctx.library
        if not library.loading:
            for path in [p for p in self._chosen if library.entry(p) is None]:
                self._follow(path)
        arrived = [p for p in self._wanted if library.entry(p) is not None]
        self._wanted = [p for p in self._wanted if p not in arrived]
        for path in arrived:
            if self._add(path):
                self._accent = path
        self._show()

    def _follow(self, path: Path) -> None:
        """A chosen delta is not where it was: go on with the same one under its new name, or let go of it."""
        others = (e for e in self._ctx.library.entries() if e.sha256 and e.sha256 == self._hashes.get(path))
        new = next((e.path for e in others if e.path not in self._chosen), None)
        shape, at = self._shapes.pop(path), self._chosen.index(path)
        if new is None:
            self._chosen.pop(at)
            return
        self._chosen[at], self._shapes[new] = new, shape
        if self._accent == path:
            self._accent = new

    def _show(self) -> None:
        chosen = self.chosen()
        self._hashes = {e.path: e.sha256 for e in chosen}
        if self._accent not in [e.path for e in chosen]:
            self._accent = chosen[0].path if chosen else None
        self.header.caption.setText(facts.page_caption(chosen))
        self.chips.show_chosen(chosen, self._shapes, self._accent)
        self.chips.setVisible(bool(chosen))
        is_something = bool(chosen) or self._benchmark is not None
        for made in (self.copy, self.export):
            made.setEnabled(is_something)
        self.copy.setToolTip("The charts as a picture, and their figures as a table" if is_something else "Choose a delta first")
        self.export.setToolTip("Save charts as PNG, SVG or CSV" if is_something else "Choose a delta first")
        if self._popup is not None:
            self._popup.show_entries(self._ctx.library.entries(), chosen)
        if not is_something:
            self._show_blank()
            self._stack.setCurrentWidget(self._empty)
            return
        self._show_charts(chosen)
        self._stack.setCurrentWidget(self._charts)

    def _show_charts(self, chosen: Sequence[DeltaEntry]) -> None:
        library, found = self._ctx.library.entries(), self._benchmark
        points, levels = facts.points(chosen, self._shapes, self._accent, library), facts.levels(chosen)
        note = facts.fidelity_note(chosen)
        if found is not None:
            points, levels = [*points, *bench_points(found, points)], [*levels, *bench_levels(found, levels)]
            note = f"{bench_note(found)} {note}".strip()
        self._drop.setVisible(found is not None)
        self.scatter.set_points(points, levels)
        self._yardstick.setText(facts.full_caption(chosen))
        self._fidelity_note.setText(note)
        self._fidelity_note.setVisible(bool(note))
        for card in (self.axis_card, self.load_card, self.size_card):
            card.setVisible(bool(chosen))
        if not chosen:
            return
        one = next(e for e in chosen if e.path == self._accent)
        self.axes.set_kinds(one.kinds, one.other_name)
        rows, columns, others = self.axes.totals()
        self.axis_card.caption.setText(one.name)
        self._counts[0].setText(f"Row {rows}")
        self._counts[1].setText(f"Column {columns}")
        self._counts[2].setText(f"{one.other_name} {others}")
        by_codec = self.axes.by_codec
        self.axis_card.title.setText("Storage by layer kind" if by_codec else "Axis by layer kind")
        for made in self._axes_shown:
            made.setVisible(not by_codec)
        self._others.setVisible(bool(others) and not by_codec)
        self.stored.refresh()
        self.axes.setVisible(bool(rows + columns + others))
        self._no_axes.setVisible(not rows + columns + others)
        self.sizes.set_bars(facts.size_bars(chosen, self._accent))
        self.load_card.show_chosen(chosen, self._accent)
        self._share_height(len(self.load_card.bars.keys()))

    def _share_height(self, bars: int) -> None:
        """Give the rows of cards height by what they show: many bars need more of it than few."""
        upper, lower = 400, 34 * bars + 90
        heights = (upper, lower) if self._columns == 2 else (upper, 320, lower, lower)
        for i in range(4):
            self._grid.setRowStretch(i, heights[i] if i < len(heights) else 0)

    def _show_blank(self) -> None:
        """Why there is nothing to see, and the next step; made anew only where that changed."""
        state = blank_state(self._ctx)
        if state != self._state:
            self._state = state
            layout = self._blank.layout()
            assert layout is not None
            clear_layout(layout)
            layout.addWidget(blank_view(self._ctx, self.add_all, self.open_add))

    # ------------------------------------------------------------------------------------------------ add and export
    def open_add(self) -> None:
        """Open the list of the library's deltas."""
        if self._popup is None:
            self._popup = AddPopup(self._ctx, self)
            self._popup.toggled.connect(self.toggle)
        self._popup.show_entries(self._ctx.library.entries(), self.chosen())
        if self.chips.isVisible():
            at = self.chips.add.mapToGlobal(QPoint(0, self.chips.add.height() + 4))
        else:
            at = self.mapToGlobal(QPoint(self.width() // 2 - self._ctx.theme.px(200), self.height() // 2))
        self._popup.open_below(at)

    def figures(self) -> list[Figure]:
        """The four charts with their titles, for pictures."""
        fidelity = Figure("fidelity", "Fidelity against size", _whole(self.fidelity_card.caption), self.scatter,
                          note=self._yardstick.text())
        if not self.chosen():
            return [fidelity]
        cold, warm = self.load_card.bars.colours()
        axes = [(part.colour, f"{part.name} {part.count}") for part in self.axes.parts()]
        load = f"{facts.WAYS[self.load_card.shown_way()].lower()}, {_whole(self.load_card.caption)}"
        return [
            fidelity,
            Figure("axis", self.axis_card.title.text(), _whole(self.axis_card.caption), self.axes, tuple(axes)),
            Figure("load", "Load time", load, self.load_card.bars, ((cold, "cold, upper bar"), (warm, "warm, lower bar"))),
            Figure("size", "Size", _whole(self.size_card.caption), self.sizes),
        ]

    def copy_all(self) -> None:
        """Picture and table on the clipboard."""
        copy_figures(self._ctx, self.figures(), facts.table(self.chosen()), _whole(self.header.caption))

    def _open_export(self) -> None:
        menu = export_menu(self.figures(), self._export, self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.popup(self.export.mapToGlobal(QPoint(0, self.export.height() + 4)))

    def _export(self, key: str, kind: str) -> None:
        export(self._ctx, self, self.figures(), facts.table(self.chosen()), _whole(self.header.caption), key, kind)

    # ------------------------------------------------------------------------------------------------------- layout
    def _restyle(self) -> None:
        self._state = None
        self._show()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """One column of cards where two would be too narrow."""
        super().resizeEvent(event)
        self._arrange(2 if self.width() >= self._ctx.theme.px(_TWO_COLUMNS) else 1)
        self._share_height(len(self.load_card.bars.keys()))


def _whole(shown: QLabel) -> str:
    """A label's text, also where it is shown with dots."""
    return shown.whole_text() if isinstance(shown, ElidedLabel) else shown.text()
