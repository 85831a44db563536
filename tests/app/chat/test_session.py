"""The session: orders on the deck's thread, what excludes each other, tokens in portions, stopping."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pytestqt.qtbot import QtBot

from app.chat.conversations import Choice
from app.chat.engine import Ask, Messages, Switch
from app.chat.session import Answered, ChatSession, Source
from app.chat.worker import Piece, PieceBuffer
from app.tasks import Failure
from core.errors import DeltadeckError
from tests.app.chat.fakes import FakeEngine

HI: Messages = (("user", "Hi"),)


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    made = FakeEngine()
    yield made
    made.gate.set()
    made.slow.set()


@pytest.fixture
def session(qtbot: QtBot, engine: FakeEngine) -> Iterator[ChatSession]:
    made = ChatSession(engine)
    yield made
    engine.gate.set()
    engine.slow.set()
    assert made.close()


@pytest.fixture
def ready(qtbot: QtBot, session: ChatSession, tmp_path: Path) -> ChatSession:
    for name in ("pirate", "bard"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "delta_config.json").write_text("{}")
    session.load("models/tiny", (Source(tmp_path / "pirate"), Source(tmp_path / "bard")))
    qtbot.waitUntil(lambda: session.state == "ready")
    return session


def ask(*names: str) -> list[tuple[tuple[int, Ask], ...]]:
    return [tuple((i, Ask(n, HI)) for i, n in enumerate(names))]


def test_a_base_is_loaded_with_its_variants(ready: ChatSession) -> None:
    assert [(v.name, v.kind) for v in ready.variants] == [("base", "base"), ("pirate", "delta"), ("bard", "delta")]
    assert ready.base_name == "tiny" and ready.facts is not None and ready.facts.context == 2048
    assert ready.in_the_way == ""


def test_steps_are_told_while_it_loads(qtbot: QtBot, session: ChatSession, engine: FakeEngine, tmp_path: Path) -> None:
    (tmp_path / "pirate").mkdir()
    steps: list[str] = []
    session.changed.connect(lambda: steps.append(session.step.text) if session.step is not None else None)
    engine.slow.clear()
    session.load("models/tiny", (Source(tmp_path / "pirate"),))
    assert session.state == "loading" and session.in_the_way == "The base is being loaded."
    assert not session.load("models/other") and not session.switch(("base",))
    engine.slow.set()
    qtbot.waitUntil(lambda: session.state == "ready")
    assert steps[0] == "Reading tiny" and "Checking pirate, putting it on the deck" in steps


def test_a_base_that_can_t_be_loaded_says_why(qtbot: QtBot, session: ChatSession, engine: FakeEngine) -> None:
    engine.fail_open = DeltadeckError("The memory is too small.", "", "Close other programs.")
    session.load("models/tiny")
    qtbot.waitUntil(lambda: session.state == "failed")
    assert session.failure is not None and session.failure.what == "The memory is too small."
    engine.fail_open = None
    assert session.load("models/tiny")
    qtbot.waitUntil(lambda: session.state == "ready")


def test_a_variant_that_is_refused_leaves_the_others(qtbot: QtBot, session: ChatSession, tmp_path: Path) -> None:
    (tmp_path / "pirate").mkdir()
    failures: list[Failure] = []
    session.failed.connect(failures.append)
    session.load("models/tiny", (Source(tmp_path / "gone"), Source(tmp_path / "pirate")))
    qtbot.waitUntil(lambda: session.state == "ready")
    assert [v.name for v in session.variants] == ["base", "pirate"]
    assert [f.what for f in failures] == [f"'{tmp_path / 'gone'}' is not there."]


def test_loading_can_be_given_up(qtbot: QtBot, session: ChatSession, engine: FakeEngine, tmp_path: Path) -> None:
    engine.slow.clear()
    (tmp_path / "pirate").mkdir()
    session.load("models/tiny", (Source(tmp_path / "pirate"),))
    qtbot.waitUntil(lambda: bool(engine.opened))
    session.cancel_load()
    assert session.is_cancelling
    engine.slow.set()
    qtbot.waitUntil(lambda: session.state == "empty")
    assert engine.deck.closed and not session.variants


def test_unloading_tells_what_went_back(qtbot: QtBot, ready: ChatSession, engine: FakeEngine) -> None:
    with qtbot.waitSignal(ready.released) as told:
        assert ready.unload()
    assert told.args == [269_000_000] and ready.state == "empty" and engine.deck.closed


def test_switching_alone_side_by_side_and_where_that_can_t_be(qtbot: QtBot, ready: ChatSession, engine: FakeEngine,
                                                              tmp_path: Path) -> None:
    found: list[Switch] = []
    ready.switched.connect(found.append)
    for names in (("pirate",), ("base", "pirate"), ("pirate", "stubborn")):
        assert ready.switch(names)
        assert ready.in_the_way == "A variant is being switched on."
        qtbot.waitUntil(lambda: not ready.doing)
    assert engine.deck.switches == [("pirate",), ("base", "pirate"), ("pirate",)]
    assert [(s.variant, s.how) for s in found] == [("pirate", "merged"), ("base, pirate", "overlay"), ("pirate", "merged")]


def test_an_answer_comes_in_pieces_and_whole(qtbot: QtBot, ready: ChatSession) -> None:
    pieces: list[Piece] = []
    answers: list[Answered] = []
    threads: set[int] = set()
    ready.streamed.connect(pieces.extend)
    ready.streamed.connect(lambda _: threads.add(threading.get_ident()))
    ready.answered.connect(answers.append)
    assert ready.answer(ask("base", "pirate"), Choice(), [1])
    qtbot.waitUntil(lambda: bool(answers))
    assert "".join(p.text for p in pieces if p.row == 1) == "Arr, that be Oslo."
    assert sum(p.tokens for p in pieces if p.row == 0) == 4
    assert [n for n, _ in answers[0].spoken] == [0, 1] and threads == {threading.get_ident()}


def test_everything_else_waits_for_an_answer_with_a_reason(qtbot: QtBot, ready: ChatSession, engine: FakeEngine,
                                                           tmp_path: Path) -> None:
    engine.gate.clear()
    ready.answer(ask("base"), Choice(), [1])
    assert ready.in_the_way == "An answer is being written."
    assert not (ready.switch(("pirate",)) or ready.add((Source(tmp_path),)) or ready.remove("pirate") or ready.unload()
                or ready.answer(ask("base"), Choice(), [1]) or ready.load("other"))
    ready.count("base", HI)
    engine.gate.set()
    qtbot.waitUntil(lambda: not ready.is_answering)
    assert ready.switch(("pirate",))


def test_stop_ends_after_a_token_and_never_waits(qtbot: QtBot, ready: ChatSession, engine: FakeEngine) -> None:
    engine.gate.clear()
    answers: list[Answered] = []
    ready.answered.connect(answers.append)
    ready.answer(ask("base"), Choice(), [1])
    assert engine.spoken_first.wait(10)
    ready.stop()
    assert ready.is_stopping
    qtbot.waitUntil(lambda: bool(answers))
    spoken: Any = dict(answers[0].spoken)[0]
    assert spoken.text == "The " and spoken.ended == "stopped" and not ready.is_stopping


def test_a_failed_answer_says_why_and_frees_the_deck(qtbot: QtBot, ready: ChatSession, engine: FakeEngine) -> None:
    engine.fail_answer = DeltadeckError("Out of memory.", "", "Close other programs.")
    answers: list[Answered] = []
    ready.answered.connect(answers.append)
    ready.answer(ask("base"), Choice(), [1])
    qtbot.waitUntil(lambda: bool(answers))
    assert answers[0].failure is not None and answers[0].failure.what == "Out of memory." and not ready.in_the_way


def test_what_another_part_does_with_the_model_is_in_the_way(ready: ChatSession, engine: FakeEngine) -> None:
    engine.deck.in_the_way = "The base is being fitted."
    assert ready.in_the_way == "The base is being fitted."


def test_counting_is_told(qtbot: QtBot, ready: ChatSession) -> None:
    with qtbot.waitSignal(ready.counted) as told:
        ready.count("base", (("user", "one two three"),))
    assert told.args == [3]


def test_closing_while_it_answers_ends_the_thread(qtbot: QtBot, ready: ChatSession, engine: FakeEngine) -> None:
    engine.gate.clear()
    ready.answer(ask("base"), Choice(), [1])
    assert engine.spoken_first.wait(10)
    assert ready.close() and engine.deck.closed


def test_asking_for_the_page_is_kept_until_it_is_taken(qtbot: QtBot, session: ChatSession, tmp_path: Path) -> None:
    with qtbot.waitSignal(session.open_asked):
        session.open("models/tiny", (Source(tmp_path),))
    assert session.wanted == ("models/tiny", (Source(tmp_path),))


def test_no_character_is_lost_between_two_threads() -> None:
    buffer = PieceBuffer()
    text = "\u4f60\u597d \U0001f469\u200d\U0001f680 na\u00efve " * 400
    found: list[str] = []
    done = threading.Event()

    def write() -> None:
        for character in text:
            buffer.tell(0, character)
        done.set()
    thread = threading.Thread(target=write)
    thread.start()
    tokens = 0
    while not done.is_set():
        for piece in buffer.drain():
            found.append(piece.text)
            tokens += piece.tokens
    thread.join()
    for piece in buffer.drain():
        found.append(piece.text)
        tokens += piece.tokens
    assert "".join(found) == text and tokens == len(text)


def test_a_delta_and_its_fine_tune_stand_side_by_side(qtbot: QtBot, ready: ChatSession, tmp_path: Path) -> None:
    whole, other = tmp_path / "whole" / "pirate", tmp_path / "more" / "pirate"
    whole.mkdir(parents=True)
    other.mkdir(parents=True)
    (other / "delta_config.json").write_text("{}")
    failures: list[Failure] = []
    ready.failed.connect(failures.append)
    assert ready.add((Source(whole, "pirate"), Source(other), Source(tmp_path / "pirate")))
    qtbot.waitUntil(lambda: not ready.doing)
    assert [v.name for v in ready.variants] == ["base", "pirate", "bard", "pirate-full", "pirate-2"]
    assert [f.what for f in failures] == ["'pirate' is on the deck already."]


def test_columns_tell_the_engine_what_need_not_be_kept(qtbot: QtBot, ready: ChatSession, engine: FakeEngine) -> None:
    assert ready.switch(("base", "bard"))
    qtbot.waitUntil(lambda: not ready.doing)
    assert engine.forgotten[-1] == ("base", "bard")


def test_signals_reach_only_the_living(qtbot: QtBot, engine: FakeEngine) -> None:
    session = ChatSession(engine)
    engine.slow.clear()
    session.load("models/tiny")
    qtbot.waitUntil(lambda: bool(engine.opened))
    thread: Callable[[float], bool] = session._thread.close
    session.deleteLater()
    qtbot.wait(1)
    engine.slow.set()
    assert thread(10.0)
