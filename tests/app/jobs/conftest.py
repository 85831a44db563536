"""Managers that are shut down at the end of each test, and a look at which threads are left."""

from __future__ import annotations

import os

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")    # before Qt is loaded

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PySide6.QtWidgets import QApplication

from app.jobs.manager import JobManager
from app.jobs.worker import Runner
from tests.app.jobs.play import Player


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def player() -> Player:
    return Player()


@pytest.fixture
def make_jobs(qapp: QApplication, store: Path) -> Iterator[Callable[[Runner | None], JobManager]]:
    """Make managers on one store; a test fails that leaves a thread of theirs behind."""
    made: list[JobManager] = []
    interval = sys.getswitchinterval()
    before = set(threading.enumerate())

    def make(runner: Runner | None) -> JobManager:
        manager = JobManager(store, runner)
        made.append(manager)
        return manager
    yield make
    for manager in made:
        assert manager.shutdown(5.0)
        manager.deleteLater()
    sys.setswitchinterval(interval)
    left = [t.name for t in threading.enumerate() if t not in before and t.name.startswith("deltadeck")]
    assert not left


@pytest.fixture
def jobs(make_jobs: Callable[[Runner | None], JobManager], player: Player) -> JobManager:
    return make_jobs(player)
