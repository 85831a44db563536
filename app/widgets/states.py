"""What a page shows when there is nothing yet, when something failed, waits or is done."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QGuiApplication, QPainter, QPaintEvent, QPen, QPolygonF
from PySide6.QtWidgets import (
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPlainTextEdit,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from app.icons import Icons
from app.tasks import Failure
from app.theme import Theme
from app.widgets.basics import Card, IconLabel, Tone, button, column, hairline, label, row, set_look


class CardsPicture(QWidget):
    """Three cards fanned out, the middle one with the delta: the picture of an empty page."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        theme.changed.connect(self.update)

    def sizeHint(self) -> QSize:
        """160 x 120."""
        return QSize(160, 120)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw it."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        t = self._theme
        for angle, dx in ((-16, -38), (16, 38)):
            painter.save()
            painter.translate(80 + dx, 66)
            painter.rotate(angle)
            painter.setPen(QPen(t.color("line-strong"), 1.6))
            painter.setBrush(t.color("surface"))
            painter.drawRoundedRect(QRectF(-30, -44, 60, 88), 7, 7)
            painter.restore()
        painter.setPen(QPen(t.color("accent"), 1.8))
        painter.setBrush(t.color("surface-raised"))
        painter.drawRoundedRect(QRectF(48, 16, 64, 92), 7, 7)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(t.color("accent"))
        painter.drawPolygon(QPolygonF([QPointF(80, 44), QPointF(97, 76), QPointF(63, 76)]))
        painter.end()


class EmptyState(QWidget):
    """A picture, what this page is for, and the next step as buttons; below them, optionally, the way in three steps."""

    def __init__(self, theme: Theme, title: str, text: str, buttons: Sequence[QPushButton] = (), footnote: str = "",
                 steps: Sequence[tuple[str, str]] = (), parent: QWidget | None = None) -> None:
        super().__init__(parent)
        centre = Qt.AlignmentFlag.AlignHCenter
        outer = QVBoxLayout(self)
        outer.setContentsMargins(24, 16, 24, 16)
        outer.setSpacing(8)
        outer.addStretch(1)
        outer.addWidget(CardsPicture(theme), 0, centre)
        outer.addSpacing(4)
        outer.addWidget(label(title, size="title", weight=600), 0, centre)
        said = label(text, tone="faded", wrap=True)
        said.setAlignment(centre)
        said.setMaximumWidth(theme.px(560))
        line = row(None, said, None)                   # centred by stretches: an aligned widget would get one line's height
        line.setStretch(1, 20)
        outer.addLayout(line)
        if buttons:
            outer.addSpacing(4)
            outer.addLayout(row(None, *buttons, None))
        if footnote:
            outer.addWidget(label(footnote, size="small", tone="faded"), 0, centre)
        outer.addStretch(1)
        if steps:
            outer.addWidget(hairline())
            outer.addSpacing(8)
            ways = QHBoxLayout()
            ways.setSpacing(24)
            for number, (head, said_there) in enumerate(steps, 1):
                disc = QLabel(str(number))
                disc.setProperty("look", "step")
                disc.setAlignment(Qt.AlignmentFlag.AlignCenter)
                disc.setFixedSize(theme.px(22), theme.px(22))
                text_label = label(said_there, size="small", tone="faded", wrap=True)
                ways.addLayout(column(row(disc, label(head, weight=600), None), text_label, None, gap=6), 1)
            outer.addLayout(ways)


STRIP_ICONS = {"success": "done", "warning": "warning", "danger": "error", "faded": "info"}


class WarningStrip(QFrame):
    """A tinted line: an icon, what is, more of it in plain weight, and the choice at hand as buttons."""

    def __init__(self, icons: Icons, tone: Tone = "warning", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("look", "strip")
        self._icon = IconLabel(icons, STRIP_ICONS[tone], self._role(tone), 18)
        self._title = label(weight=600, wrap=True)
        self._text = label(wrap=True)
        policy = self._title.sizePolicy()
        policy.setHorizontalPolicy(QSizePolicy.Policy.Preferred)
        self._title.setSizePolicy(policy)
        self._buttons = row(gap=8)
        words = row(self._title, self._text, gap=12)
        words.setStretch(1, 1)
        line = row(self._icon, words, self._buttons, gap=10, margins=(14, 8, 10, 8))
        line.setStretch(1, 1)
        self.setLayout(line)
        self.setMinimumHeight(44)
        self.show_words(tone, "", "")

    @staticmethod
    def _role(tone: Tone) -> str:
        return "text-faded" if tone == "faded" else tone

    def show_words(self, tone: Tone, title: str, text: str = "", buttons: Sequence[QPushButton] = ()) -> None:
        """Say something else; the former buttons go."""
        set_look(self, tone=tone)
        self._icon.set_icon(STRIP_ICONS[tone], self._role(tone))
        self._title.setText(title)
        self._text.setText(text)
        # A short title keeps to one line; what explains it takes the rest.
        self._title.setWordWrap(not text)
        self._text.setVisible(bool(text))
        self.setAccessibleName(f"{title}. {text}" if text else title)
        while (item := self._buttons.takeAt(0)) is not None:
            if (old := item.widget()) is not None:
                old.setParent(None)
                old.deleteLater()
        for made in buttons:
            self._buttons.addWidget(made)


class ErrorView(QWidget):
    """A failure in three sentences, the remedy as buttons, and details to copy, folded."""

    def __init__(self, icons: Icons, failure: Failure, buttons: Sequence[QPushButton] = (), *, title: str = "",
                 parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._failure = failure
        self.setAccessibleName(title or failure.what)
        grid = QGridLayout()
        grid.setHorizontalSpacing(16)
        grid.setVerticalSpacing(6)
        grid.setColumnStretch(1, 1)
        sentences = [("What", failure.what if title else ""), ("Why", failure.why), ("What to do", failure.remedy)]
        for at, (name, sentence) in enumerate((n, s) for n, s in sentences if s):
            grid.addWidget(label(name, weight=600), at, 0, Qt.AlignmentFlag.AlignTop)
            said = label(sentence, wrap=True, selectable=True)
            said.setAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop)
            grid.addWidget(said, at, 1)
        self._details = QPlainTextEdit(failure.details)
        self._details.setReadOnly(True)
        self._details.setAccessibleName("Details")
        self._details.setProperty("look", "plain")
        self._details.setFont(icons.theme.font("small", mono=True))
        self._details.setMinimumHeight(120)
        self._well = QFrame()
        self._well.setProperty("look", "well")
        self._well.setLayout(column(self._details, margins=(12, 8, 12, 8)))
        self._well.hide()
        self._fold = button("Show details", "ghost", icons=icons, icon="chevron-down", clicked=self._toggle)
        copy = button("Copy details", icons=icons, icon="copy", clicked=self.copy)
        head = label(title or failure.what, size="big", weight=600, wrap=True)
        line = row(IconLabel(icons, "error", "danger", 20), head, gap=10)
        line.setStretch(1, 1)
        self.setLayout(column(line, grid, 2, row(*buttons, copy, None, self._fold), self._well, gap=8))

    def copy(self) -> None:
        """Put everything on the clipboard."""
        f = self._failure
        QGuiApplication.clipboard().setText("\n".join(x for x in (f.what, f.why, f.remedy, f.details, versions()) if x))

    def _toggle(self) -> None:
        self._well.setVisible(not self._well.isVisible())
        self._fold.setText("Hide details" if self._well.isVisible() else "Show details")


class ErrorCard(Card):
    """A failure as a card of a page."""

    def __init__(self, icons: Icons, failure: Failure, buttons: Sequence[QPushButton] = (), *, title: str = "",
                 parent: QWidget | None = None) -> None:
        super().__init__(parent=parent)
        self.view = ErrorView(icons, failure, buttons, title=title)
        self.add(self.view)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)


class DoneCard(Card):
    """Something came out well: what, how well, what to do with it, how long it took."""

    def __init__(self, icons: Icons, title: str, text: str, buttons: Sequence[QPushButton] = (), time: str = "",
                 parent: QWidget | None = None) -> None:
        super().__init__(margins=(16, 8, 12, 8), parent=parent)
        self.setAccessibleName(f"{title}. {text}")
        words = column(label(title, size="big", weight=600), label(text, wrap=True), gap=1)
        line = row(IconLabel(icons, "done", "success", 20), words, label(time, tone="faded"), *buttons, gap=12)
        line.setStretch(1, 1)
        self.add(line)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)


class Skeleton(QWidget):
    """Grey bars where facts are being read."""

    def __init__(self, theme: Theme, lines: int = 4, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme, self._lines = theme, lines
        self.setMinimumHeight(lines * theme.px(20))
        self.setAccessibleName("Being read")
        theme.changed.connect(self.update)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw them."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(self._theme.mixed("text-faded", 0.16))
        unit = self._theme.px(20)
        for i in range(self._lines):
            left, right = (76, 62, 84, 76, 70)[i % 5], (170, 132, 114, 156, 140)[i % 5]
            painter.drawRoundedRect(QRectF(0, i * unit + 5, self._theme.px(left), self._theme.px(9)), 4, 4)
            painter.drawRoundedRect(QRectF(self._theme.px(100), i * unit + 5, self._theme.px(right), self._theme.px(9)), 4, 4)
        painter.end()


def versions() -> str:
    """Versions of what matters, for a report of an error."""
    import platform

    import PySide6

    from core import __version__

    return f"deltadeck {__version__}, Python {platform.python_version()}, PySide6 {PySide6.__version__}, {platform.platform()}"
