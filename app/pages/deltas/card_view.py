"""A model card shown as text. It comes with a delta from anywhere: no HTML, nothing loaded, no link followed by itself."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QUrl
from PySide6.QtGui import QTextCharFormat, QTextCursor, QTextDocument, QTextOption
from PySide6.QtWidgets import QTextBrowser, QWidget

from app.theme import Theme
from app.widgets.painting import no_picture


class CardView(QTextBrowser):
    """Markdown without HTML; pictures and other resources are refused, links do nothing but show where they lead."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self.setAccessibleName("Model card")
        self.setProperty("look", "plain")
        self.setOpenLinks(False)
        self.setOpenExternalLinks(False)
        self.setUndoRedoEnabled(False)
        self.setWordWrapMode(QTextOption.WrapMode.WrapAtWordBoundaryOrAnywhere)

    def loadResource(self, kind: int, name: QUrl | str) -> Any:
        """Nothing is loaded, from the disk or from elsewhere: an empty picture stands for every one."""
        return no_picture()

    def show_card(self, text: str) -> None:
        """Show a card's Markdown."""
        self.document().setMarkdown(text, QTextDocument.MarkdownFeature.MarkdownDialectGitHub
                                    | QTextDocument.MarkdownFeature.MarkdownNoHTML)
        cursor = QTextCursor(self.document())
        block = self.document().begin()
        while block.isValid():
            cursor.setPosition(block.position())
            shape = block.blockFormat()
            shape.setNonBreakableLines(False)          # a narrow pane: code breaks too
            if level := shape.headingLevel():
                shape.setTopMargin(self._theme.px(10 if level > 1 else 0))
                face = QTextCharFormat()               # anew: a heading's own size adjustment would win over the font
                face.setFont(self._theme.font("big" if level == 1 else "text", 600))
                cursor.movePosition(QTextCursor.MoveOperation.EndOfBlock, QTextCursor.MoveMode.KeepAnchor)
                cursor.setCharFormat(face)
                cursor.setPosition(block.position())
            shape.setBottomMargin(self._theme.px(4))
            cursor.setBlockFormat(shape)
            block = block.next()
        self.moveCursor(QTextCursor.MoveOperation.Start)
        self.verticalScrollBar().setValue(0)
