"""More fine-tunes of the chosen base: each is read and planned by itself, and becomes a job of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from PySide6.QtCore import QObject, Signal

from app.checkpoints import CheckpointFacts, cleaned, name_of, read_facts, source_of
from app.context import Context
from app.pages.compress.recipe import delta_name, free_name
from app.planning import PlanCache, PlanFacts, plan_facts
from app.tasks import Failure, Task
from app.words import count

State = Literal["waiting", "checking", "ready", "refused"]


@dataclass(frozen=True)
class Entry:
    """One more fine-tune. `output` is the name of its delta's folder; `cache` keeps what was measured of the pair."""

    source: str
    name: str
    output: str
    state: State = "waiting"
    facts: CheckpointFacts | None = None
    plan: PlanFacts | None = None
    failure: Failure | None = None
    cache: PlanCache = field(default_factory=PlanCache, compare=False)


class Batch(QObject):
    """The list. One entry is checked at a time; `changed` comes whenever anything of it did.

    `request(source, name)` gives the request for a fine-tune's job, empty without a base; `is_taken(name)` says whether a
    delta's name is in use elsewhere.
    """

    changed = Signal()

    def __init__(self, ctx: Context, request: Callable[[str, str], dict[str, Any]], is_taken: Callable[[str], bool],
                 parent: QObject) -> None:
        super().__init__(parent)
        self._ctx, self._request, self._is_taken = ctx, request, is_taken
        self.entries: tuple[Entry, ...] = ()
        self._task: Task | None = None
        self._at = ""
        ctx.engine.ready.connect(self._next)

    def of(self, state: State) -> tuple[Entry, ...]:
        """The entries in a state."""
        return tuple(e for e in self.entries if e.state == state)

    @property
    def reason(self) -> str:
        """Why no job can be started for all of them yet."""
        left = len(self.of("waiting")) + len(self.of("checking"))
        return f"{count(left, 'more fine-tune')} still to be checked." if left else ""

    def add(self, sources: Iterable[str], known: Iterable[str] = ()) -> None:
        """Take folders or hub ids in; what is there already, or among `known`, is left out."""
        made = list(self.entries)
        for text in sources:
            source = source_of(cleaned(text))
            if source and source not in {*known, *(e.source for e in made)}:
                names = {e.output for e in made}
                made.append(Entry(source, name_of(source), self._free(name_of(source), names)))
        if len(made) > len(self.entries):
            self.entries = tuple(made)
            self._tell()

    def remove(self, source: str) -> None:
        """Take one out if it is there."""
        if all(e.source != source for e in self.entries):
            return
        if source == self._at:
            self._stop()
        self.entries = tuple(e for e in self.entries if e.source != source)
        self._tell()

    def clear(self) -> None:
        """Take all out."""
        self._stop()
        self.entries = ()
        self.changed.emit()

    def again(self) -> None:
        """Base, recipe or place are others: check all once more. What was measured is kept while a pair's files are the same."""
        if self.entries:
            self._stop()
            taken: set[str] = set()
            for entry in self.entries:
                output = self._free(entry.name, taken)
                taken.add(output)
                self._put(replace(entry, output=output, state="waiting", plan=None, failure=None))
            self._tell()

    def _free(self, name: str, taken: set[str]) -> str:
        return free_name(delta_name(name), lambda n: n in taken or self._is_taken(n))

    def refuse(self, source: str, failure: Failure) -> None:
        """Say why an entry can't be a job."""
        self._put(*(replace(e, state="refused", failure=failure) for e in self.entries if e.source == source))
        self.changed.emit()

    # --------------------------------------------------------------------------------------------------- checking
    def _put(self, *newer: Entry) -> None:
        named = {e.source: e for e in newer}
        self.entries = tuple(named.get(e.source, e) for e in self.entries)

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._task, self._at = None, ""

    def _tell(self) -> None:
        self.changed.emit()
        self._next()

    def _next(self) -> None:
        entry = next(iter(self.of("waiting")), None)
        if self._task is not None or entry is None or not self._ctx.engine.is_ready:
            return
        request = self._request(entry.source, entry.output)
        if not request["base"]:
            return
        offline, cache, known = self._ctx.settings.options.offline, entry.cache, entry.facts

        def work(task: Task) -> tuple[CheckpointFacts, PlanFacts]:
            facts = known or read_facts(entry.source, offline=offline)
            return facts, plan_facts(request, cache, offline=offline or None, progress=lambda *done: task.progress(done))
        self._at = entry.source
        self._put(replace(entry, state="checking"))
        self.changed.emit()
        # The progress is where a cancelled task ends.
        self._task = self._ctx.tasks.run(self, work, self._done, self._failed, lambda told: None)

    def _ended(self, **changes: Any) -> None:
        self._put(*(replace(e, **changes) for e in self.entries if e.source == self._at))
        self._task, self._at = None, ""
        self._tell()

    def _done(self, found: tuple[CheckpointFacts, PlanFacts]) -> None:
        facts, plan = found
        if plan.is_short_of_disk:
            short = Failure("The disk has too little room for it.", "", "Choose another folder to save in.", "")
            self._ended(state="refused", facts=facts, failure=short)
        else:
            self._ended(state="ready", facts=facts, plan=plan)

    def _failed(self, failure: Failure) -> None:
        self._ended(state="refused", failure=failure)
