"""The conversation in work: a failure or an end of the program half-way keeps what was said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot

from app.chat.session import ChatSession
from app.chat.store import Conversations, read_all
from app.chat.talk import Talk
from app.tasks import Tasks
from tests.app.chat.fakes import FakeEngine


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def talk(qtbot: QtBot, engine: FakeEngine, tmp_path: Path) -> Iterator[Talk]:
    tasks = Tasks()
    session = ChatSession(engine)
    made = Talk(session, Conversations(tmp_path / "chats", tasks))
    session.load("models/tiny")
    qtbot.waitUntil(lambda: session.state == "ready")
    made.take_deck()
    yield made
    engine.gate.set()
    session.close()
    made.store.close()
    tasks.shutdown()


def test_closing_half_way_keeps_what_was_said(qtbot: QtBot, talk: Talk, engine: FakeEngine, tmp_path: Path) -> None:
    engine.gate.clear()
    talk.send("Capital?")
    assert engine.spoken_first.wait(10)
    assert talk.session.close() and talk.store.close()
    kept = read_all(tmp_path / "chats").found[0].turns[0].answers["A"].current
    assert kept is not None and kept.text == "The " and kept.ended == "stopped"


def test_a_prompt_is_on_disk_before_its_answer(qtbot: QtBot, talk: Talk, engine: FakeEngine, tmp_path: Path) -> None:
    engine.gate.clear()
    talk.send("Capital?")
    assert talk.store._saver.flush()
    assert read_all(tmp_path / "chats").found[0].turns[0].prompt == "Capital?"


def test_nothing_is_sent_twice(qtbot: QtBot, talk: Talk, engine: FakeEngine) -> None:
    engine.gate.clear()
    assert talk.send("Capital?") and not talk.send("Capital?") and not talk.regenerate(0, ("A",)) and not talk.edit(0, "Else")
    assert len(talk.now.turns) == 1


def test_live_counts_and_text(qtbot: QtBot, talk: Talk, engine: FakeEngine) -> None:
    engine.gate.clear()
    talk.send("Capital?")
    qtbot.waitUntil(lambda: talk.live["A"].tokens == 1)
    assert talk.live["A"].whole == "The " and talk.live["A"].first is not None
    engine.gate.set()
    qtbot.waitUntil(lambda: not talk.live)
    version = talk.now.turns[0].answers["A"].current
    assert version is not None and version.text == "The capital is Oslo." and version.tokens == 4


def test_a_variant_that_is_gone_leaves_its_column_to_the_base(talk: Talk) -> None:
    talk.set_sides(("base", "pirate"), 1)
    talk.take_deck()
    assert talk.now.sides == ("base", "base") and talk.now.base == "models/tiny"


def test_a_new_chat_keeps_columns_and_sampling(qtbot: QtBot, talk: Talk) -> None:
    talk.send("Capital?")
    qtbot.waitUntil(lambda: not talk.session.is_answering)
    before = talk.now
    talk.start()
    assert talk.now.id != before.id and talk.now.sides == before.sides and talk.now.sampling == before.sampling
    assert talk.now.turns == () and talk.store.get(before.id) == before
