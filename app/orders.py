"""A thread that carries out one order after another: the jobs' and the chat's are built on it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

Order = TypeVar("Order")
End = TypeVar("End")


class OrderThread(Generic[Order, End]):
    """Lives from the first order to `close`. It is asked to end and waited for, never killed.

    Called on the thread: `carry_out(order)`, which turns an order into its end and raises nothing; `begin` before the first
    order; `news` after each end.
    """

    def __init__(self, name: str, carry_out: Callable[[Order], End], *, begin: Callable[[], object] | None = None,
                 news: Callable[[], object] | None = None) -> None:
        self._name, self._carry_out, self._begin, self._news = name, carry_out, begin, news
        self._orders: SimpleQueue[Order | None] = SimpleQueue()
        self._ends: deque[End] = deque()
        self._thread: threading.Thread | None = None

    def submit(self, order: Order) -> None:
        """Carry out an order after those before it."""
        if self._thread is None:
            # A daemon: should the program have to end during a long step, it can.
            self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
            self._thread.start()
        self._orders.put(order)

    def tell(self, end: End) -> None:
        """From the thread: have something taken by `take`."""
        self._ends.append(end)
        if self._news is not None:
            self._news()

    def take(self) -> End | None:
        """The next order that ended, if one has."""
        return self._ends.popleft() if self._ends else None

    def close(self, timeout: float = 10.0) -> bool:
        """End the thread once its orders have ended; False if that takes longer than `timeout` seconds."""
        if self._thread is None:
            return True
        self._orders.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _loop(self) -> None:
        if self._begin is not None:
            self._begin()
        while (order := self._orders.get()) is not None:
            end = self._carry_out(order)
            del order                                  # not kept alive while nothing happens
            self.tell(end)
            del end
