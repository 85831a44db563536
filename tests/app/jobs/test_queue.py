"""The queue's file, and how errors are explained."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from app.jobs.queue import QueueItem, State, encode_queue, explain, open_words, read_queue, same_place
from core.errors import WrongBase


def item(id: str, state: State, folder: Path = Path("/nowhere")) -> QueueItem:
    return QueueItem(id=id, name=id, request={"output": str(folder / id), "samples": 50}, state=state, seconds_left=5.0)


def test_items_come_back_as_they_were(tmp_path: Path) -> None:
    items = [item(state.value, state) for state in (State.WAITING, State.PAUSED, State.DONE, State.FAILED, State.CANCELLED)]
    (tmp_path / "queue.json").write_bytes(encode_queue(items))
    assert read_queue(tmp_path / "queue.json") == (items, "")


def test_what_ran_when_the_program_died(tmp_path: Path) -> None:
    finished = item("finished", State.RUNNING, tmp_path)
    finished.output.mkdir()
    (finished.output / "delta_config.json").write_text("{}")
    items = [item("a", State.RUNNING), item("b", State.PAUSING), item("c", State.CANCELLING), finished]
    (tmp_path / "queue.json").write_bytes(encode_queue(items))
    found, message = read_queue(tmp_path / "queue.json")
    assert [i.state for i in found] == [State.INTERRUPTED, State.INTERRUPTED, State.CANCELLED, State.DONE]
    assert found[3].folder == str(finished.output) and message == ""
    assert all(i.seconds_left is None for i in found)


@pytest.mark.parametrize("data", [b"", b"[]", b'{"version": 1, "items": [{}]}', b'{"version": 9, "items": []}', b"\xff\xfe{",
                                  b"[" * 100_000])
def test_a_damaged_file_is_set_aside(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "queue.json"
    path.write_bytes(data)
    items, message = read_queue(path)
    assert items == [] and "queue.json.broken" in message and not path.exists()
    assert (tmp_path / "queue.json.broken").read_bytes() == data


def test_two_jobs_with_one_id_are_damage_and_a_missing_file_is_none(tmp_path: Path) -> None:
    path = tmp_path / "queue.json"
    path.write_bytes(encode_queue([item("a", State.DONE)] * 2))
    (tmp_path / "queue.json.broken").write_text("an older one")
    assert "queue.json.broken-2" in read_queue(path)[1]
    assert read_queue(path) == ([], "")


def test_errors_are_explained() -> None:
    said = explain(WrongBase("It is another base.", "The signs would fit nothing.", "Choose its base."))
    assert (said.what, said.why, said.remedy, said.kind) == ("It is another base.", "The signs would fit nothing.",
                                                             "Choose its base.", "WrongBase")
    assert explain(MemoryError()).what == "There was not enough memory."
    assert explain(OSError(errno.ENOSPC, "No space left")).what == "The disk is full."
    other = explain(KeyError("lm_head"))
    assert "KeyError" in other.what and "lm_head" in other.what and other.remedy and "KeyError" in other.details
    assert explain(AssertionError()).what == "AssertionError."


def test_same_place() -> None:
    assert same_place(Path("/a/b/../c"), Path("/a/c")) and not same_place(Path("/a/b"), Path("/a/c"))


def test_open_jobs_in_a_line() -> None:
    states = (State.DONE, State.PAUSING, State.WAITING, State.WAITING, State.INTERRUPTED)
    assert open_words(item(str(i), state) for i, state in enumerate(states)) == "1 running, 2 waiting, 1 interrupted"
    assert open_words([]) == ""


@pytest.mark.parametrize(("state", "can"), [(State.WAITING, "pcx"), (State.RUNNING, "pc"), (State.PAUSING, "c"),
                                            (State.PAUSED, "rcx"), (State.CANCELLING, ""), (State.INTERRUPTED, "rcx"),
                                            (State.FAILED, "tx"), (State.CANCELLED, "tx"), (State.DONE, "x")])
def test_what_can_be_done_in_each_state(state: State, can: str) -> None:
    found = item("a", state)
    assert (found.can_pause, found.can_resume, found.can_cancel, found.can_retry, found.can_remove) == (
        "p" in can, "r" in can, "c" in can, "t" in can, "x" in can)
