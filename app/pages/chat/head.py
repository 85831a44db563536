"""The page's header: the base, one or several columns, conversations, a new one, the drawer."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QPushButton, QWidget

from app.actions import Act
from app.context import Context
from app.widgets.basics import Segmented, button, label, row, tool_button


class ChatHeader(QWidget):
    """Title at the left, choices at the right; 64 high."""

    mode_chosen = Signal(str)
    """one or side"""

    def __init__(self, ctx: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._icons = ctx.icons
        icons = ctx.icons
        self._on = label("on", tone="faded")
        self.base = label(weight=600, elide=True)
        self.mode = Segmented((("one", "One"), ("side", "Side by side")), "Columns")
        self.mode.chosen.connect(self.mode_chosen)
        self.differ = tool_button(icons, "differ", "Show words that differ", tip="Show the words in which the answers differ")
        self.differ.setCheckable(True)
        self.history = tool_button(icons, "clock", "Conversations",
                                   tip=f"Conversations: search, open, export ({ctx.actions.keys(Act.CHATS)})")
        self.new = button("New chat", icons=icons, icon="plus", tip=f"New chat ({ctx.actions.keys(Act.NEW_CHAT)})")
        self.sampling = button("Sampling", icons=icons, icon="settings", tip="Sampling, system prompt and deck")
        self.sampling.setCheckable(True)
        line = row(label("Chat", size="title", weight=600), 6, self._on, self.base, self.differ, self.history, self.mode,
                   self.new, self.sampling, gap=8)
        line.setStretch(3, 1)
        self.setLayout(line)
        self.setMinimumHeight(64)
        icons.theme.changed.connect(self._draw)
        self._draw()

    def _draw(self) -> None:
        for made, icon in zip(self.mode.findChildren(QPushButton), ("column-one", "columns"), strict=True):
            made.setIcon(self._icons.icon(icon, "text-faded", 16, 4))

    def show_state(self, base: str, columns: int, *, loaded: bool, talking: bool) -> None:
        """What there is to choose."""
        self._on.setVisible(bool(base))
        self.base.setText(f"{base}, not loaded" if base and talking and not loaded else base)
        self.mode.set_value("side" if columns > 1 else "one")
        self.mode.setVisible(talking)
        self.mode.setEnabled(loaded)
        self.mode.setToolTip("" if loaded else "Load the base first")
        self.differ.setVisible(talking and columns > 1)
        self.new.setVisible(talking)
        self.sampling.setVisible(talking)
