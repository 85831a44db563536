"""The variants on the deck as chips, with the letters of the columns that they answer in, and the headers of the columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PySide6.QtCore import QEvent, QSize, Qt, Signal
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QFrame, QPushButton, QSizePolicy, QWidget

from app.chat.conversations import SIDES
from app.chat.engine import BASE
from app.icons import Icons
from app.pages.chat.turn import GAP
from app.widgets.basics import ElidedLabel, button, clear_layout, column, key_cap, label, row, set_look, tool_button
from app.widgets.flow import FlowLayout

_WIDEST = 180


def shown_name(name: str) -> str:
    """The base is a name like any other on screen."""
    return "Base" if name == BASE else name


class VariantChip(QPushButton):
    """One variant. Clicked: the selected column takes it; the cross and Delete take it off the deck."""

    removed = Signal(str)
    moved = Signal(int)

    def __init__(self, icons: Icons, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.variant = name
        self.setProperty("look", "chip")
        self.setCheckable(True)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self._letters = [label(x) for x in SIDES]
        for letter in self._letters:
            letter.setProperty("look", "letter")
            letter.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
            letter.hide()
        self._name = ElidedLabel(shown_name(name))
        self._name.setProperty("weight", "600")
        self._name.setMaximumWidth(icons.theme.px(_WIDEST))
        self._key = key_cap("")
        for part in (*self._letters, self._name, self._key):
            part.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        line = row(*self._letters, self._name, self._key, gap=6, margins=(10, 0, 10, 0))
        if name != BASE:
            close = tool_button(icons, "close", f"Take {name} off the deck", size=13, clicked=lambda: self.removed.emit(name))
            close.setFocusPolicy(Qt.FocusPolicy.NoFocus)   # Delete does it, by keyboard
            line.addWidget(close)
            line.setContentsMargins(10, 0, 4, 0)
        self.setLayout(line)

    def show_state(self, letters: Sequence[str], number: int, tip: str, *, side_by_side: bool) -> None:
        """The columns it is in, and its number for the keys."""
        for made, letter in zip(self._letters, SIDES, strict=True):
            made.setVisible(side_by_side and letter in letters)
        self._name.setMaximumWidth(self._name.sizeHint().width() if self._name.sizeHint().width() < _WIDEST else _WIDEST)
        self._key.setText(f"Ctrl+{number}")
        self._key.setVisible(number <= 9)
        self.setChecked(bool(letters))
        where = f", in column {' and '.join(letters)}" if letters and side_by_side else ", answers now" if letters else ""
        self.setAccessibleName(f"{shown_name(self.variant)}{where}")
        self.setToolTip(tip)
        self.updateGeometry()

    def sizeHint(self) -> QSize:
        """As its parts need."""
        layout = self.layout()
        return QSize(layout.sizeHint().width() if layout is not None else 0, super().sizeHint().height())

    def minimumSizeHint(self) -> QSize:
        """As it is: lines break between chips."""
        return self.sizeHint()

    def nextCheckState(self) -> None:
        """Whether it is checked is said by the columns alone."""

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Arrows go to a neighbour, Delete takes off."""
        key = event.key()
        if key in (Qt.Key.Key_Left, Qt.Key.Key_Right):
            self.moved.emit(-1 if key == Qt.Key.Key_Left else 1)
        elif key in (Qt.Key.Key_Delete, Qt.Key.Key_Backspace) and self.variant != BASE:
            self.removed.emit(self.variant)
        elif key in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.click()
        else:
            super().keyPressEvent(event)

    def changeEvent(self, event: QEvent) -> None:
        """Other fonts need another width."""
        super().changeEvent(event)
        if event.type() in (QEvent.Type.StyleChange, QEvent.Type.FontChange):
            self.updateGeometry()


class VariantBar(QWidget):
    """All variants, and "Add variant"."""

    picked = Signal(str)
    removed = Signal(str)
    add_asked = Signal()

    def __init__(self, icons: Icons, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._icons = icons
        self._chips: dict[str, VariantChip] = {}
        self.setAccessibleName("Variants on the deck")
        self.add = button("Add variant", "ghost", icons=icons, icon="plus", tip="Put a delta or a full fine-tune on the deck",
                          clicked=self.add_asked.emit)
        self.flow = FlowLayout(self)
        self.flow.addWidget(self.add)
        policy = QSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)

    def show_variants(self, names: Sequence[str], sides: Sequence[str], tips: Mapping[str, str]) -> None:
        """Show these, and in which columns they are."""
        for name in [n for n in self._chips if n not in names]:
            gone = self._chips.pop(name)
            self.flow.removeWidget(gone)
            gone.hide()
            gone.deleteLater()
        for at, name in enumerate(names):
            if name not in self._chips:
                made = self._chips[name] = VariantChip(self._icons, name, self)
                made.clicked.connect(self._clicked)
                made.removed.connect(self.removed)
                made.moved.connect(self._go)
                self.flow.insert(at, made)
                made.show()
            letters = [SIDES[i] for i, side in enumerate(sides) if side == name]
            self._chips[name].show_state(letters, at + 1, tips.get(name, ""), side_by_side=len(sides) > 1)
        self.updateGeometry()
        self.flow.invalidate()

    def one_line(self) -> int:
        """The width of all of them on one line."""
        return sum(part.sizeHint().width() + 8 for part in (*self._chips.values(), self.add))

    def chips(self) -> tuple[VariantChip, ...]:
        """In order."""
        return tuple(self._chips.values())

    def _clicked(self) -> None:
        chip = self.sender()
        if isinstance(chip, VariantChip):
            self.picked.emit(chip.variant)

    def _go(self, step: int) -> None:
        chip = self.sender()
        chips = self.chips()
        if isinstance(chip, VariantChip) and chip in chips:
            chips[(chips.index(chip) + step) % len(chips)].setFocus(Qt.FocusReason.TabFocusReason)

    def heightForWidth(self, width: int) -> int:
        """Of all lines."""
        return self.flow.heightForWidth(width)

    def hasHeightForWidth(self) -> bool:
        """Narrower means higher."""
        return True


class SideHeader(QPushButton):
    """The head of a column: letter, variant, what it is. Clicked: this column is the selected one."""

    close_asked = Signal(int)
    add_asked = Signal()

    def __init__(self, icons: Icons, index: int, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.index = index
        self.setProperty("look", "side")
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self._letter = label(SIDES[index])
        self._letter.setProperty("look", "letter")
        self._letter.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self._name = label(weight=600, elide=True)
        self._facts = label(tone="faded", elide=True)
        self._selected = label("selected", size="small", weight=500, tone="accent")
        self.close_button = tool_button(icons, "close", f"Close column {SIDES[index]}", size=13,
                                        clicked=lambda: self.close_asked.emit(index))
        self.add_button = tool_button(icons, "plus", "Add a column", size=15, clicked=self.add_asked.emit)
        for part in (self._letter, self._name, self._facts, self._selected):
            part.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        line = row(self._letter, self._name, self._facts, self._selected, self.add_button, self.close_button, gap=8,
                   margins=(12, 0, 4, 2))
        line.setStretch(2, 1)
        self.setLayout(line)
        self.setMinimumHeight(icons.theme.px(36))
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)

    def show_side(self, name: str, facts: str, *, selected: bool, columns: int) -> None:
        """Show a variant."""
        many = columns > 1
        self._letter.setVisible(many)
        self._name.setText(shown_name(name))
        self._facts.setText(facts)
        self._selected.setVisible(selected and many)
        self.close_button.setVisible(columns > 2)
        self.add_button.setVisible(many and columns < len(SIDES) and self.index == columns - 1)
        set_look(self, chosen="true" if selected else "")
        self.setAccessibleName(f"Column {SIDES[self.index]}: {shown_name(name)}, {facts}{', selected' if selected else ''}")
        self.setToolTip("The keys and chips switch this column" if selected else
                        "Select this column: the keys and chips switch it then")


class SideHeaders(QWidget):
    """The heads of all columns."""

    selected = Signal(int)
    close_asked = Signal(int)
    add_asked = Signal()

    def __init__(self, icons: Icons, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._icons = icons
        self._line = row(gap=GAP)
        self._headers: list[SideHeader] = []
        self.setLayout(column(self._line, gap=0))

    def show_sides(self, sides: Sequence[str], selected: int, facts: Mapping[str, str]) -> None:
        """Show the variants of the columns."""
        if len(self._headers) != len(sides):
            clear_layout(self._line)
            self._headers = []
            for index in range(len(sides)):
                made = SideHeader(self._icons, index)
                made.clicked.connect(self._clicked)
                made.close_asked.connect(self.close_asked)
                made.add_asked.connect(self.add_asked)
                self._line.addWidget(made, 1)
                self._headers.append(made)
        for index, (made, name) in enumerate(zip(self._headers, sides, strict=True)):
            made.show_side(name, facts.get(name, ""), selected=index == selected, columns=len(sides))

    def headers(self) -> tuple[SideHeader, ...]:
        """From the left."""
        return tuple(self._headers)

    def _clicked(self) -> None:
        header = self.sender()
        if isinstance(header, SideHeader):
            self.selected.emit(header.index)


class SwitchNote(QFrame):
    """What the last switch did, for some seconds: `pirate switched in 41 ms  211 tensors, base verified`."""

    def __init__(self, icons: Icons, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        from PySide6.QtCore import QTimer

        from app.widgets.basics import IconLabel
        self._icon = IconLabel(icons, "bolt", "success", 16)
        self._title, self._text = label(size="small", weight=600, elide=True), label(size="small", tone="faded", elide=True)
        line = row(self._icon, self._title, self._text, gap=8)
        self.setLayout(line)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        self._timer = QTimer(self, singleShot=True)
        self._timer.timeout.connect(self.hide)
        self.hide()

    def say(self, title: str, text: str = "", *, tone: str = "success", seconds: float = 10.0) -> None:
        """Show something; a `tone` of success, warning or faded."""
        icon = {"success": "bolt", "warning": "warning"}.get(tone, "clock")
        self._icon.set_icon(icon, "text-faded" if tone == "faded" else tone)
        self._title.setText(title)
        self._text.setText(text)
        self.setAccessibleName(f"{title}. {text}" if text else title)
        self.setToolTip(self.accessibleName())
        self.show()
        self._timer.start(round(seconds * 1000))

    def text(self) -> str:
        """What it says; empty while it is hidden."""
        return self.accessibleName() if not self.isHidden() else ""
