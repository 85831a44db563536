"""The list of further fine-tunes under the pickers: what each becomes, or why it can't be a job."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QPoint
from PySide6.QtWidgets import QApplication, QFileDialog, QPushButton, QVBoxLayout, QWidget

from app.checkpoints import shown_source
from app.context import Context
from app.pages.compress.batch import Batch, Entry
from app.widgets.basics import Card, ElidedLabel, IconLabel, Tone, boxed, button, clear_layout, label, row, tool_button
from app.widgets.picker_choose import ChoosePopup, Shelf
from app.words import about, count, plain_tip, size

_LOOKS: dict[str, tuple[str, Tone]] = {"waiting": ("clock", "faded"), "checking": ("search", "faded"),
                                       "ready": ("done", "success"), "refused": ("error", "danger")}


def entry_words(entry: Entry) -> str:
    """`as pirate-2, about 13.9 MB, about 4 min`, what is being done, or why it is refused and what helps."""
    if entry.failure is not None:
        return " ".join(x for x in (entry.failure.what, entry.failure.remedy) if x)
    if entry.plan is None:
        return "Measuring what changed..." if entry.state == "checking" else "Waits to be checked"
    bound = "at most " if entry.plan.is_at_most else ""
    return f"becomes {entry.output}, {bound}{size(entry.plan.weights_bytes)}, {about(entry.plan.seconds)}"


class BatchCard(Card):
    """Shows a batch; hidden while it is empty."""

    def __init__(self, ctx: Context, batch: Batch, parent: QWidget | None = None) -> None:
        super().__init__("More fine-tunes of this base", "the same recipe, a job each", gap=4, margins=(16, 10, 12, 10),
                         parent=parent)
        self.setAccessibleName("More fine-tunes of this base")
        self._ctx, self._batch = ctx, batch
        self._clear = button("Clear", "ghost", dense=True, name="Take all further fine-tunes out", clicked=batch.clear)
        self.at_right(self._clear)
        self._rows = QVBoxLayout()
        self._rows.setContentsMargins(0, 0, 0, 0)
        self._rows.setSpacing(2)
        self.body.addWidget(boxed(self._rows))
        batch.changed.connect(self.show_batch)
        self.show_batch()

    def show_batch(self) -> None:
        """Write all rows anew."""
        focus = QApplication.focusWidget()
        had_focus = focus is not None and self.isAncestorOf(focus)
        clear_layout(self._rows)
        for entry in self._batch.entries:
            self._rows.addWidget(self._row(entry))
        self.setVisible(bool(self._batch.entries))
        if had_focus:
            self._clear.setFocus()

    def _row(self, entry: Entry) -> QWidget:
        icon, tone = _LOOKS[entry.state]
        words = entry_words(entry)
        name = ElidedLabel(entry.name)
        name.setProperty("weight", "600")
        name.setFixedWidth(self._ctx.theme.px(150))
        said = label(words, size="small", tone="danger" if entry.failure is not None else "faded", wrap=True)
        out = tool_button(self._ctx.icons, "close", f"Take {entry.name} out", size=14, clicked=self._remover(entry.source))
        line = row(IconLabel(self._ctx.icons, icon, tone if tone != "faded" else "text-faded", 16), name, said, out, gap=8)
        line.setStretch(2, 1)
        made = boxed(line)
        made.setAccessibleName(f"{entry.name}: {words}")
        made.setToolTip(plain_tip(shown_source(entry.source)))
        return made

    def _remover(self, source: str) -> Callable[[], object]:
        return lambda: self._batch.remove(source)


class AddMore(QPushButton):
    """Lets one more fine-tune be chosen, from the list of those at hand or in the system's dialog; `take` gets it."""

    def __init__(self, ctx: Context, shelf: Shelf, take: Callable[[tuple[str, ...]], object]) -> None:
        super().__init__("Add more...")
        self.setProperty("look", "ghost")
        self.setProperty("dense", "line")                  # no higher than the words beside it: the cards' lines stay level
        self.setToolTip("Other fine-tunes of this base, with the same recipe: a job each")
        self.setAccessibleName("Add more fine-tunes of this base")
        self.setProperty("tone", "accent")
        self._ctx, self._take = ctx, take
        self.list = ChoosePopup(ctx, shelf, "Choose another fine-tune", self)
        self.list.chosen.connect(self._chosen)
        self.list.browse_asked.connect(self._browse)
        self.clicked.connect(self._open)

    def _open(self) -> None:
        width = self._ctx.theme.px(340)
        self.list.open_at(self.mapToGlobal(QPoint(self.width() - width, self.height() + 4)), width, can_clear=False)

    def _chosen(self, source: str) -> None:
        self._take((source,))

    def _browse(self) -> None:
        if found := QFileDialog.getExistingDirectory(self, "Choose another fine-tune's folder"):
            self._take((found,))


def button_words(batch: Batch, with_first: bool) -> str:
    """What the primary button says: `Compress`, `Compress 3 fine-tunes`."""
    number = len(batch.of("ready")) + with_first
    return f"Compress {count(number, 'fine-tune')}" if batch.of("ready") else "Compress"


