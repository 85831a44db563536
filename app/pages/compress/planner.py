"""Keeps a plan for what is chosen: made anew in the background whenever pair or recipe change, the last one wins."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QObject, QTimer, Signal

from app.context import Context
from app.planning import PlanCache, PlanFacts, plan_facts
from app.tasks import Failure, Task

PATIENCE = 60
"""Milliseconds in which further changes are waited for."""


class Planner(QObject):
    """`started` comes when a pair has to be measured, `planned` and `refused` when that ended."""

    started = Signal()
    progressed = Signal(object)
    """(tensors measured, of how many)."""
    planned = Signal(object)
    """PlanFacts."""
    refused = Signal(object)
    """Failure."""

    def __init__(self, ctx: Context, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._ctx = ctx
        self._cache = PlanCache()
        self._request: dict[str, Any] | None = None
        self._task: Task | None = None
        self._timer = QTimer(self, singleShot=True, interval=PATIENCE)
        self._timer.timeout.connect(self._begin)
        self.facts: PlanFacts | None = None
        self.failure: Failure | None = None
        self.is_fresh = False
        """Whether `facts` or `failure` are of the request that was asked for last."""

    @property
    def is_busy(self) -> bool:
        """Whether a plan is being made, or about to be."""
        return self._task is not None or self._timer.isActive()

    def ask(self, request: dict[str, Any]) -> None:
        """Plan this, unless it is planned already."""
        if request == self._request:
            return
        is_other_pair = self._request is None or any(self._request[k] != request[k] for k in ("base", "fine_tuned"))
        self._stop()
        self._request, self.is_fresh = dict(request), False
        if is_other_pair:
            self.facts, self.failure = None, None
            self.started.emit()
        self._timer.start()

    def again(self) -> None:
        """Plan the same once more: something outside changed."""
        if (request := self._request) is not None:
            self._request = None
            self.ask(request)

    def renew(self) -> None:
        """Plan the same pair once more, without measuring it: more is known of it."""
        if self._request is not None:
            self._stop()
            self.is_fresh = False
            self._timer.start()

    def drop(self) -> None:
        """Nothing to plan any more."""
        self._stop()
        self._request, self.facts, self.failure, self.is_fresh = None, None, None, False

    def _stop(self) -> None:
        self._timer.stop()
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _begin(self) -> None:
        request, cache, offline = self._request, self._cache, self._ctx.settings.options.offline
        if request is None:
            return
        asked = dict(request)

        def work(task: Task) -> PlanFacts:
            return plan_facts(asked, cache, offline=offline or None, progress=lambda done, of: task.progress((done, of)))
        self._task = self._ctx.tasks.run(self, work, self._done, self._failed, self.progressed.emit)

    def _done(self, facts: PlanFacts) -> None:
        self._task, self.facts, self.failure, self.is_fresh = None, facts, None, True
        self.planned.emit(facts)

    def _failed(self, failure: Failure) -> None:
        self._task, self.facts, self.failure, self.is_fresh = None, None, failure, True
        self.refused.emit(failure)
