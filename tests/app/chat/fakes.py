"""An engine that says what a test wants, on the real thread of a real session."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.chat.conversations import Choice
from app.chat.engine import Ask, DeckFacts, Messages, Mode, Spoken
from core.errors import BadOption, NotADelta

PATIENCE = 20.0


@dataclass(frozen=True)
class Switched:
    """As a deck tells it."""

    variant: str
    how: str
    reason: str
    tensors: int
    seconds: float


class FakeDeck:
    """Names on a deck."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.on: tuple[str, ...] = ("base",)
        self.closed = False
        self.in_the_way = ""
        self.switches: list[tuple[str, ...]] = []

    def add(self, folder: Path, name: str | None = None) -> str:
        """Puts any folder on that is there."""
        if not Path(folder).is_dir():
            raise NotADelta(f"'{folder}' is not there.", "", "Choose another folder.")
        self.names.append(name or Path(folder).name)
        return self.names[-1]

    def remove(self, name: str) -> None:
        """Takes it off."""
        self.names.remove(name)

    def switch(self, name: str) -> Switched:
        """Alone."""
        self.on = (name,)
        self.switches.append(self.on)
        return Switched(name, "merged", "merged: one variant", 211, 0.041)

    def assign(self, rows: Sequence[str]) -> Switched:
        """Side by side."""
        if "stubborn" in rows:
            raise BadOption("'stubborn' can't be laid over.")
        self.on = tuple(rows)
        self.switches.append(self.on)
        return Switched(", ".join(rows), "overlay", "overlay: side by side", 211, 0.002)

    def close(self) -> int:
        """Everything goes back."""
        self.closed = True
        return 269_000_000


class FakeEngine:
    """Says `texts[variant]` word by word. `gate` is waited for before each word but the first."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {"base": "The capital is Oslo.", "pirate": "Arr, that be Oslo."}
        self.gate = threading.Event()
        self.gate.set()
        self.spoken_first = threading.Event()
        self.deck = FakeDeck()
        self.opened: list[str] = []
        self.asked: list[tuple[Ask, ...]] = []
        self.seeds: list[int | None] = []
        self.fail_open: Exception | None = None
        self.fail_answer: Exception | None = None
        self.forgotten: list[tuple[str, ...]] = []
        self.completing: set[str] = set()
        self.slow = threading.Event()
        self.slow.set()

    def open(self, base: str, device: str, offline: bool) -> Any:
        """A deck, once `slow` is set."""
        self.opened.append(base)
        assert self.slow.wait(PATIENCE)
        if self.fail_open is not None:
            raise self.fail_open
        self.deck = FakeDeck()
        return self.deck

    def facts(self, deck: Any) -> DeckFacts:
        """Of the size of a small model."""
        return DeckFacts(269_000_000, 1_000_000_000, 2048, ", ".join(dict.fromkeys(deck.on)),
                         "overlay" if len(deck.on) > 1 else "merged")

    def mode(self, deck: Any, variant: str) -> Mode:
        """As told."""
        return "completion" if variant in self.completing else "chat"

    def count(self, deck: Any, variant: str, messages: Messages) -> int:
        """Words."""
        return sum(len(text.split()) for _, text in messages)

    def forget(self, deck: Any, columns: Sequence[str]) -> None:
        """Of which columns it was told."""
        self.forgotten.append(tuple(columns))

    def answer(self, deck: Any, asks: Sequence[Ask], sampling: Choice, seed: int | None, tell: Callable[[int, str], None],
               stopped: Callable[[], bool]) -> list[Spoken]:
        """Word by word, all rows in step."""
        self.asked.append(tuple(asks))
        self.seeds.append(seed)
        if self.fail_answer is not None:
            raise self.fail_answer
        words = [[w + " " for w in self.texts.get(a.variant, f"I am {a.variant}.").split(" ")] for a in asks]
        words = [[*w[:-1], w[-1].rstrip()] for w in words]
        said: list[list[str]] = [[] for _ in asks]
        for step in range(min(max(map(len, words)), sampling.max_new_tokens)):
            if step:
                self.wait(stopped)
            if stopped():
                break
            for number, row in enumerate(words):
                if step < len(row):
                    said[number].append(row[step])
                    tell(number, row[step])
            self.spoken_first.set()
        return [Spoken(a.variant, "".join(s), len(s), 1.5, 0.09, 36.1, "overlay" if len(asks) > 1 else "merged", 0.0,
                       "end" if len(s) == len(w) else "stopped" if stopped() else "length", 40, 2048, seed=seed or 7)
                for a, s, w in zip(asks, said, words, strict=True)]

    def wait(self, stopped: Callable[[], bool]) -> None:
        """For the gate, or for the end."""
        end = time.monotonic() + PATIENCE
        while not self.gate.wait(0.002) and not stopped():
            assert time.monotonic() < end
