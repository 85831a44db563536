"""What the cyclic collector finds is destroyed on the main thread, whoever asks for it."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator

import pytest
from PySide6.QtCore import QObject
from pytestqt.qtbot import QtBot

from app.collector import Collector
from core import garbage


@pytest.fixture
def collector(qtbot: QtBot) -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()
    assert gc.isenabled()
    gc.disable()                                       # as the test found it


class Owner:
    """In a cycle with what it owns."""

    def __init__(self) -> None:
        self.owned, self.again = QObject(), self


def abandoned() -> list[int]:
    """Leave a Qt object in a cycle that nobody holds; the ids of the threads that destroy it come into the list."""
    where: list[int] = []
    owner = Owner()
    weakref.finalize(owner, lambda: where.append(threading.get_ident()))
    return where


def elsewhere(qtbot: QtBot, work: object) -> None:
    assert callable(work)
    thread = threading.Thread(target=work)
    thread.start()
    qtbot.waitUntil(lambda: not thread.is_alive())


def much() -> None:
    """More new objects than the collector's limits."""
    kept = [[i] for i in range(200_000)]
    assert len(kept) == 200_000


def test_a_thread_that_makes_much_collects_nothing(qtbot: QtBot, collector: Collector) -> None:
    collector._timer.stop()
    where = abandoned()
    elsewhere(qtbot, much)
    assert not where
    collector.look()
    collector.look()                                   # what outlived the first look is of the next generation
    gc.collect()
    assert where == [threading.main_thread().ident]


def test_who_asks_elsewhere_is_served_on_the_main_thread(qtbot: QtBot, collector: Collector) -> None:
    where = abandoned()
    elsewhere(qtbot, garbage.collect)
    assert where == [threading.main_thread().ident]
    again = abandoned()
    garbage.collect()
    assert again == [threading.main_thread().ident]


def test_what_is_due_is_collected_in_time(qtbot: QtBot, collector: Collector) -> None:
    where = abandoned()
    kept = [[i] for i in range(2_000)]
    qtbot.waitUntil(lambda: bool(where))
    assert where == [threading.main_thread().ident] and kept


def test_a_main_thread_that_is_busy_keeps_nobody_waiting_for_long(qtbot: QtBot, collector: Collector,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.collector.PATIENCE", 0.05)
    thread = threading.Thread(target=garbage.collect)
    thread.start()
    thread.join(30)                                    # no events meanwhile
    assert not thread.is_alive()
