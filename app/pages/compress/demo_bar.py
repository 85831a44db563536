"""The demo models: the trio at a click, other pairs in a menu, and the real pair made in place with its progress."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QObject, Signal
from PySide6.QtWidgets import QFrame, QMenu, QProgressBar, QPushButton, QToolButton, QWidget

from app.actions import Act
from app.checkpoints import real_pair
from app.context import Context
from app.tasks import Failure, Task
from app.widgets.basics import ElidedLabel, IconLabel, button, column, label, row, set_look, tool_button
from app.words import size

_STAGES = {"download": "Downloading the base", "dequantise": "Unpacking the base", "train": "Training the pirate",
           "save": "Saving"}
MAKE = "Make the real demo pair (93 MB download, some minutes)"
OPEN = "Open the real demo pair (SmolLM2, pirate)"


class Demo(QObject):
    """What the demo offers. `chosen` tells two folders: a base and its fine-tune."""

    chosen = Signal(str, str)

    def __init__(self, ctx: Context, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._ctx = ctx
        self._task: Task | None = None
        self.button: QPushButton = button("Open demo trio", icons=ctx.icons, icon="deltas", clicked=self.open_tiny,
                                          tip=f"A tiny base and a fine-tune of it, built in ({ctx.actions.keys(Act.DEMO)})")
        self.more: QToolButton = tool_button(ctx.icons, "chevron-down", "More demo models", clicked=self._open_menu)
        self.strip = _MakingStrip(ctx)
        self.strip.stop.clicked.connect(self.cancel)

    def open_tiny(self) -> None:
        """The embedded base and its pirate."""
        from core.demo import tiny_trio

        trio = tiny_trio()
        self.chosen.emit(str(trio.base), str(trio.pirate))

    def open_json(self) -> None:
        """The embedded base and its other fine-tune."""
        from core.demo import tiny_trio

        trio = tiny_trio()
        self.chosen.emit(str(trio.base), str(trio.json))

    def open_real(self) -> None:
        """The real pair: at once where it has been made, else it is made now."""
        if (pair := real_pair()) is not None:
            self.chosen.emit(str(pair[0]), str(pair[1]))
        else:
            self.make()

    def menu(self) -> QMenu:
        """What there is to open or to make."""
        menu = QMenu(self.more)
        for text, call in (("Tiny trio: base and pirate", self.open_tiny), ("Tiny trio: base and json", self.open_json)):
            menu.addAction(self._ctx.icons.icon("deltas"), text).triggered.connect(call)
        menu.addSeparator()
        is_there = real_pair() is not None
        real = menu.addAction(self._ctx.icons.icon("deltas" if is_there else "down"), OPEN if is_there else MAKE)
        real.setEnabled(self._task is None and (is_there or not self._ctx.settings.options.offline))
        if not real.isEnabled():
            real.setText("The real demo pair is being made" if self._task is not None else f"{MAKE}: offline mode is on")
        real.triggered.connect(self.open_real)
        return menu

    def _open_menu(self) -> None:
        menu = self.menu()
        menu.aboutToHide.connect(menu.deleteLater)
        menu.popup(self.more.mapToGlobal(self.more.rect().bottomLeft()))

    # ---------------------------------------------------------------------------------------------------- making
    @property
    def is_making(self) -> bool:
        """Whether the real pair is being made."""
        return self._task is not None

    def make(self) -> None:
        """Fetch and train the real pair in the background."""
        if self._task is not None:
            return
        self.strip.begin()
        self._task = self._ctx.tasks.run(self, make_pair, self._made, self._failed, self.strip.show_event)

    def cancel(self) -> None:
        """Stop; what was finished is kept for the next time."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
            self.strip.hide()
            self._ctx.notify("The demo pair was not finished. What was fetched is kept.", "faded")

    def _made(self, pair: tuple[str, str]) -> None:
        self._task = None
        self.strip.hide()
        self.chosen.emit(*pair)

    def _failed(self, failure: Failure) -> None:
        self._task = None
        self.strip.hide()
        self._ctx.show_error(failure)


def make_pair(task: Task, folder: Path | None = None) -> tuple[str, str]:
    """Make the real pair; for a worker thread. Raises as `core.demo.make_demo_pair`."""
    from core.demo import DemoEvent, default_demo_folder, make_demo_pair

    def tell(event: DemoEvent) -> None:
        if not task.cancelled:
            task.progress((event.stage, event.done, event.total, event.unit))
    pair = make_demo_pair(folder or default_demo_folder(), progress=tell, cancelled=lambda: task.cancelled)
    return str(pair.base), str(pair.fine_tuned)


class _MakingStrip(QWidget):
    """How far the pair is, with a way to stop."""

    def __init__(self, ctx: Context) -> None:
        super().__init__()
        frame = QFrame()
        set_look(frame, look="strip", tone="faded")
        self._words = label("", weight=600)
        self._more = ElidedLabel("")
        self._bar = QProgressBar()
        self._bar.setProperty("look", "thin")
        self._bar.setTextVisible(False)
        self._bar.setAccessibleName("Progress of the demo pair")
        self.stop = button("Cancel", dense=True, name="Cancel making the demo pair")
        head = row(self._words, self._more, gap=10)
        head.setStretch(1, 1)
        line = row(IconLabel(ctx.icons, "down", size=18), column(head, self._bar, gap=4), self.stop, gap=10,
                   margins=(14, 8, 10, 8))
        line.setStretch(1, 1)
        frame.setLayout(line)
        self.setLayout(column(frame, margins=(0, 0, 0, 12)))
        self.hide()

    def begin(self) -> None:
        """Show that it starts."""
        self._words.setText("Making the real demo pair")
        self._more.setText("Asking the package index")
        self._bar.setRange(0, 0)
        self.show()

    def show_event(self, event: object) -> None:
        """Show (stage, done, total, unit)."""
        if not isinstance(event, tuple):
            return
        stage, done, total, unit = event
        self._words.setText(_STAGES.get(stage, "Making the real demo pair"))
        amount = f"{size(done)} of {size(total)}" if unit == "bytes" else f"{done} of {total} {unit}"
        self._more.setText(amount if total > 1 else "")
        # Bytes can exceed what a progress bar counts.
        self._bar.setRange(0, 1000 if total > 1 else 0)
        self._bar.setValue(round(1000 * done / max(1, total)))
