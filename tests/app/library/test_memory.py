from __future__ import annotations

from pathlib import Path

import pytest

from app.library.memory import Check, Kept, Memory


def test_what_is_remembered_comes_back(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "library.json")
    memory.change("a", note="good", check=Check(at=1.0, signature="s"))
    memory.change("a", base="/x")
    memory.learn_base("digest", "/x")
    assert memory.flush() == []
    again = Memory(tmp_path / "library.json")
    assert again.of("a") == Kept(note="good", base="/x", check=Check(at=1.0, signature="s"))
    assert again.base_of("digest") == "/x" and again.message == ""


def test_nothing_is_kept_without_a_hash_or_a_change(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "library.json")
    memory.change("", note="lost")
    memory.change("a", note="")
    memory.learn_base("", "/x")
    assert memory.flush() == [] and not (tmp_path / "library.json").exists()


def test_a_base_can_be_forgotten(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "library.json")
    memory.learn_base("d", "/x")
    memory.learn_base("d", "")
    memory.flush()
    assert Memory(tmp_path / "library.json").all() == ({}, {})


@pytest.mark.parametrize("text", ["{", '{"version": 7, "deltas": {}}', '{"version": 1, "deltas": {"a": {"note": 3}}}', "[]"])
def test_a_damaged_file_is_set_aside(tmp_path: Path, text: str) -> None:
    path = tmp_path / "library.json"
    path.write_text(text)
    memory = Memory(path)
    assert "library.json.broken" in memory.message and not path.exists()
    assert (tmp_path / "library.json.broken").read_text() == text
    memory.change("a", note="new")
    memory.flush()
    assert Memory(path).of("a").note == "new"


def test_a_write_that_fails_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    memory = Memory(tmp_path / "file" / "library.json")
    memory.change("a", note="x")
    assert len(memory.flush()) == 1
