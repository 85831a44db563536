"""The card of load times: bars, how many times faster, and the button that measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PySide6.QtWidgets import QComboBox, QProgressBar, QWidget

from app.context import Context
from app.library.entry import DeltaEntry
from app.pages.compare import facts
from app.pages.compare.facts import WAY_TIPS, WAYS, Way
from app.pages.compare.measuring import REPEATS, Measuring, Progress
from app.widgets.basics import Card, Segmented, boxed, button, clear_layout, column, label, row, upright
from app.widgets.charts.bars import LoadBars
from app.widgets.charts.marks import ColourKey
from app.widgets.states import WarningStrip

_SIDE = 222


class LoadCard(Card):
    """Bars at the left; at the right the way that is shown, figures against the full checkpoint, and the measurement."""

    def __init__(self, ctx: Context, parent: QWidget | None = None) -> None:
        super().__init__("Load time", parent=parent)
        self._ctx = ctx
        self._chosen: tuple[DeltaEntry, ...] = ()
        self._accent: Path | None = None
        self._bases: Mapping[Path, str | None] = {}
        theme = ctx.theme
        self.bars = LoadBars(theme)
        for text, which in (("cold, upper bar", 0), ("warm, lower bar", 1)):
            swatch = ColourKey(theme, lambda which=which: self.bars.colours()[which])  # type: ignore[misc]
            self.at_right(boxed(row(swatch, label(text, tone="faded"), gap=6)))
        self.measuring = Measuring(ctx, self)
        self.measuring.progressed.connect(self._show_progress)
        self.measuring.ended.connect(self._ended)

        self.way = Segmented([(key, text) for key, text in WAYS.items()], "What is timed", expand=True)
        for key, tip in WAY_TIPS.items():
            for made in self.way.findChildren(QWidget):
                if made.accessibleName().endswith(WAYS[key]):
                    made.setToolTip(tip)
        self.way.chosen.connect(self._show)
        self._against = label(tone="faded", size="small", elide=True)
        self._figures = column(gap=2)
        self.repeats = QComboBox()
        self.repeats.setAccessibleName("Runs of each way")
        self.repeats.setToolTip("How often each way is timed. From 5 runs on, whiskers leave out the slowest and quickest tenth.")
        for count in REPEATS:
            self.repeats.addItem(f"{count} runs", count)
        self.repeats.setCurrentIndex(1)
        self.measure = button("Measure", icons=ctx.icons, icon="clock", clicked=self._start)
        self._why = label(size="small", tone="faded", wrap=True)
        idle = column(self._why, row(self.repeats, self.measure, gap=6), gap=6)
        self._now = label(size="small", weight=500, elide=True)
        self._words = label(size="small", tone="faded", elide=True)
        self._bar = QProgressBar()
        self._bar.setProperty("look", "thin")
        self._bar.setTextVisible(False)
        self._bar.setRange(0, 1000)
        self._bar.setAccessibleName("Measuring")
        self.cancel = button("Cancel", dense=True, name="Cancel measuring", clicked=self._cancel)
        busy = column(self._now, self._bar, self._words, self.cancel, gap=6)
        self._idle, self._busy = boxed(idle), boxed(busy)
        self._busy.hide()
        parts = (self.way, 6, self._against, self._figures, None, self._idle, self._busy)
        self._side = boxed(column(*parts, gap=4, margins=(12, 0, 0, 0)))
        self._side.setFixedWidth(theme.px(_SIDE))
        theme.changed.connect(self._fit_side)
        self._failed = WarningStrip(ctx.icons, "danger")
        self._failed.hide()
        self._note = label(size="small", tone="faded", wrap=True)
        self._note.hide()
        line = row(self.bars, upright(), self._side, gap=12)
        line.setStretch(0, 1)
        self.add(line, self._note, self._failed)
        self.body.setStretch(1, 1)
        ctx.jobs.queue_changed.connect(self._enable)
        ctx.jobs.item_changed.connect(self._enable)

    # ---------------------------------------------------------------------------------------------------- showing
    def show_chosen(self, chosen: Sequence[DeltaEntry], accent: Path | None) -> None:
        """Show the times of these."""
        self._chosen, self._accent = tuple(chosen), accent
        self._bases = {e.path: self._ctx.library.base_folder_of(e) for e in chosen}
        self._show()

    def _show(self, *_: object) -> None:
        way = self.shown_way()
        self.bars.set_bars(facts.load_bars(self._chosen, self._accent, way, self._bases))
        self.caption.setText(facts.load_caption(self._chosen, way))
        one = next((e for e in self._chosen if e.path == self._accent), None)
        clear_layout(self._figures)
        found = facts.faster(one, way) if one is not None else []
        self._against.setText(f"{one.name} against full" if one is not None and found else "")
        for faster in found:
            words = label(faster.words, "small", tone="faded")
            self._figures.addLayout(column(label(faster.figure, "title", 600), words, 4, gap=0))
        note = next((str(n) for e in self._chosen if (n := (e.load_times or {}).get("note"))), "")
        self._note.setText(note)
        self._note.setVisible(bool(note))
        self._enable()

    def shown_way(self) -> Way:
        """The way whose times stand beside the full checkpoint's."""
        return "start" if self.way.value() == "start" else "switch"

    # -------------------------------------------------------------------------------------------------- measuring
    def measurable(self) -> list[DeltaEntry]:
        """Chosen deltas whose base and fine-tune are known here; copies of one delta once, as their times are kept together."""
        found: dict[str, DeltaEntry] = {}
        for entry in self._chosen:
            if not facts.why_unmeasurable(entry, self._bases.get(entry.path)):
                found.setdefault(entry.sha256, entry)
        return list(found.values())

    def why_not(self) -> str:
        """Why the button is disabled; empty where it is not."""
        if self._ctx.jobs.is_busy:
            return "A job is running and would slow every run. Pause it first."
        if not self._chosen:
            return "Choose a delta first."
        if not self.measurable():
            whys = {facts.why_unmeasurable(e, self._bases.get(e.path)) for e in self._chosen}
            why = whys.pop() if len(whys) == 1 else "no base and fine-tune are known"
            return f"{why[0].upper()}{why[1:]}. Set it on the Deltas page."
        return ""

    def _enable(self, *_: object) -> None:
        why = self.why_not()
        self.measure.setEnabled(not why)
        self.measure.setToolTip(why or f"Times {len(self.measurable())} of the chosen deltas; keep the machine idle meanwhile")
        self._why.setText(why)
        self._why.setVisible(bool(why))

    def _fit_side(self) -> None:
        self._side.setFixedWidth(self._ctx.theme.px(_SIDE))

    def _swap(self, busy: bool) -> None:
        had_focus = (self.measure if busy else self.cancel).hasFocus()
        self._idle.setVisible(not busy)
        self._busy.setVisible(busy)
        if had_focus:                                  # else it would go to the next chart
            (self.cancel if busy else self.measure).setFocus()

    def _start(self) -> None:
        self._failed.hide()
        self.cancel.setEnabled(True)
        self.cancel.setText("Cancel")
        self._swap(True)
        self.measuring.start(self.measurable(), int(self.repeats.currentData()))

    def _cancel(self) -> None:
        self.measuring.cancel()
        self.cancel.setEnabled(False)
        self.cancel.setText("Stopping...")
        self._words.setText("After the run that is under way")

    def _show_progress(self, progress: Progress) -> None:
        self._now.setText(progress.name)
        self._words.setText(progress.words)
        self._bar.setValue(round(1000 * progress.share))

    def _ended(self) -> None:
        self._swap(False)
        failures = self.measuring.failures
        if failures:
            name, failure = failures[0]
            more = f" {len(failures) - 1} more could not be measured either." if len(failures) > 1 else ""
            details = button("Details", dense=True, clicked=lambda: self._ctx.show_error(failure))
            self._failed.show_words("danger", f"{name} could not be measured.", failure.what + more, [details])
            self._failed.show()
        self._enable()
