"""The variants on the deck as chips, with the letters of the columns that they answer in, and the headers of the columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QApplication, QFrame, QLabel, QPushButton, QSizePolicy, QWidget

from app.chat.conversations import SIDES
from app.chat.engine import BASE
from app.icons import Icons
from app.pages.chat.turn import GAP
from app.widgets.basics import ElidedLabel, button, clear_layout, column, key_cap, label, row, set_look, tool_button
from app.widgets.chip import Chip
from app.widgets.flow import FlowLayout
from app.words import plain_tip

_WIDEST = 180


def shown_name(name: str) -> str:
    """The base is a name like any other on screen."""
    return "Base" if name == BASE else name


def _letter_of(column: int) -> QLabel:
    """A column's letter on its ground."""
    made = label(SIDES[column])
    made.setProperty("look", "letter")
    made.setAlignment(Qt.AlignmentFlag.AlignCenter)
    made.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
    return made


class VariantChip(Chip):
    """One variant. Clicked: the selected column takes it; the cross and Delete take it off the deck."""

    def __init__(self, icons: Icons, name: str, parent: QWidget | None = None) -> None:
        super().__init__(name, removable=name != BASE, parent=parent)
        self.variant = name
        self._letters = [_letter_of(i) for i in range(len(SIDES))]
        for letter in self._letters:
            letter.hide()
        self._name = ElidedLabel(shown_name(name))
        self._name.setProperty("weight", "600")
        self._name.setMaximumWidth(icons.theme.px(_WIDEST))
        self._key = key_cap("")
        for part in (*self._letters, self._name, self._key):
            part.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        line = row(*self._letters, self._name, self._key, gap=6, margins=(10, 0, 10, 0))
        if name != BASE:
            close = tool_button(icons, "close", f"Take {name} off the deck", size=13, clicked=self.remove)
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
        self.setToolTip(plain_tip(tip))
        self.updateGeometry()

    def nextCheckState(self) -> None:
        """Whether it is checked is said by the columns alone."""


class VariantBar(QWidget):
    """All variants, and "Add variant"."""

    picked = Signal(str)
    removed = Signal(object)
    """The name of one that is to be taken off the deck."""
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
        self._letter = _letter_of(index)
        self._name = label(weight=600, elide=True)
        self._facts = label(tone="faded", elide=True)
        self._selected = label("selected", size="small", weight=500, tone="accent")
        self.close_button = tool_button(icons, "close", f"Close column {SIDES[index]}", size=13,
                                        clicked=lambda: self.close_asked.emit(index))
        self.add_button = tool_button(icons, "plus", "Add a column", size=15, clicked=self.add_asked.emit)
        for part in (self._letter, self._name, self._facts, self._selected):
            part.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        line = row(self._letter, self._name, self._facts, self._selected, self.close_button, self.add_button, gap=8,
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
        last = many and self.index == columns - 1
        policy = self.add_button.sizePolicy()
        policy.setRetainSizeWhenHidden(last)           # or the next click there would close the column that the last one added
        self.add_button.setSizePolicy(policy)
        self.add_button.setVisible(last and columns < len(SIDES))
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
        had_focus = False
        if len(self._headers) != len(sides):
            had_focus = self.isAncestorOf(QApplication.focusWidget() or self)
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
        if had_focus:
            self._headers[min(selected, len(sides) - 1)].setFocus(Qt.FocusReason.OtherFocusReason)

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
        self._title, self._text = ElidedLabel(), ElidedLabel()
        for part, weight, shade in ((self._title, "600", "text"), (self._text, "400", "faded")):
            for name, value in (("step", "small"), ("weight", weight), ("tone", shade)):
                part.setProperty(name, value)
        self._titles = "", ""
        self.says_all = True
        """Whether everything it was given is on screen."""
        line = row(self._icon, self._title, self._text, gap=8)
        self.setLayout(line)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        self._timer = QTimer(self, singleShot=True)
        self._timer.timeout.connect(self.hide)
        self.hide()

    def say(self, title: str, text: str = "", *, tone: str = "success", seconds: float = 10.0, short: str = "",
            more: str = "") -> None:
        """Show something; a `tone` of success, warning or faded. `short` stands for the title where there is little room."""
        icon = {"success": "bolt", "warning": "warning"}.get(tone, "clock")
        self._icon.set_icon(icon, "text-faded" if tone == "faded" else tone)
        self._titles = title, short or title
        self._text.setText(text)
        self.setAccessibleName(f"{title}. {text}" if text else title)
        self.setToolTip(plain_tip(f"{self.accessibleName()}\n{more}".strip()))
        self._fit()
        self.show()
        self._timer.start(round(seconds * 1000))

    def set_room(self, width: int) -> None:
        """How wide it may be; what does not fit is left out, not cut."""
        self.setMaximumWidth(width)
        self._fit()

    def _fit(self) -> None:
        room = self.maximumWidth() - 24
        self._title.setText(self._titles[0])
        title = self._title.sizeHint().width()
        self.says_all = title + 8 + self._text.sizeHint().width() <= room
        self._text.setVisible(self.says_all and bool(self._text.whole_text()))
        if title > room:
            self._title.setText(self._titles[1])

    def text(self) -> str:
        """What it says; empty while it is hidden."""
        return self.accessibleName() if not self.isHidden() else ""
