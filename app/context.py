"""What every page is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app.actions import Actions
from app.icons import Icons
from app.settings import Settings
from app.tasks import Engine, Tasks
from app.theme import Theme

if TYPE_CHECKING:
    from app.chat.session import ChatSession
    from app.jobs.manager import JobManager
    from app.library.store import Library


@dataclass(frozen=True)
class Context:
    """The services of the window. `go(page)` shows a page; `notify(text, tone)` says something for some seconds."""

    settings: Settings
    theme: Theme
    icons: Icons
    actions: Actions
    tasks: Tasks
    engine: Engine
    jobs: JobManager
    library: Library
    data: Path
    go: Callable[[str], None]
    notify: Callable[[str, str], None]
    show_error: Callable[[object], None]
    """Show an `app.tasks.Failure` in a dialog with its details to copy."""
    chat: ChatSession
