"""The chosen deltas as chips: mark, name, KL, and a button that takes the delta out again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QSizePolicy, QWidget

from app.context import Context
from app.icons import Icons
from app.library.entry import DeltaEntry
from app.pages.compare.facts import chip_figures, kl_text
from app.widgets.basics import ElidedLabel, button, label, row, set_look, tool_button
from app.widgets.charts.marks import MarkLabel
from app.widgets.chip import Chip
from app.widgets.flow import FlowLayout
from app.words import plain_tip, recovered

_WIDEST = 170


class DeltaChip(Chip):
    """One chosen delta. Clicked: it becomes the accent; the cross and Delete take it out."""

    def __init__(self, icons: Icons, entry: DeltaEntry, shape: str, parent: QWidget | None = None) -> None:
        super().__init__(entry.path, parent=parent)
        self.path = entry.path
        self._mark = MarkLabel(icons.theme, shape)
        self._name = ElidedLabel()
        self._name.setProperty("weight", "600")
        self._kl = label(tone="faded", size="small")
        self._close = tool_button(icons, "close", f"Take {entry.name} out", size=14, clicked=self.remove)
        self._close.setFocusPolicy(Qt.FocusPolicy.NoFocus)   # Delete does it, by keyboard
        for part in (self._mark, self._name, self._kl):
            part.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        line = row(self._mark, self._name, self._kl, self._close, gap=6, margins=(10, 0, 3, 0))
        self.setLayout(line)
        self.show_entry(entry, shape, False)

    def show_entry(self, entry: DeltaEntry, shape: str, accent: bool, figure: str = "") -> None:
        """Show a delta's facts; `figure` stands beside its name."""
        self._mark.show_mark(shape, accent)
        self._name.setText(entry.name)
        self._name.setMaximumWidth(_WIDEST)
        self._kl.setText(figure)
        self._kl.setVisible(bool(figure))
        self.setChecked(accent)
        said = f"KL {kl_text(entry)}" if entry.kl is not None else "no KL measured"
        if entry.recovery is not None:
            said += f", recovery {recovered(entry.recovery)}"
        self.setAccessibleName(f"{entry.name}, {said}{', highlighted' if accent else ''}")
        self.setToolTip(plain_tip(
            f"{entry.name}\n{entry.method or 'Unknown method'}, {said}, base {entry.base_name or 'unknown'}\n"
            "Click to highlight it in all charts, Delete takes it out"))
        self.updateGeometry()

    def nextCheckState(self) -> None:
        """A click never lets go of the accent."""
        self.setChecked(True)


class ChipBar(QWidget):
    """All chips and "Add". `picked(path)`, `removed(path)` and `add_asked` tell what the user wants."""

    picked = Signal(object)
    removed = Signal(object)
    add_asked = Signal()

    def __init__(self, ctx: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._icons = ctx.icons
        self._chips: dict[Path, DeltaChip] = {}
        self._order: list[Path] = []
        self.setAccessibleName("Chosen deltas")
        self.add = button("Add", "ghost", icons=ctx.icons, icon="plus", tip="Choose deltas of the library", name="Add a delta",
                          clicked=self.add_asked.emit)
        self.flow = FlowLayout(self)
        self.flow.addWidget(self.add)
        policy = QSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)

    def show_chosen(self, chosen: Sequence[DeltaEntry], shapes: Mapping[Path, str], accent: Path | None) -> None:
        """Show these, in their order."""
        for path in [p for p in self._chips if all(e.path != p for e in chosen)]:
            gone = self._chips.pop(path)
            self.flow.removeWidget(gone)
            gone.hide()
            gone.deleteLater()
        self._order = [e.path for e in chosen]
        figures = chip_figures(chosen)
        for at, entry in enumerate(chosen):
            chip = self._chips.get(entry.path)
            if chip is None:
                chip = self._chips[entry.path] = DeltaChip(self._icons, entry, shapes.get(entry.path, "circle"), self)
                chip.clicked.connect(self._clicked)
                chip.removed.connect(self._take_out)
                chip.moved.connect(self._go)
                self.flow.insert(at, chip)
                chip.show()
            chip.show_entry(entry, shapes.get(entry.path, "circle"), entry.path == accent, figures[entry.path])
            # One stop for the tab key: arrows go on from there.
            chip.setFocusPolicy(Qt.FocusPolicy.StrongFocus if entry.path == accent else Qt.FocusPolicy.ClickFocus)
            set_look(chip, tone="accent" if entry.path == accent else "text")
        self.updateGeometry()

    def chip(self, path: Path) -> DeltaChip:
        """The chip of a delta. Raises KeyError."""
        return self._chips[path]

    def _clicked(self) -> None:
        chip = self.sender()
        if isinstance(chip, DeltaChip):
            self.picked.emit(chip.path)

    def _go(self, step: int) -> None:
        chip = self.sender()
        if isinstance(chip, DeltaChip) and chip.path in self._order:
            path = self._order[(self._order.index(chip.path) + step) % len(self._order)]
            self.picked.emit(path)
            self._chips[path].setFocus(Qt.FocusReason.TabFocusReason)

    def _take_out(self, path: Path) -> None:
        if path not in self._order:
            return
        at, had_focus = self._order.index(path), self._chips[path].hasFocus()
        self.removed.emit(path)
        if had_focus and self._order:
            self._chips[self._order[min(at, len(self._order) - 1)]].setFocus(Qt.FocusReason.TabFocusReason)
        elif had_focus:
            self.add.setFocus(Qt.FocusReason.TabFocusReason)

    def heightForWidth(self, width: int) -> int:
        """Of all lines."""
        return self.flow.heightForWidth(width)

    def hasHeightForWidth(self) -> bool:
        """Narrower means higher."""
        return True
