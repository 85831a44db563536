"""The deck on its own thread: loads a base, puts variants on it, switches, has it answer, and lets it go."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from app.chat.conversations import Choice
from app.chat.engine import BASE, Ask, DeckFacts, Engine, Messages, Mode, Switch, weight_bytes
from app.chat.worker import PieceBuffer
from app.tasks import Failure
from core.errors import BadOption, Cancelled

Kind = Literal["base", "delta", "full"]
Batches = tuple[tuple[tuple[tuple[int, Ask], ...], int | None], ...]
"""Batches of numbered rows, each batch with its seed."""


@dataclass(frozen=True)
class Source:
    """A delta or a full fine-tune to be put on the deck."""

    path: Path
    name: str = ""


@dataclass(frozen=True)
class Variant:
    """A variant on the deck. `bytes` of its weight files."""

    name: str
    path: Path | None
    kind: Kind
    bytes: int
    mode: Mode


@dataclass(frozen=True)
class Step:
    """What is done while a deck is loaded: `done` of `total` things."""

    text: str
    done: int
    total: int


@dataclass(frozen=True)
class Loaded:
    """A deck after a change: all variants (the base first), what it takes, and what could not be put on it."""

    variants: tuple[Variant, ...]
    facts: DeckFacts
    refused: tuple[Failure, ...] = ()


@dataclass(frozen=True)
class Answered:
    """A finished batch: the answers by row, or why there are none."""

    spoken: tuple[Any, ...]
    failure: Failure | None = None


class DeckKeeper:
    """Holds the deck. All methods but `in_the_way` are called on the deck's thread only.

    `stopped` ends answers, `cancelled` ends loading; both may be set from anywhere. `tell(Step)` hears how far loading is.
    """

    def __init__(self, engine: Engine, tell: Callable[[Step], object]) -> None:
        self._engine, self._tell = engine, tell
        self._deck: Any = None
        self._on_deck: dict[str, Variant] = {}
        self.stopped, self.cancelled = threading.Event(), threading.Event()

    @property
    def in_the_way(self) -> str:
        """What uses the model now, as the deck says it; from any thread."""
        return str(getattr(self._deck, "in_the_way", ""))

    def load(self, base: str, sources: tuple[Source, ...], device: str, offline: bool) -> Loaded:
        """Load a base in place of what is there, and put variants on it; those that are refused are told of."""
        self.let_go()
        self._deck = self._engine.open(base, device, offline)
        try:
            self._known()                              # a base without a tokenizer is refused here
            found = self.add(sources, of=len(sources) + 1)
            self._check_cancelled()
            return found
        except BaseException:
            self.let_go()
            raise

    def _check_cancelled(self) -> None:
        if self.cancelled.is_set():
            raise Cancelled("Loading was cancelled.")

    def _put(self, source: Source) -> str:
        there = next((v.name for v in self._known().values() if v.path == source.path), None)
        if there is not None:
            raise BadOption(f"'{there}' is on the deck already.", "", "Click its chip to switch to it.")
        whole = not (source.path / "delta_config.json").is_file()
        name = str(self._deck.add(source.path, self._free_name(source.name or source.path.name, whole=whole)))
        try:
            mode = self._engine.mode(self._deck, name)
        except BaseException:                          # no tokenizer: nothing can be said to it
            self._deck.remove(name)
            raise
        self._known()[name] = Variant(name, source.path, "full" if whole else "delta", weight_bytes(source.path), mode)
        return name

    def _free_name(self, wanted: str, *, whole: bool) -> str:
        """A delta is often called as its fine-tune is, and both may be wanted side by side."""
        others = (f"{wanted}-full" if whole else "", *(f"{wanted}-{i}" for i in range(2, len(self._known()) + 3)))
        return next(n for n in (wanted, *others) if n and n not in self._known())

    def _known(self) -> dict[str, Variant]:
        if BASE not in self._on_deck:
            self._on_deck[BASE] = Variant(BASE, None, "base", 0, self._engine.mode(self._deck, BASE))
        return self._on_deck

    def _state(self, reason: str = "") -> Loaded:
        facts = replace(self._engine.facts(self._deck), reason=reason)
        return Loaded(tuple(self._known().values()), facts)

    def add(self, sources: tuple[Source, ...], of: int = 0) -> Loaded:
        """Put deltas and full fine-tunes on the deck; those that are refused are told of. `of` steps, these are the last."""
        refused = []
        for number, source in enumerate(sources, 1):
            if of:
                self._check_cancelled()
                self._tell(Step(f"Checking {source.name or source.path.name}, putting it on the deck", number, of))
            try:
                self._put(source)
            except Exception as e:
                refused.append(Failure.of(e))
        return replace(self._state(), refused=tuple(refused))

    def remove(self, name: str) -> Loaded:
        """Take a variant off the deck."""
        self._deck.remove(name)
        self._known().pop(name, None)
        return self._state()

    def switch(self, names: tuple[str, ...]) -> tuple[Switch, Loaded]:
        """Have these answer, one per column."""
        self._engine.forget(self._deck, names)
        found = None
        if len(set(names)) > 1:
            with suppress(BadOption):                  # one of them can't be laid over: they answer one after another then
                found = self._deck.assign(names)
        if found is None:
            found = self._deck.switch(names[0])
        return (Switch(found.variant, found.how, found.reason, found.tensors, found.seconds), self._state(found.reason))

    def answer(self, order: Batches, sampling: Choice, buffer: PieceBuffer) -> tuple[Answered, Loaded]:
        """Have batches answered, one after another, until one fails or somebody says stop."""
        spoken: dict[int, Any] = {}
        failure = None
        for batch, seed in order:
            numbers = [number for number, _ in batch]
            if self.stopped.is_set():
                break
            try:
                answers = self._engine.answer(self._deck, [ask for _, ask in batch], sampling, seed,
                                              lambda row, text, numbers=numbers: buffer.tell(numbers[row], text),  # type: ignore[misc]
                                              self.stopped.is_set)
            except Exception as e:
                failure = Failure.of(e)
                break
            spoken |= dict(zip(numbers, answers, strict=True))
        return Answered(tuple(sorted(spoken.items())), failure), self._state()

    def count(self, variant: str, messages: Messages) -> int:
        """Tokens of a prompt."""
        return self._engine.count(self._deck, variant, messages)

    def let_go(self) -> int:
        """Unload; how many bytes went back to the system."""
        deck, self._deck = self._deck, None
        self._on_deck = {}
        return int(deck.close()) if deck is not None else 0
