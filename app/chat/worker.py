"""The thread that the deck lives on, and the buffer through which tokens come from it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.orders import OrderThread
from app.tasks import Failure


@dataclass(frozen=True)
class Piece:
    """What a row has said since the last look: its text, and how many tokens that was."""

    row: int
    text: str
    tokens: int


class PieceBuffer:
    """Tokens between two looks of the main thread. `tell` costs a microsecond and raises nothing in the window."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._texts: dict[int, list[str]] = {}

    def tell(self, row: int, text: str) -> None:
        """Take a token's text; it may be empty while a character is not whole."""
        with self._lock:
            self._texts.setdefault(row, []).append(text)

    def drain(self) -> tuple[Piece, ...]:
        """What came since the last call, joined by row."""
        with self._lock:
            texts, self._texts = self._texts, {}
        return tuple(Piece(row, "".join(parts), len(parts)) for row, parts in sorted(texts.items()))


@dataclass(frozen=True)
class Outcome:
    """How an order ended: `kind` as it was submitted, with what it returned or how it failed."""

    kind: str
    value: Any = None
    failure: Failure | None = None


class DeckThread(OrderThread[tuple[str, Callable[[], Any]], Outcome]):
    """Where the deck lives. Orders are a kind and some work; `news` is called on the thread after each order and each step."""

    def __init__(self, news: Callable[[], object]) -> None:
        super().__init__("deltadeck-chat", _carry_out, news=news)

    def step(self, value: Any) -> None:
        """From the thread: tell how far the order is."""
        self.tell(Outcome("step", value))


def _carry_out(order: tuple[str, Callable[[], Any]]) -> Outcome:
    kind, work = order
    try:
        return Outcome(kind, work())
    except BaseException as e:                         # even an exit belongs to the order, not to the program
        return Outcome(kind, failure=Failure.of(e))
