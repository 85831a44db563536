"""An answer's text: prose as Markdown without HTML, code blocks with a button that copies them. Loads nothing from anywhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from PySide6.QtCore import QEvent, QSize, Qt, QTimer, QUrl, Signal
from PySide6.QtGui import (
    QColor,
    QGuiApplication,
    QPalette,
    QResizeEvent,
    QTextBlockFormat,
    QTextCursor,
    QTextDocument,
    QTextListFormat,
    QWheelEvent,
)
from PySide6.QtWidgets import QFrame, QSizePolicy, QTextBrowser, QTextEdit, QVBoxLayout, QWidget

from app.chat.text import Part, split
from app.icons import Icons
from app.theme import Theme
from app.widgets.basics import column, label, row, tool_button
from app.widgets.painting import no_picture

_RENDER = 100
"""Milliseconds between two renderings of a text that grows."""
_LEADING = 1.42
"""Height of a line of prose, in lines."""


def _kept_breaks(text: str) -> str:
    """Line breaks as they were written: Markdown takes a single one for a space, and models mean it."""
    return re.sub(r"(?<=[^\n]) *\n(?=[^\n])", "  \n", text)


class Prose(QTextBrowser):
    """A text that is as high as its content and never scrolls by itself. Links are told by `link_wanted`, not followed."""

    link_wanted = Signal(str)

    def __init__(self, theme: Theme, name: str, *, code: bool = False, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme, self._code = theme, code
        self._whole = ""
        self.setProperty("look", "plain")
        self.setAccessibleName(name)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setOpenLinks(False)
        self.setOpenExternalLinks(False)
        self.setUndoRedoEnabled(False)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAsNeeded if code else Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        if code:
            self.setLineWrapMode(QTextEdit.LineWrapMode.NoWrap)
        self.setSizePolicy(QSizePolicy.Policy.Ignored if code else QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.document().setDocumentMargin(0)
        self.viewport().setAutoFillBackground(False)
        self.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        self.anchorClicked.connect(self._clicked)
        self._style()

    def _style(self) -> None:
        font = self._theme.font("small" if self._code else "text", mono=self._code)
        self.document().setDefaultFont(font)
        self.setFont(font)
        palette = self.palette()
        palette.setColor(QPalette.ColorRole.Link, self._theme.color("accent"))
        palette.setColor(QPalette.ColorRole.Text, self._theme.color("text"))
        self.setPalette(palette)

    def show_text(self, text: str, *, cursor: bool = False) -> None:
        """Show other text; with `cursor`, a mark of the place where more is to come."""
        self._whole = text
        document = self.document()
        if self._code:
            document.setPlainText(text)
        else:
            document.setMarkdown(_kept_breaks(text), QTextDocument.MarkdownFeature.MarkdownNoHTML |
                                 QTextDocument.MarkdownFeature.MarkdownDialectGitHub)
            self._set_type()
        if cursor:
            place = QTextCursor(document)
            place.movePosition(QTextCursor.MoveOperation.End)
            form = place.charFormat()
            form.setForeground(self._theme.color("accent"))
            place.insertText("\u258d", form)
        self.fit()

    def _set_type(self) -> None:
        """Our line height, gaps and sizes of headings in place of the document's own."""
        t, document = self._theme, self.document()
        at = QTextCursor(document)
        at.beginEditBlock()
        block = document.begin()
        while block.isValid():
            at.setPosition(block.position())
            form = QTextBlockFormat()
            form.setLineHeight(_LEADING * 100, QTextBlockFormat.LineHeightTypes.ProportionalHeight.value)
            listed, first = block.textList(), block.blockNumber() == 0
            form.setTopMargin(0 if first else t.px(2 if listed is not None else 8))
            form.setBottomMargin(0)
            at.mergeBlockFormat(form)
            if (level := block.blockFormat().headingLevel()):
                at.movePosition(QTextCursor.MoveOperation.EndOfBlock, QTextCursor.MoveMode.KeepAnchor)
                chars = at.charFormat()
                font = t.font("big" if level <= 2 else "text", 600)
                chars.setFont(font)
                at.mergeCharFormat(chars)
            elif listed is not None and (style := listed.format()).indent() <= 1 and document.indentWidth() != t.px(21):
                document.setIndentWidth(t.px(21))
                if style.style() == QTextListFormat.Style.ListDecimal:
                    listed.setFormat(style)
            block = block.next()
        at.endEditBlock()

    def fit(self) -> None:
        """Take the height that the text needs at this width."""
        document = self.document()
        if self._code:
            document.setTextWidth(-1)
            bar = self.horizontalScrollBar()
            wide = document.idealWidth() > self.viewport().width()
            height = document.size().height() + (bar.sizeHint().height() + 2 if wide else 0)
        else:
            document.setTextWidth(max(40, self.width()))
            height = document.size().height()
        if self.height() != round(height) + 1:
            self.setFixedHeight(round(height) + 1)

    def mark(self, spans: Sequence[tuple[int, int]], ground: QColor) -> None:
        """Lay a colour under some of its characters."""
        marks = []
        for start, end in spans:
            one: Any = QTextEdit.ExtraSelection()
            cursor = QTextCursor(self.document())
            cursor.setPosition(start)
            cursor.setPosition(end, QTextCursor.MoveMode.KeepAnchor)
            one.cursor = cursor
            one.format.setBackground(ground)
            marks.append(one)
        self.setExtraSelections(marks)

    def loadResource(self, type: int, name: QUrl | str) -> Any:
        """An empty picture: an answer must not make the program read a file or ask the network."""
        return no_picture()

    def _clicked(self, url: QUrl) -> None:
        self.link_wanted.emit(url.toString())

    def sizeHint(self) -> QSize:
        """As high as it is."""
        return QSize(200, self.height())

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Another width needs another height."""
        super().resizeEvent(event)
        if event.oldSize().width() != event.size().width():
            self.fit()

    def wheelEvent(self, event: QWheelEvent) -> None:
        """For the page, which scrolls; sideways, for a wide block of code."""
        if self._code and event.angleDelta().x():
            super().wheelEvent(event)
        else:
            event.ignore()


class Code(QFrame):
    """A block of code: its language, a button that copies it, and the text as it is."""

    def __init__(self, icons: Icons, language: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("look", "well")
        self._language = label(language or "code", size="tick", tone="faded")
        self.body = Prose(icons.theme, "Code", code=True)
        self.copy = tool_button(icons, "copy", "Copy the code", size=14, clicked=self._copy)
        self._text = ""
        head = row(self._language, None, self.copy, margins=(10, 2, 4, 0))
        inside = column(self.body, margins=(10, 0, 10, 8))
        self.setLayout(column(head, inside, gap=0))

    def show_code(self, text: str, language: str, *, cursor: bool) -> None:
        """Show other code."""
        self._text = text
        self._language.setText(language or "code")
        self.body.show_text(text, cursor=cursor)

    def _copy(self) -> None:
        QGuiApplication.clipboard().setText(self._text)


class MarkdownView(QWidget):
    """A text in parts. While it grows, only what changed is rendered anew, and at most ten times a second."""

    link_wanted = Signal(str)

    def __init__(self, icons: Icons, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._icons, self._name = icons, name
        self._parts: list[Part] = []
        self._views: list[Prose | Code] = []
        self._text, self._growing = "", False
        self.rendered = 0
        """How many parts were rendered so far."""
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.setSpacing(8)
        self._timer = QTimer(self, singleShot=True, interval=_RENDER)
        self._timer.timeout.connect(self._late)
        self._late_wanted = False
        self._dark = icons.theme.dark

    def show_text(self, text: str, *, growing: bool = False) -> None:
        """Show a text; while it is `growing` this may be called as often as one likes."""
        if text == self._text and growing == self._growing and (self._views or not growing):
            return
        ended = self._growing and not growing
        self._text, self._growing = text, growing
        if growing and self._timer.isActive():
            self._late_wanted = True
            return
        self._late_wanted = False
        if ended:
            self._timer.stop()
        self._render()
        if growing:
            self._timer.start()

    def _late(self) -> None:
        if self._late_wanted:
            self._late_wanted = False
            self._render()
            self._timer.start()

    def _render(self) -> None:
        parts = list(split(self._text, growing=self._growing)) or [Part("prose", "")]
        last = len(parts) - 1
        for at, part in enumerate(parts):
            known = self._parts[at] if at < len(self._parts) else None
            if known is not None and known.kind != part.kind:
                self._drop(at)
                known = None
            if at >= len(self._views):
                self._views.append(self._made(part))
                self._layout.addWidget(self._views[at])
            cursor = self._growing and at == last
            if known != part or cursor or at == len(self._parts) - 1:
                self._show(self._views[at], part, cursor)
        self._drop(len(parts))
        self._parts = parts

    def _made(self, part: Part) -> Prose | Code:
        made: Prose | Code
        if part.kind == "code":
            made = Code(self._icons, part.language)
        else:
            made = Prose(self._icons.theme, self._name)
            made.link_wanted.connect(self.link_wanted)
        made.setParent(self)
        if isinstance(made, Prose):
            made.resize(max(80, self.width()), 10)
        return made

    def _show(self, view: Prose | Code, part: Part, cursor: bool) -> None:
        self.rendered += 1
        if isinstance(view, Code):
            view.show_code(part.text, part.language, cursor=cursor)
        else:
            view.show_text(part.text, cursor=cursor)

    def _drop(self, start: int) -> None:
        while len(self._views) > start:
            gone = self._views.pop()
            self._layout.removeWidget(gone)
            gone.hide()
            gone.deleteLater()
        del self._parts[start:]

    def texts(self) -> list[str]:
        """What stands in each part, as it is shown."""
        return [(v.body if isinstance(v, Code) else v).toPlainText() for v in self._views]

    def mark(self, spans: Sequence[Sequence[tuple[int, int]]]) -> None:
        """Lay the colour of a difference under some characters of each part."""
        ground = self._icons.theme.mixed("accent", 0.22, "surface")
        for view, found in zip(self._views, spans, strict=False):
            (view.body if isinstance(view, Code) else view).mark(found, ground)

    def restyle(self) -> None:
        """Fonts and colours of the theme in force."""
        for view, part in zip(self._views, self._parts, strict=True):
            prose = view.body if isinstance(view, Code) else view
            prose._style()
            self._show(view, part, self._growing and view is self._views[-1])

    def event(self, event: QEvent) -> bool:
        """Stay as high as the parts."""
        if event.type() == QEvent.Type.LayoutRequest:
            self.updateGeometry()
        return super().event(event)
