"""All conversations: read once in the background, written one file each off the main thread, deleted with a way back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
from PySide6.QtCore import QObject, QTimer, Signal

from app.chat.conversations import Conversation, decode, encode
from app.jobs.files import set_aside
from app.jobs.saver import Saver
from app.tasks import Failure, Task, Tasks

UNDO_FOR = 10_000
"""Milliseconds for which a deletion can be taken back."""


@dataclass(frozen=True)
class Read:
    """What a folder held: conversations, and sentences about files that could not be read."""

    found: tuple[Conversation, ...]
    problems: tuple[str, ...]


def read_all(folder: Path) -> Read:
    """Read every conversation; a damaged file is renamed and told of. For a worker thread."""
    found, problems = [], []
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        try:
            data = path.read_bytes()
        except OSError as e:
            problems.append(f"The conversation in '{path.name}' could not be read: {e.strerror or e}.")
            continue
        try:
            conversation = decode(data)
            if path.stem != conversation.id:
                raise msgspec.DecodeError("its name is not its id")
            found.append(conversation)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            problems.append(_aside(path))
    return Read(tuple(found), tuple(problems))


def _aside(path: Path) -> str:
    try:
        kept = set_aside(path)
    except OSError as e:
        return f"The conversation in '{path.name}' is damaged and could not be put aside: {e.strerror or e}."
    return f"The conversation in '{path.name}' is damaged. It is kept as '{kept.name}'."


class Conversations(QObject):
    """Conversations by id. `changed` comes when there are others than before."""

    changed = Signal()
    message = Signal(str, str)
    """A sentence and its tone."""

    def __init__(self, folder: Path, tasks: Tasks, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.folder = folder
        self.loaded = False
        self._tasks = tasks
        self._saver = Saver()
        self._all: dict[str, Conversation] = {}
        self._gone: list[Conversation] = []
        self._then: list[Callable[[], object]] = []
        self._reading: Task | None = None
        self._forget = QTimer(self, singleShot=True, interval=UNDO_FOR)
        self._forget.timeout.connect(self.commit)
        self._look = QTimer(self, singleShot=True, interval=1500)
        self._look.timeout.connect(self._tell_problems)

    def load(self, then: Callable[[], object] | None = None) -> None:
        """Read the folder, once; `then` is called when it has been read."""
        if self.loaded:
            if then is not None:
                then()
            return
        if then is not None:
            self._then.append(then)
        if self._reading is None:
            folder = self.folder
            self._reading = self._tasks.run(self, lambda task: read_all(folder), self._read, self._read_failed)

    def _read(self, read: Read) -> None:
        self._all = {c.id: c for c in read.found} | self._all
        self._ready()
        for problem in read.problems:
            self.message.emit(problem, "warning")

    def _read_failed(self, failure: Failure) -> None:
        self._ready()
        self.message.emit(f"The conversations could not be read. {failure.what}", "warning")

    def _ready(self) -> None:
        self._reading, self.loaded = None, True
        waiting, self._then = self._then, []
        self.changed.emit()
        for call in waiting:
            call()

    def all(self) -> tuple[Conversation, ...]:
        """The last changed first."""
        return tuple(sorted(self._all.values(), key=lambda c: -c.changed))

    def get(self, id: str) -> Conversation | None:
        """One of them."""
        return self._all.get(id)

    def search(self, text: str) -> tuple[Conversation, ...]:
        """Those that hold every word, in prompts, answers or names."""
        words = text.casefold().split()
        return tuple(c for c in self.all() if c.has_words(words))

    def keep(self, conversation: Conversation) -> None:
        """Take in a conversation as it is now, and write it."""
        known = self._all.get(conversation.id)
        if known is conversation:
            return
        self._all[conversation.id] = conversation
        self._saver.save(self._path(conversation.id), lambda: encode(conversation))
        self._look.start()
        self.changed.emit()

    def delete(self, id: str) -> None:
        """Let go of a conversation; for some seconds `undo` brings it back."""
        gone = self._all.pop(id, None)
        if gone is None:
            return
        self._gone.append(gone)
        self._forget.start()
        self.changed.emit()

    def undo(self) -> tuple[str, ...]:
        """Bring back what was deleted lately; the ids."""
        back, self._gone = self._gone, []
        self._forget.stop()
        self._all |= {c.id: c for c in back}
        if back:
            self.changed.emit()
        return tuple(c.id for c in back)

    def commit(self) -> None:
        """Delete for good what was let go of."""
        gone, self._gone = self._gone, []
        for conversation in gone:
            path = self._path(conversation.id)
            self._saver.work(str(path), lambda path=path: path.unlink(missing_ok=True))  # type: ignore[misc]
        if gone:
            self._look.start()

    def close(self, timeout: float = 10.0) -> bool:
        """Write and delete what waits; False if that takes longer."""
        self._forget.stop()
        self._look.stop()
        self.commit()
        self._look.stop()
        return self._saver.flush(timeout)

    def _path(self, id: str) -> Path:
        return self.folder / f"{id}.json"

    def _tell_problems(self) -> None:
        for problem in self._saver.take_problems():
            self.message.emit(problem, "warning")
        if not self._saver.is_idle:
            self._look.start()
