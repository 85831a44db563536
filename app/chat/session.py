"""The loaded deck as the window sees it. Lives on the main thread; the deck itself is only touched on its own thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

from PySide6.QtCore import QObject, QTimer, Signal, Slot
from shiboken6 import isValid

from app.chat.conversations import Choice
from app.chat.engine import Ask, CoreEngine, DeckFacts, Engine, Messages
from app.chat.keeper import Answered, DeckKeeper, Loaded, Source, Step, Variant
from app.chat.worker import DeckThread, Outcome, PieceBuffer
from app.checkpoints import name_of
from app.tasks import Failure

__all__ = ["Answered", "ChatSession", "Source", "Step", "Variant"]

DRAIN = 66
"""Milliseconds between two looks at the tokens."""
State = Literal["empty", "loading", "ready", "failed", "unloading"]
_DOING = {"load": "The base is being loaded.", "unload": "The base is being unloaded.", "answer": "An answer is being written.",
          "switch": "A variant is being switched on.", "add": "A variant is being put on the deck.",
          "remove": "A variant is being taken off the deck."}


class ChatSession(QObject):
    """One deck. What excludes each other is refused at once, with `in_the_way` as the reason; nothing here blocks."""

    changed = Signal()
    """State, variants, facts or what is being done are others than before."""
    streamed = Signal(object)
    """A tuple of Pieces, at most fifteen times a second."""
    answered = Signal(object)
    """An Answered, after the last `streamed` of its batch."""
    switched = Signal(object)
    """A Switch."""
    added = Signal()
    """What `add` was asked for is among the variants now, or was refused."""
    counted = Signal(int)
    """Tokens of the prompt that `count` was asked about last."""
    failed = Signal(object)
    """A Failure of anything but loading and answering."""
    released = Signal(object)
    """Bytes that went back to the system."""
    open_asked = Signal()
    """Somebody wants the Chat page with `wanted` on the deck."""
    _news = Signal()

    def __init__(self, engine: Engine | None = None, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._thread = DeckThread(self._tell_news)
        self._keeper = DeckKeeper(engine or CoreEngine(), self._thread.step)
        self._news.connect(self._take_news)
        self._buffer = PieceBuffer()
        self._timer = QTimer(self, interval=DRAIN)
        self._timer.timeout.connect(self._drain)
        self._waiting: list[str] = []
        """Kinds of orders that have not ended, in order."""
        self.state: State = "empty"
        self.base = ""
        self.variants: tuple[Variant, ...] = ()
        self.facts: DeckFacts | None = None
        self.failure: Failure | None = None
        """Why the base could not be loaded."""
        self.step: Step | None = None
        self.wanted: tuple[str, tuple[Source, ...]] | None = None
        """What `open` asked for; whoever takes it sets it to None."""

    # ------------------------------------------------------------------------------------------- what there is
    @property
    def base_name(self) -> str:
        """What the base is called."""
        return name_of(self.base) if self.base else ""

    def variant(self, name: str) -> Variant | None:
        """A variant on the deck."""
        return next((v for v in self.variants if v.name == name), None)

    @property
    def doing(self) -> str:
        """The kind of order under way: load, unload, answer, switch, add, remove; empty for none."""
        if "answer" in self._waiting:                  # one may wait for a switch that is under way
            return "answer"
        return next((kind for kind in self._waiting if kind in _DOING), "")

    @property
    def in_the_way(self) -> str:
        """Why the model can't be used now, as a sentence; empty when it can."""
        if self.doing:
            return _DOING[self.doing]
        return self._keeper.in_the_way if self.state == "ready" else ""

    @property
    def why_silent(self) -> str:
        """Why nothing can be asked now, as a sentence; empty when it can. A switch is waited for."""
        if self.state != "ready":
            return self.in_the_way or "The base is not loaded."
        return "" if self.doing == "switch" else self.in_the_way

    @property
    def is_answering(self) -> bool:
        """Whether tokens are coming."""
        return "answer" in self._waiting

    @property
    def is_stopping(self) -> bool:
        """Whether they are to end after the current one."""
        return self.is_answering and self._keeper.stopped.is_set()

    # ------------------------------------------------------------------------------------------------ orders
    def open(self, base: str, sources: Sequence[Source]) -> None:
        """Ask for the Chat page with these on the deck."""
        self.wanted = (base, tuple(sources))
        self.open_asked.emit()

    def load(self, base: str, sources: Sequence[Source] = (), device: str = "auto", *, offline: bool = False) -> bool:
        """Load a base and put variants on it, in place of what is loaded; False while something else is under way."""
        if self._waiting_for_model():
            return False
        self._keeper.cancelled.clear()
        self.base, self.state, self.failure, self.facts = base, "loading", None, None
        self.variants, self.step = (), Step(f"Reading {name_of(base)}", 0, len(sources) + 1)
        self._submit("load", lambda: self._keeper.load(base, tuple(sources), device, offline))
        return True

    def forget_failure(self) -> None:
        """A base that could not be loaded is no longer of interest."""
        if self.state == "failed":
            self.state, self.base, self.failure = "empty", "", None
            self.changed.emit()

    def cancel_load(self) -> None:
        """Give up loading; takes effect after the step that is under way."""
        self._keeper.cancelled.set()
        self.changed.emit()

    @property
    def is_cancelling(self) -> bool:
        """Whether loading was given up."""
        return self.state == "loading" and self._keeper.cancelled.is_set()

    def unload(self) -> bool:
        """Give the memory back; False while something else is under way."""
        if self.state != "ready" or self._waiting_for_model():
            return False
        self.state = "unloading"
        self._submit("unload", self._keeper.let_go)
        return True

    def add(self, sources: Sequence[Source]) -> bool:
        """Put deltas or full fine-tunes on the deck; False while something else is under way."""
        if self.state != "ready" or self._waiting_for_model():
            return False
        wanted = tuple(sources)
        self._submit("add", lambda: self._keeper.add(wanted))
        return True

    def remove(self, name: str) -> bool:
        """Take a variant off the deck; False while something else is under way."""
        if self.state != "ready" or self._waiting_for_model():
            return False
        self._submit("remove", lambda: self._keeper.remove(name))
        return True

    def switch(self, names: Sequence[str]) -> bool:
        """Have these answer, one per column; False while something else is under way."""
        if self.state != "ready" or self._waiting_for_model():
            return False
        wanted = tuple(names)
        self._submit("switch", lambda: self._keeper.switch(wanted))
        return True

    def answer(self, batches: Sequence[tuple[tuple[int, Ask], ...]], sampling: Choice,
               seeds: Sequence[int | None]) -> bool:
        """Have rows answered, batch after batch, each with a seed of its own; False while something else is under way.

        Rows carry the number under which their pieces and answers come back.
        """
        if self.why_silent:
            return False
        self._keeper.stopped.clear()
        self._buffer = buffer = PieceBuffer()
        order = tuple(zip(batches, seeds, strict=True))
        self._submit("answer", lambda: self._keeper.answer(order, sampling, buffer))
        self._timer.start()
        return True

    def stop(self) -> None:
        """End the answers after the current token."""
        if self.is_answering and not self._keeper.stopped.is_set():
            self._keeper.stopped.set()
            self.changed.emit()

    def count(self, variant: str, messages: Messages) -> None:
        """Count a prompt's tokens, if nothing else goes on; `counted` tells the number."""
        if self.state != "ready" or self._waiting:
            return
        self._submit("count", lambda: self._keeper.count(variant, messages))

    def close(self, timeout: float = 10.0) -> bool:
        """Stop everything and unload; False if that takes longer than `timeout` seconds.

        What was said until then is told first, so that it can be kept.
        """
        self._keeper.stopped.set()
        self._keeper.cancelled.set()
        if self.state in ("ready", "loading"):
            self._thread.submit(("close", self._keeper.let_go))
        ended = self._thread.close(timeout)
        self._timer.stop()
        self._take_news()
        self.state = "empty"
        return ended

    def _waiting_for_model(self) -> bool:
        return bool(self.doing)

    def _submit(self, kind: str, work: Callable[[], Any]) -> None:
        self._waiting.append(kind)
        self._thread.submit((kind, work))
        if kind != "count":
            self.changed.emit()

    def _tell_news(self) -> None:
        with suppress(RuntimeError):                   # the window may be gone by now
            if isValid(self):
                self._news.emit()

    # -------------------------------------------------------------------------------------- on the main thread
    def _drain(self) -> None:
        if (pieces := self._buffer.drain()):
            self.streamed.emit(pieces)

    @Slot()
    def _take_news(self) -> None:
        while (outcome := self._thread.take()) is not None:
            if outcome.kind == "step":
                self.step = outcome.value
                self.changed.emit()
                continue
            if outcome.kind in self._waiting:
                self._waiting.remove(outcome.kind)
            self._ended(outcome)

    def _ended(self, outcome: Outcome) -> None:
        kind, value, failure = outcome.kind, outcome.value, outcome.failure
        if kind == "close":
            return
        if kind == "load":
            self._load_ended(value, failure)
        elif kind == "unload":
            self.state, self.base, self.variants, self.facts = "empty", "", (), None
            self.released.emit(value or 0)
        elif kind == "answer":
            self._timer.stop()
            self._drain()
            answered, loaded = value if failure is None else (Answered((), failure), None)
            self._take_state(loaded)
            self.answered.emit(answered)
        elif kind == "count":
            if failure is None:
                self.counted.emit(value)
            return                                     # no failure of counting is worth a word: the answer will tell it
        elif failure is not None:
            self.failed.emit(failure)
        elif kind == "switch":
            switch, loaded = value
            self._take_state(loaded)
            self.switched.emit(switch)
        else:
            self._take_state(value)
            self._tell_refused(value)
            if kind == "add":
                self.added.emit()
        self.changed.emit()

    def _take_state(self, loaded: Loaded | None) -> None:
        if loaded is not None:
            reason = loaded.facts.reason or (self.facts.reason if self.facts is not None else "")
            self.variants, self.facts = loaded.variants, replace(loaded.facts, reason=reason)

    def _load_ended(self, loaded: Loaded | None, failure: Failure | None) -> None:
        self.step = None
        if failure is not None:
            cancelled = self._keeper.cancelled.is_set()
            self.state, self.failure = ("empty", None) if cancelled else ("failed", failure)
            self.variants, self.facts = (), None
            if cancelled:
                self.base = ""
            return
        self.state = "ready"
        self._take_state(loaded)
        self._tell_refused(loaded)

    def _tell_refused(self, loaded: Loaded | None) -> None:
        for refused in loaded.refused if loaded is not None else ():
            self.failed.emit(refused)
