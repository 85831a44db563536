"""What is wrong with a delta, and how an operation went: a title, a sentence of any length, the choice at hand."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtWidgets import QFrame, QHBoxLayout, QPushButton, QSizePolicy, QWidget

from app.icons import Icons
from app.widgets.basics import IconLabel, Tone, column, label, row, set_look

_ICONS = {"success": "done", "warning": "warning", "danger": "error", "faded": "info"}
_LONGEST = 400
"""Letters of a notice; the pane has room for more."""


class TroubleBox(QFrame):
    """A tinted box as high as its text needs."""

    def __init__(self, icons: Icons, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("look", "strip")
        self._icon = IconLabel(icons, "warning", "warning")
        self._title = label(weight=600)
        self._text = label(size="small", wrap=True, selectable=True)
        self._choice = row(gap=8)
        self._choice.addStretch(1)
        words = column(row(self._icon, self._title, None, gap=8), self._text, self._choice, gap=6, margins=(12, 10, 12, 10))
        self.setLayout(words)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        self.hide()

    def show_trouble(self, tone: Tone, title: str, text: str, choice: QPushButton) -> None:
        """Say what is wrong; the former choice goes."""
        set_look(self, tone=tone)
        self._icon.set_icon("error" if tone == "danger" else "warning", tone)
        self._title.setText(title)
        self._text.setText(breakable(text))
        self.setAccessibleName(f"{title}. {text}")
        _drop(self._choice, 1)
        self._choice.insertWidget(0, choice)


class NoticeBar(QFrame):
    """A tinted strip: a title with buttons at its right, and below it more, as high as that needs."""

    def __init__(self, icons: Icons, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("look", "strip")
        self._icon = IconLabel(icons, "info", "text-faded")
        self._title = label(weight=600, wrap=True)     # it may end with the number that was short
        self._text = label(size="small", wrap=True, selectable=True)
        self._buttons = row(gap=8)
        line = row(self._icon, self._title, self._buttons, gap=10)
        line.setStretch(1, 1)
        self.setLayout(column(line, self._text, gap=4, margins=(14, 6, 8, 6)))
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        self.hide()

    def show_words(self, tone: Tone, title: str, text: str = "", buttons: Sequence[QPushButton] = ()) -> None:
        """Say something; the former buttons go."""
        set_look(self, tone=tone)
        self._icon.set_icon(_ICONS[tone], "text-faded" if tone == "faded" else tone)
        self._title.setText(breakable(title))
        self._text.setText(breakable(text if len(text) <= _LONGEST else text[:_LONGEST] + "..."))
        self._text.setVisible(bool(text))
        self.setAccessibleName(f"{title}. {text}" if text else title)
        _drop(self._buttons, 0)
        for made in buttons:
            self._buttons.addWidget(made)


def breakable(text: str) -> str:
    """Long paths have no place to break at but their separators."""
    return text.replace("/", "/\u200b").replace("\\", "\\\u200b")


def _drop(line: QHBoxLayout, keep: int) -> None:
    while line.count() > keep:
        item = line.takeAt(0)
        if item is not None and (old := item.widget()) is not None:
            old.setParent(None)
            old.deleteLater()
