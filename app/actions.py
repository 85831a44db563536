"""Every command of the window in one place: text, shortcut, icon, and when it can be used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from PySide6.QtCore import QObject, Qt
from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import QWidget

from app.icons import Icons


class Act(StrEnum):
    """Names of the commands."""

    COMPRESS = "go-compress"
    RUN = "go-run"
    DELTAS = "go-deltas"
    COMPARE = "go-compare"
    CHAT = "go-chat"
    SETTINGS = "go-settings"
    START = "start"
    DEMO = "demo"
    IMPORT = "import"
    SEARCH = "search"
    NEW_CHAT = "new-chat"
    CHATS = "chats"
    STOP = "stop"
    SWITCH_1 = "switch-1"
    SWITCH_2 = "switch-2"
    SWITCH_3 = "switch-3"
    SWITCH_4 = "switch-4"
    SWITCH_5 = "switch-5"
    SWITCH_6 = "switch-6"
    SWITCH_7 = "switch-7"
    SWITCH_8 = "switch-8"
    SWITCH_9 = "switch-9"
    LARGER = "larger"
    SMALLER = "smaller"
    NORMAL = "normal"
    THEME = "theme"
    PAUSE = "pause"
    CANCEL = "cancel"
    SHORTCUTS = "shortcuts"
    SELF_CHECK = "self-check"
    DIAGNOSTICS = "diagnostics"
    QUIT = "quit"


@dataclass(frozen=True)
class Spec:
    """What a command is called, what keys it has, its icon, and under which heading the key table lists it."""

    text: str
    keys: tuple[str, ...] = ()
    icon: str = ""
    group: str = "Window"
    listed: bool = True
    """Whether the key table has a line for it."""


SWITCHES = (Act.SWITCH_1, Act.SWITCH_2, Act.SWITCH_3, Act.SWITCH_4, Act.SWITCH_5, Act.SWITCH_6, Act.SWITCH_7, Act.SWITCH_8,
            Act.SWITCH_9)
SPECS: dict[Act, Spec] = {
    Act.COMPRESS: Spec("Compress", ("Alt+1",), "compress", "Pages"),
    Act.RUN: Spec("Run", ("Alt+2",), "run", "Pages"),
    Act.DELTAS: Spec("Deltas", ("Alt+3",), "deltas", "Pages"),
    Act.COMPARE: Spec("Compare", ("Alt+4",), "compare", "Pages"),
    Act.CHAT: Spec("Chat", ("Alt+5",), "chat", "Pages"),
    Act.SETTINGS: Spec("Settings", ("Ctrl+,",), "settings", "Pages"),
    Act.START: Spec("Add the job to the queue", ("Ctrl+Return", "Ctrl+Enter"), "compress", "Compress"),
    Act.DEMO: Spec("Open the demo trio", ("Ctrl+D",), "deltas", "Compress"),
    Act.PAUSE: Spec("Pause or resume the running job", ("Ctrl+P",), "pause", "Run"),
    Act.CANCEL: Spec("Cancel the running job", ("Ctrl+.",), "close", "Run"),
    Act.IMPORT: Spec("Import a delta", ("Ctrl+I",), "import", "Deltas"),
    Act.SEARCH: Spec("Search deltas", ("Ctrl+F",), "search", "Deltas"),
    Act.NEW_CHAT: Spec("New chat", ("Ctrl+N",), "plus", "Chat"),
    Act.CHATS: Spec("Conversations", ("Ctrl+H",), "clock", "Chat"),
    Act.STOP: Spec("Stop the answer", ("Esc",), "stop", "Chat"),
    **{act: Spec(f"Switch to variant {n}, and so on to Ctrl+9" if n == 1 else f"Switch to variant {n}", (f"Ctrl+{n}",), "swap",
                 "Chat", n == 1) for n, act in enumerate(SWITCHES, 1)},
    Act.LARGER: Spec("Larger text", ("Ctrl++", "Ctrl+="), "plus", "Window"),
    Act.SMALLER: Spec("Smaller text", ("Ctrl+-",), "", "Window"),
    Act.NORMAL: Spec("Normal text size", ("Ctrl+0",), "", "Window"),
    Act.THEME: Spec("Switch between light and dark", ("Ctrl+Shift+L",), "sun", "Window"),
    Act.SHORTCUTS: Spec("Show all shortcuts", ("F1",), "info", "Window"),
    Act.SELF_CHECK: Spec("Self-check", (), "shield", "Window", False),
    Act.DIAGNOSTICS: Spec("Save diagnostics", (), "export", "Window", False),
    Act.QUIT: Spec("Quit", ("Ctrl+Q",), "", "Window"),
}


class Actions(QObject):
    """The commands as QActions of the window; pages connect to them and say when they can be used."""

    def __init__(self, window: QWidget, icons: Icons) -> None:
        super().__init__(window)
        self._actions: dict[Act, QAction] = {}
        self._icons = icons
        for name, spec in SPECS.items():
            action = QAction(spec.text, window)
            action.setObjectName(name)
            action.setShortcuts([QKeySequence(k) for k in spec.keys])
            action.setShortcutContext(Qt.ShortcutContext.WindowShortcut)
            window.addAction(action)
            self._actions[name] = action
        self._draw()
        icons.theme.changed.connect(self._draw)

    def _draw(self) -> None:
        for name, spec in SPECS.items():
            if spec.icon:
                self._actions[name].setIcon(self._icons.icon(spec.icon))

    def __getitem__(self, name: Act) -> QAction:
        return self._actions[name]

    def on(self, name: Act, call: Callable[[], object]) -> None:
        """Have a command do something."""
        self._actions[name].triggered.connect(lambda *_: call())

    def enable(self, name: Act, usable: bool, reason: str = "") -> None:
        """Whether a command can be used now; if not, why."""
        action = self._actions[name]
        action.setEnabled(usable)
        action.setToolTip(action.text() if usable else f"{action.text()}: {reason}")

    def keys(self, name: Act) -> str:
        """The first shortcut as the system writes it."""
        return self._actions[name].shortcut().toString(QKeySequence.SequenceFormat.NativeText)
