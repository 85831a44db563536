"""What tests of the Compress page share: a runner that waits, and the page as a user sees it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from pytestqt.qtbot import QtBot

from app.context import Context
from app.jobs.worker import Outcome as JobOutcome
from app.pages.compress import CompressPage
from core.errors import Cancelled


class Gate:
    """A runner that stays in its job until it is let go or asked to stop."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def __call__(self, request: dict[str, Any], tell: Any, cancelled: Callable[[], bool]) -> JobOutcome:
        while not self.go.wait(0.005):
            if cancelled():
                raise Cancelled("Cancelled.")
        return JobOutcome(request["output"])


def gated(make_context: Callable[..., Context]) -> Context:
    """A context whose jobs wait, and whose engine is there."""
    made = make_context(Gate())
    made.engine.is_ready = made.engine.started = True
    return made


def shown(ctx: Context, qtbot: QtBot) -> CompressPage:
    """The page on a screen of 1280 x 720."""
    made = CompressPage(ctx)
    qtbot.addWidget(made)
    made.resize(1112, 628)
    made.show()
    return made
