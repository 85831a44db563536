"""The Compress page: two checkpoints, what their delta would be, the recipe, and the button that queues the job."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QDragEnterEvent, QDragLeaveEvent, QDropEvent, QResizeEvent
from PySide6.QtWidgets import QBoxLayout, QHBoxLayout, QSizePolicy, QStackedWidget, QVBoxLayout, QWidget

from app.context import Context
from app.jobs.queue import OPEN
from app.pages.compress.batch import Batch
from app.pages.compress.batch_card import AddMore, BatchCard, button_words
from app.pages.compress.demo_bar import Demo
from app.pages.compress.fields import Zoomed
from app.pages.compress.first_run import first_run
from app.pages.compress.outcome import Outcome, what_to_choose
from app.pages.compress.planner import Planner
from app.pages.compress.predicted import PredictedCard
from app.pages.compress.recipe import delta_name, free_name, name_problem, outputs_taken
from app.pages.compress.recipe_card import RecipeCard
from app.pages.compress.sending import Order, send
from app.pages.compress.size_card import SizeCard
from app.pages.compress.start_bar import StartBar
from app.pages.compress.suggestions import Suggestions
from app.planning import PlanFacts
from app.tasks import Failure
from app.widgets.basics import PageHeader, boxed, column, scrolled, set_look, tool_button
from app.widgets.picker import CheckpointPicker, dropped_folder, dropped_folders
from app.widgets.picker_choose import Shelf

RIGHT = 384
"""Width of the right column at zoom 1."""


class CompressPage(QWidget):
    """Picks, plans, sends off."""

    name = "compress"

    def __init__(self, ctx: Context) -> None:
        super().__init__()
        self.setProperty("look", "page")
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self._ctx = ctx
        self.shelf, self.planner, self.demo = Shelf(ctx, self), Planner(ctx, self), Demo(ctx, self)
        self.base = CheckpointPicker(ctx, self.shelf, "base")
        self.tuned = CheckpointPicker(ctx, self.shelf, "fine-tune")
        self.outcome = Outcome(ctx)
        self.predicted = PredictedCard(ctx)
        self.sizing = SizeCard(ctx)
        self.recipe = RecipeCard(ctx)
        self.start_bar = StartBar(ctx, self.start)
        self.batch = Batch(ctx, self._request_of, self._is_taken_or_first, self)
        self.more = AddMore(ctx, self.shelf, self.take_several)
        self._suggestions = Suggestions(ctx, self.outcome, self.base, self.shelf, self)
        self.swap = tool_button(ctx.icons, "swap", "Swap base and fine-tune", size=16, clicked=self.swap_pair)
        self._build()
        for picker in (self.base, self.tuned):
            picker.changed.connect(self._pair_changed)
        self.tuned.changed.connect(self._name_from_tuned)
        self.tuned.several.connect(self.take_several)
        self.batch.changed.connect(self._restate)
        self.recipe.changed.connect(self._recipe_changed)
        self.recipe.place_changed.connect(self._place_changed)
        self.sizing.changed.connect(self._recipe_changed)
        self.sizing.predicted.connect(self.planner.renew)
        self.planner.started.connect(self._measuring)
        self.planner.progressed.connect(self._progressed)
        self.planner.planned.connect(self._planned)
        self.planner.refused.connect(self._refused)
        self.demo.chosen.connect(self.open_pair)
        ctx.jobs.queue_changed.connect(self._restate)
        ctx.theme.changed.connect(self._fit_columns)
        self._fit_columns()
        self.setAcceptDrops(True)
        self._pair_changed()

    # ------------------------------------------------------------------------------------------------- building
    def _build(self) -> None:
        ctx = self._ctx
        header = PageHeader("Compress", "A fine-tune, as a small delta on its base")
        header.at_right(self.demo.button, self.demo.more)
        self._pickers = QWidget()
        pair = QBoxLayout(QBoxLayout.Direction.LeftToRight, self._pickers)
        self._pair = pair
        pair.setContentsMargins(0, 0, 0, 0)
        pair.setSpacing(12)
        pair.addWidget(self.base, 1)
        pair.addWidget(self.tuned, 1)
        self._pickers.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        for picker in (self.base, self.tuned):
            Zoomed(ctx, picker, picker.setMinimumHeight, 208)
        self.swap.setParent(self._pickers)
        self.swap.setProperty("look", "float-tool")
        self.swap.setFixedSize(28, 28)
        self.swap.raise_()
        left = QVBoxLayout()
        left.setContentsMargins(0, 0, 0, 0)
        left.setSpacing(12)
        left.addWidget(self._pickers)
        left.addWidget(BatchCard(ctx, self.batch))
        left.addWidget(self.outcome, 1)
        self.tuned.head.insertWidget(1, self.more)
        right = QVBoxLayout()
        right.setContentsMargins(0, 0, 0, 0)
        right.setSpacing(12)
        right.addWidget(self.predicted)
        right.addWidget(self.sizing)
        right.addWidget(self.recipe)
        right.addStretch(1)
        self._right = scrolled(boxed(right), name="Prediction and recipe")
        self.recipe.advanced.opened.connect(self._show_advanced)
        self.sizing.opened.connect(self._show_sizing)
        side = column(self._right, self.start_bar, gap=12)
        side_box = boxed(side)
        self._side = side_box
        main = QHBoxLayout()
        main.setContentsMargins(0, 0, 0, 0)
        main.setSpacing(12)
        self._left = scrolled(boxed(left), name="Checkpoints and change")
        for area in (self._left, self._right):               # large text in a small window: nothing is out of reach
            area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAsNeeded)
        main.addWidget(self._left, 1)
        main.addWidget(side_box)
        self.stack = QStackedWidget()
        self._first, self._first_drop = first_run(ctx, self.demo.open_tiny, self.choose_checkpoints)
        self._main = boxed(main)
        self.stack.addWidget(self._main)
        self.stack.addWidget(self._first)
        self.setLayout(column(header, self.demo.strip, self.stack, gap=0, margins=(24, 0, 24, 16)))
        cast(QVBoxLayout, self.layout()).setStretch(2, 1)
        self._batch_base = ""
        self._is_first = not ctx.settings.options.recent and not ctx.jobs.items()
        self.stack.setCurrentWidget(self._first if self._is_first else self._main)

    # ------------------------------------------------------------------------------------------------ the page
    def shown(self) -> None:
        """Called each time the page comes on screen."""
        self._ctx.engine.load()
        self.shelf.refresh()
        self._restate()

    def open_pair(self, base: str, fine_tuned: str) -> None:
        """Set both at once."""
        self._leave_first()
        self.base.choose(base)
        self.tuned.choose(fine_tuned)

    def open_demo(self) -> None:
        """The tiny trio's base and pirate."""
        self.demo.open_tiny()

    def open_real_demo(self) -> None:
        """The real demo pair, made first if need be."""
        self._leave_first()
        self.demo.open_real()

    def take_all(self, paths: Iterable[Path]) -> None:
        """Checkpoint folders from outside: a base where none is chosen, then fine-tunes of it."""
        rest = list(paths)
        while rest and (len(rest) == 1 or self._taker() is self.base):
            self._taker().choose(str(rest.pop(0)))
        self.take_several(rest)

    def take_several(self, sources: Iterable[str | Path]) -> None:
        """Fine-tunes of one base: the first stands in its card where that is empty, the others in the list below."""
        self._leave_first()
        rest = [str(source) for source in sources]
        if rest and self.tuned.state in ("empty", "failed"):
            self.tuned.choose(rest.pop(0))
        self.batch.add(rest, (self.base.source, self.tuned.source))

    def choose_checkpoints(self) -> None:
        """From the first page to the pickers, with the list open."""
        self._leave_first()
        self.base.open_chooser()

    def swap_pair(self) -> None:
        """Make the base the fine-tune and the other way round."""
        base, tuned = self.base.facts, self.tuned.facts
        self.base.set_facts(tuned)
        self.tuned.set_facts(base)

    def _show_advanced(self) -> None:
        # Once the layout has made room for it.
        QTimer.singleShot(0, self, lambda: self._right.ensureWidgetVisible(self.recipe.advanced, 0, 24))

    def _show_sizing(self) -> None:
        QTimer.singleShot(0, self, lambda: self._right.ensureWidgetVisible(self.sizing, 0, 0))

    def _leave_first(self) -> None:
        self.stack.setCurrentWidget(self._main)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """The swap button stays over the gap between the cards."""
        super().resizeEvent(event)
        self._fit_columns()
        self._place_swap()

    def _fit_columns(self) -> None:
        """The recipe at the right takes what it needs but never most of the page; the pickers stand above each other where
        large text leaves too little beside it."""
        px = self._ctx.theme.px
        side = min(px(RIGHT), max(RIGHT, int(self.width() * 0.44)))
        self._side.setFixedWidth(side)
        narrow = self.width() - 60 - side < px(520)
        ways = QBoxLayout.Direction
        self._pair.setDirection(ways.TopToBottom if narrow else ways.LeftToRight)

    def _place_swap(self) -> None:
        if self._pair.direction() == QBoxLayout.Direction.TopToBottom:
            at = self.base.geometry()
            self.swap.move(at.center().x() - self.swap.width() // 2, at.bottom() + 7 - self.swap.height() // 2)
            return
        x = self.base.geometry().right() + 7 - self.swap.width() // 2
        self.swap.move(x, self._ctx.theme.px(37))

    # ------------------------------------------------------------------------------------------------- planning
    def _pair_changed(self) -> None:
        if self.base.source or self.tuned.source:
            self._leave_first()
        self.batch.remove(self.tuned.source)               # the one in the card is a job already
        self.swap.setVisible(bool(self.base.facts or self.tuned.facts) and "loading" not in (self.base.state, self.tuned.state))
        self._place_swap()
        if self.base.facts is None or self.tuned.facts is None:
            self.planner.drop()
            self._forget_plan()
            self.sizing.clear()
            self.outcome.ask(*what_to_choose(self.base, self.tuned))
        else:
            self._suggestions.clear()
            self._plan()
        self.more.setVisible(self.tuned.facts is not None)
        if self.base.source != self._batch_base:
            self._batch_base = self.base.source
            self.batch.again()
        self._restate()

    def _plan(self) -> None:
        if self.base.facts is not None and self.tuned.facts is not None:
            output = self.recipe.folder_path() / "delta"
            self.planner.ask(self._request(output))

    def _request(self, output: Path) -> dict[str, Any]:
        asked = self.sizing.asked()
        recipe = replace(self.recipe.recipe(), budget=asked.budget, quality=asked.quality)
        return recipe.request(self.base.source, self.tuned.source, output)

    def _request_of(self, source: str, name: str) -> dict[str, Any]:
        return {**self._request(self.recipe.folder_path() / name), "fine_tuned": source}

    def _recipe_changed(self) -> None:
        self.sizing.forbid(self.recipe.recipe().one_size)
        self.recipe.set_by_size(self.sizing.is_by_size)
        if not self.sizing.problem():
            self._plan()
            self.batch.again()
        self._restate()

    def _place_changed(self) -> None:
        self._plan()
        self.batch.again()
        self._restate()

    def _forget_plan(self) -> None:
        self.predicted.clear()
        if self.tuned.facts is not None:
            self.predicted.set_full(self.tuned.facts.bytes)

    def _measuring(self) -> None:
        self._forget_plan()
        self.sizing.clear()
        self.outcome.measuring()
        self._restate()

    def _progressed(self, told: object) -> None:
        if isinstance(told, tuple) and self.planner.facts is None:
            self.outcome.measuring(*told)

    def _planned(self, facts: PlanFacts) -> None:
        if self.base.facts is not None and self.tuned.facts is not None:
            self.predicted.show_plan(facts)
            self.sizing.show_plan(facts, self._request(self.recipe.folder_path() / "delta"))
            self.recipe.set_length(facts.sequence_length)
            self.outcome.show_plan(facts, self.base.facts, self.tuned.facts, self.recipe.folder.browse)
        self._restate()

    def _refused(self, failure: Failure) -> None:
        self._forget_plan()
        self._suggestions.refuse(failure, self.base.facts, self.tuned.facts)
        self._restate()

    # ----------------------------------------------------------------------------------------- name and start
    def _is_taken(self, name: str) -> bool:
        output = self.recipe.folder_path() / name
        made = outputs_taken(i.output for i in self._ctx.jobs.items() if i.state in OPEN)
        return os.path.lexists(output) or str(output) in made

    def _is_taken_or_first(self, name: str) -> bool:
        return name == self.recipe.name.text().strip() or self._is_taken(name)

    def _name_from_tuned(self) -> None:
        if not self.recipe.is_named_by_hand:
            facts = self.tuned.facts
            self.recipe.set_name(free_name(delta_name(facts.name), self._is_taken) if facts else "")

    def _use_free_name(self) -> None:
        self.recipe.set_name(free_name(self.recipe.name.text().strip(), self._is_taken))

    def _reason(self) -> tuple[str, str]:
        """Why no job can be started, and what would help ("name": another name)."""
        for picker, title in ((self.base, "base"), (self.tuned, "fine-tune")):
            if picker.state == "loading":
                return f"The {title} is being read.", ""
            if picker.state == "failed":
                return f"The {title} can't be used.", ""
            if picker.facts is None:
                return f"Choose a {title} first.", ""
        if self.planner.failure is not None:
            return ("" if self.batch.of("ready") else "These two can't be compressed."), ""
        facts = self.planner.facts
        if facts is None:
            return "What changed is being measured.", ""
        if facts.is_short_of_disk:
            return "The disk has too little room.", ""
        if problem := name_problem(self.recipe.name.text()):
            return problem, ""
        if self._is_taken(self.recipe.name.text().strip()):
            return f"'{self.recipe.name.text().strip()}' exists already.", "name"
        return self.sizing.problem() or self.recipe.calibration.problem(), ""

    def _restate(self) -> None:
        reason, remedy = self._reason()
        reason = reason or self.batch.reason
        name = self.recipe.name.text().strip()
        self.recipe.mark_place(remedy == "name" or bool(self.tuned.facts and name_problem(name)))
        if remedy == "name":
            self.start_bar.say(reason, f"Use {free_name(name, self._is_taken)}", self._use_free_name)
        else:
            self.start_bar.say(reason)
        self.start_bar.button.setText(button_words(self.batch, self.planner.failure is None))

    def start(self) -> None:
        """Add the jobs to the queue; to the Run page if a lone one starts at once."""
        facts, base, tuned = self.planner.facts, self.base.facts, self.tuned.facts
        self._restate()
        if self.start_bar.reason or base is None or tuned is None:
            self._ctx.notify(self.start_bar.reason, "warning")
            return
        orders = [Order(e.output, self._request_of(e.source, e.output), e.plan, e.facts) for e in self.batch.of("ready")
                  if e.plan is not None and e.facts is not None]
        if facts is not None:
            orders.insert(0, Order(self.recipe.name.text().strip(), self._request(self.recipe.output()), facts, tuned))
        refused = send(self._ctx, base, orders)
        for order in orders:
            if order.name in refused:
                self.batch.refuse(order.facts.source, refused[order.name])
            else:
                self.batch.remove(order.facts.source)
        self.recipe.is_named_by_hand = False
        self._name_from_tuned()

    # ------------------------------------------------------------------------------------------------- dropping
    def _taker(self) -> CheckpointPicker:
        """Which picker a folder goes to that is dropped beside them: the first empty one, else the fine-tune."""
        return next((p for p in (self.base, self.tuned) if p.state in ("empty", "failed")), self.tuned)

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """A folder may be dropped anywhere."""
        if dropped_folder(event.mimeData()) is not None:
            self._taker().highlight(True)
            set_look(self._first_drop, dropping="true")
            event.setDropAction(Qt.DropAction.CopyAction)
            event.accept()

    def dragLeaveEvent(self, event: QDragLeaveEvent) -> None:
        """It went away, or over a picker that takes it itself."""
        self._unmark()

    def dropEvent(self, event: QDropEvent) -> None:
        """Take the folder; several are fine-tunes."""
        self._unmark()
        if folders := dropped_folders(event.mimeData()):
            event.acceptProposedAction()
            if len(folders) > 1:
                self.take_several(folders)
            else:
                self._taker().choose(str(folders[0]))

    def _unmark(self) -> None:
        for picker in (self.base, self.tuned):
            picker.highlight(False)
        set_look(self._first_drop, dropping="")
