"""What a checkpoint picker shows: nothing chosen, being read, its facts, or why it can't be used."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication, QResizeEvent
from PySide6.QtWidgets import QFrame, QGridLayout, QLabel, QLineEdit, QProgressBar, QWidget

from app.checkpoints import CheckpointFacts
from app.context import Context
from app.tasks import Failure
from app.widgets.basics import ElidedLabel, FactList, IconLabel, button, column, hairline, label, row, set_look, tool_button
from app.widgets.states import Skeleton, versions

Call = Callable[[], object]


def _name(text: str) -> ElidedLabel:
    made = ElidedLabel(text, Qt.TextElideMode.ElideMiddle)
    made.setProperty("step", "big")
    made.setProperty("weight", "600")
    return made


class EmptyPick(QWidget):
    """A field for a folder or hub id, the list of what is at hand, and a place to drop a folder."""

    def __init__(self, ctx: Context, title: str, choose: Callable[[str], object], open_list: Call, browse: Call) -> None:
        super().__init__()
        self._choose = choose
        self.field = QLineEdit()
        self.field.setPlaceholderText("Folder, or org/name")
        self.field.setAccessibleName(f"{title}: a folder or hub id")
        self.field.setToolTip("Paste a folder or a hub id such as org/name, then press Enter.")
        self.field.returnPressed.connect(self._entered)
        self.setFocusProxy(self.field)
        pick = button("Choose", icons=ctx.icons, icon="chevron-down", clicked=open_list,
                      name=f"Choose the {title.lower()} from a list")
        pick.setLayoutDirection(Qt.LayoutDirection.RightToLeft)
        drop = QFrame()
        drop.setProperty("look", "drop")
        said = label("Drop a folder here, or", tone="faded")
        look = button("Browse...", "ghost", dense=True, name=f"Browse for the {title.lower()}'s folder", clicked=browse)
        # In two lines: beside each other, two cards of one line are wider than a small window's column.
        drop.setLayout(column(None, row(None, IconLabel(ctx.icons, "folder", size=18), said, None, gap=6), row(None, look, None),
                              None, gap=2, margins=(8, 8, 8, 8)))
        drop.setMinimumHeight(ctx.theme.px(84))
        what = "The model it was tuned from" if title == "Base" else "The model that was tuned"
        line = row(self.field, pick)
        line.setStretch(0, 1)
        layout = column(label(what, size="big", weight=600), line, 4, drop, gap=6)
        layout.setStretch(3, 1)
        self.setLayout(layout)

    def _entered(self) -> None:
        text = self.field.text().strip()
        set_look(self.field, wrong="" if text else "true")
        if text:
            self._choose(text)


class LoadingPick(QWidget):
    """What is being read, with grey lines where the facts will stand."""

    def __init__(self, ctx: Context, name: str, words: str, cancel: Call) -> None:
        super().__init__()
        stop = button("Cancel", dense=True, name=f"Cancel reading {name}", clicked=cancel)
        self.setFocusProxy(stop)
        bar = QProgressBar()
        bar.setRange(0, 0)
        bar.setTextVisible(False)
        bar.setProperty("look", "thin")
        bar.setAccessibleName(words)
        self.words = label(words, size="small", tone="faded")
        head = row(_name(name), stop)
        head.setStretch(0, 1)
        self.setLayout(column(head, bar, self.words, 2, Skeleton(ctx.theme, 5), None, gap=6))


class FactsView(QWidget):
    """A checkpoint's name, where it lies, and what it is."""

    def __init__(self, ctx: Context, facts: CheckpointFacts, place: str, change: Call) -> None:
        super().__init__()
        again = button("Change", dense=True, name=f"Change {facts.name}", clicked=change)
        self.setFocusProxy(again)
        head = row(_name(facts.name), again)
        head.setStretch(0, 1)
        where = ElidedLabel(place, Qt.TextElideMode.ElideMiddle)
        where.setProperty("mono", "true")
        where.setProperty("tone", "faded")
        self.list = FactList()
        for name, value in facts.lines():
            self.list.set(name, value)
        self.setLayout(column(head, where, 2, hairline(), 2, self.list, None, gap=4))


class FailedPick(QWidget):
    """Why a checkpoint can't be used, and what to do."""

    def __init__(self, ctx: Context, name: str, failure: Failure, change: Call, again: Call) -> None:
        super().__init__()
        self._failure = failure
        self._said: list[QLabel] = []
        self.setAccessibleName(f"{name} can't be used. {failure.what}")
        other = button("Choose another", dense=True, clicked=change)
        self.setFocusProxy(other)
        grid = QGridLayout()
        grid.setHorizontalSpacing(10)
        grid.setVerticalSpacing(4)
        grid.setColumnStretch(1, 1)
        for at, (head, text) in enumerate((h, t) for h, t in (("What", failure.what), ("Why", failure.why),
                                                              ("What to do", failure.remedy)) if t):
            grid.addWidget(label(head, size="small", weight=600), at, 0, Qt.AlignmentFlag.AlignTop)
            said = label(text, size="small", wrap=True, selectable=True)
            self._said.append(said)
            grid.addWidget(said, at, 1)
        line = row(IconLabel(ctx.icons, "error", "danger", 18), _name(name), gap=8)
        line.setStretch(1, 1)
        self.setLayout(column(line, hairline(), 2, grid, None, row(
            other, button("Try again", "ghost", dense=True, clicked=again), None,
            tool_button(ctx.icons, "copy", "Copy details", clicked=self.copy)), gap=6))

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Sentences are as high as they need to be in a column this narrow: their hints are made for a wider one."""
        super().resizeEvent(event)
        for said in self._said:
            said.setMinimumHeight(said.heightForWidth(said.width()))

    def copy(self) -> None:
        """Put the details on the clipboard."""
        f = self._failure
        QGuiApplication.clipboard().setText("\n".join(x for x in (f.what, f.why, f.remedy, f.details, versions()) if x))
