"""Conversations on disk: kept, found again, damaged, deleted with a way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot

from app.chat.conversations import Answers, Conversation, Turn, Version, new_conversation, touched
from app.chat.store import Conversations, read_all
from app.tasks import Tasks


def chat(prompt: str, answer: str = "Yes.") -> Conversation:
    answers = {"A": Answers((Version(text=answer, variant="base"),))}
    return touched(new_conversation(), turns=(Turn(prompt=prompt, answers=answers),))


@pytest.fixture
def open_store(qtbot: QtBot, tmp_path: Path) -> Iterator[Callable[[], Conversations]]:
    made: list[tuple[Conversations, Tasks]] = []

    def make() -> Conversations:
        tasks = Tasks()
        store = Conversations(tmp_path / "chats", tasks)
        made.append((store, tasks))
        store.load()
        qtbot.waitUntil(lambda: store.loaded)
        return store
    yield make
    for store, tasks in made:
        store.close()
        tasks.shutdown()


def test_a_conversation_is_found_again(open_store: Callable[[], Conversations]) -> None:
    store, kept = open_store(), chat("Capital of Norway?", "Oslo \U0001f99c")
    store.keep(kept)
    assert store.close()
    again = open_store()
    assert again.all() == (kept,)
    assert again.search("oslo norway") == (kept,) and again.search("sweden") == ()


def test_the_last_state_is_what_is_written(open_store: Callable[[], Conversations], tmp_path: Path) -> None:
    store, kept = open_store(), chat("One")
    for number in range(20):
        kept = touched(kept, system=str(number))
        store.keep(kept)
    assert store.close()
    assert read_all(tmp_path / "chats").found == (kept,)


def test_a_deleted_one_comes_back_or_is_gone(open_store: Callable[[], Conversations], tmp_path: Path) -> None:
    store, one, two = open_store(), chat("One"), chat("Two")
    store.keep(one)
    store.keep(two)
    store.delete(one.id)
    assert store.all() == (two,)
    assert store.undo() == (one.id,) and {c.id for c in store.all()} == {one.id, two.id}
    store.delete(one.id)
    assert store.close()
    assert read_all(tmp_path / "chats").found == (two,)


def test_a_damaged_file_is_put_aside_and_told(qtbot: QtBot, open_store: Callable[[], Conversations], tmp_path: Path) -> None:
    store, kept = open_store(), chat("Good")
    store.keep(kept)
    assert store.close()
    (tmp_path / "chats" / "20260101-000000-abcdef.json").write_bytes(b'{"id": "2026')
    tasks = Tasks()
    again = Conversations(tmp_path / "chats", tasks)
    said: list[str] = []
    again.message.connect(lambda text, tone: said.append(text))
    again.load()
    qtbot.waitUntil(lambda: again.loaded)
    assert again.all() == (kept,)
    assert said == ["The conversation in '20260101-000000-abcdef.json' is damaged. It is kept as "
                    "'20260101-000000-abcdef.json.broken'."]
    assert (tmp_path / "chats" / "20260101-000000-abcdef.json.broken").read_bytes() == b'{"id": "2026'
    tasks.shutdown()


def test_a_file_under_another_name_is_not_taken_for_it(tmp_path: Path) -> None:
    from app.chat.conversations import encode

    folder = tmp_path / "chats"
    folder.mkdir()
    (folder / "other.json").write_bytes(encode(chat("Hi")))
    found = read_all(folder)
    assert not found.found and len(found.problems) == 1


def test_a_disk_that_refuses_is_told(qtbot: QtBot, open_store: Callable[[], Conversations], tmp_path: Path) -> None:
    store = open_store()
    (tmp_path / "chats").write_text("in the way")
    with qtbot.waitSignal(store.message) as told:
        store.keep(chat("Hi"))
    assert "could not be brought up to date" in told.args[0] and told.args[1] == "warning"
