"""The thread that the deck lives on, and the buffer through which tokens come from it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

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


class DeckThread:
    """One thread that lives from the first order to `close`. `news` is called on it after each order and each step."""

    def __init__(self, news: Callable[[], object]) -> None:
        self._news = news
        self._orders: SimpleQueue[tuple[str, Callable[[], Any]] | None] = SimpleQueue()
        self._outcomes: deque[Outcome] = deque()
        self._thread: threading.Thread | None = None

    def submit(self, kind: str, work: Callable[[], Any]) -> None:
        """Do some work after what was submitted before."""
        if self._thread is None:
            # A daemon: should the program have to end during a long step, it can. Nothing that it does is written anywhere.
            self._thread = threading.Thread(target=self._loop, name="deltadeck-chat", daemon=True)
            self._thread.start()
        self._orders.put((kind, work))

    def step(self, value: Any) -> None:
        """From the thread: tell how far the order is."""
        self._outcomes.append(Outcome("step", value))
        self._news()

    def take(self) -> Outcome | None:
        """The next outcome, if there is one."""
        return self._outcomes.popleft() if self._outcomes else None

    def close(self, timeout: float = 10.0) -> bool:
        """End the thread once its orders have ended; False if that takes longer."""
        if self._thread is None:
            return True
        self._orders.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _loop(self) -> None:
        while (order := self._orders.get()) is not None:
            kind, work = order
            try:
                outcome = Outcome(kind, work())
            except BaseException as e:                 # even an exit belongs to the order, not to the program
                outcome = Outcome(kind, failure=Failure.of(e))
            del order, work                            # not kept alive while nothing happens
            self._outcomes.append(outcome)
            self._news()
