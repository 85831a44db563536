"""The rail's items, and how each page is made."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QSize, Qt
from PySide6.QtWidgets import QFrame, QLabel, QPushButton, QWidget

from app.context import Context
from app.icons import Icons
from app.widgets.basics import row


def page_makers() -> dict[str, Callable[[Context], QWidget]]:
    """How each page is made. A page's module is imported when it is first shown: start-up must not wait for plots."""
    def compress(ctx: Context) -> QWidget:
        from app.pages.compress import CompressPage
        return CompressPage(ctx)

    def run(ctx: Context) -> QWidget:
        from app.pages.run import RunPage
        return RunPage(ctx)

    def deltas(ctx: Context) -> QWidget:
        from app.pages.deltas import DeltasPage
        return DeltasPage(ctx)

    def compare(ctx: Context) -> QWidget:
        from app.pages.compare import ComparePage
        return ComparePage(ctx)

    def chat(ctx: Context) -> QWidget:
        from app.pages.chat import ChatPage
        return ChatPage(ctx)

    def settings(ctx: Context) -> QWidget:
        from app.pages.settings import SettingsPage
        return SettingsPage(ctx)
    return {"compress": compress, "run": run, "deltas": deltas, "compare": compare, "chat": chat,
            "settings": settings}


class RailItem(QPushButton):
    """A page in the rail: icon, name, and a quiet count at the right."""

    def __init__(self, icons: Icons, icon: str, text: str, keys: str, parent: QWidget | None = None) -> None:
        super().__init__(text, parent)
        self._icons, self._name = icons, icon
        self.setProperty("look", "rail")
        self.setCheckable(True)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setToolTip(f"{text} ({keys})" if keys else text)
        self.setAccessibleName(text)
        self._count = QLabel("", self)
        self._count.setProperty("step", "small")
        self._count.setProperty("tone", "faded")
        self._count.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.setLayout(row(None, self._count, margins=(0, 0, 10, 0)))
        self._bar = QFrame(self)
        icons.theme.changed.connect(self.draw)
        self.toggled.connect(self.draw)
        self.draw()

    def set_count(self, text: str) -> None:
        """The count at the right, empty for none."""
        if self._count.text() != text:
            self._count.setText(text)
            self.setAccessibleDescription(text)

    def draw(self) -> None:
        """Icon and bar in the colours of the state."""
        chosen = self.isChecked()
        t = self._icons.theme
        self.setIcon(self._icons.icon(self._name, "accent" if chosen else "text-faded", gap=8))
        self.setIconSize(QSize(t.px(18) + t.px(8), t.px(18)))
        self._bar.setStyleSheet(f"background: {t.color('accent').name()}; border-radius: 1px;")
        self._bar.setGeometry(0, 7, 3, max(8, t.px(36) - 14))
        self._bar.setVisible(chosen)

    def sizeHint(self) -> QSize:
        """With room for the icon's gap."""
        hint = super().sizeHint()
        return QSize(hint.width(), self._icons.theme.px(36))
