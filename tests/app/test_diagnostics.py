"""Saved diagnostics hold what a report needs, and nothing that the user wrote."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import msgspec
import pytest

from app import diagnostics, logs
from app.diagnostics import Redaction
from app.jobs.queue import Failure, QueueItem, State, encode_queue
from app.settings import Options

SECRET = "Bartholomew the dog"
HOMES, USERS = "/" + "home", "/" + "Users"
HOME = Path(HOMES) / "alice"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with a secret wherever the user writes."""
    folder = tmp_path / "data"
    for place in ("chats/c1.json", "notes.json", "library.json", "runs/r1.msgpack", "settings.json", "tunes.msgpack",
                  "drafts.txt"):
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"text": SECRET}))
    steps = tmp_path / "out" / "d1.job"
    steps.mkdir(parents=True)
    for name in ("block-0.step", "job.json", "target.bin", "diary.txt"):
        (steps / name).write_text(SECRET)
    item = QueueItem(
        id="j1", name="d1", state=State.FAILED, fraction=0.5, created=1.0,
        request={"base": str(HOME / "base"), "output": str(tmp_path / "out" / "d1"), "samples": 50, "note": SECRET,
                 "texts": [SECRET], "calibration": str(HOME / "text.jsonl")},
        error=Failure(what=f"It said {SECRET}", details=SECRET, kind="ValueError"))
    (folder / "queue.json").write_bytes(encode_queue([item]))
    handler = logs.begin(folder, "window")
    try:
        raise ValueError(SECRET)
    except ValueError as e:
        logs.note(e)
    logs.log.warning("slow disk at %s", HOME / "deltas")
    logs.end(handler)
    return folder


def saved(target: Path, data: Path) -> dict[str, str]:
    options = Options(library=str(HOME / "deltas"), recent=(str(HOME / "base"), "org/model"), chat_presets={SECRET: {"t": 1.0}},
                      chat_last="c1", columns={"x": "y"})
    report = {"fine": True, "machine": {"data": str(HOME / "data")}}
    size = diagnostics.save(target, data, msgspec.to_builtins(options), report, Redaction(HOME, "alice"))
    assert size == target.stat().st_size
    with zipfile.ZipFile(target) as file:
        return {name: file.read(name).decode() for name in file.namelist()}


def test_what_a_report_needs_is_in_it(data: Path, tmp_path: Path) -> None:
    parts = saved(tmp_path / "d.zip", data)
    assert set(parts) == {"README.txt", "doctor.json", "settings.json", "jobs.json", "logs/window.log"}
    (job,) = json.loads(parts["jobs.json"])
    assert (job["state"], job["fraction"], job["error"], job["request"]["samples"]) == ("failed", 0.5, "ValueError", 50)
    assert job["steps"] == {name: len(SECRET) for name in ("block-0.step", "job.json", "target.bin")}
    settings = json.loads(parts["settings.json"])
    assert (settings["zoom"], settings["chat_presets"], settings["library"]) == (1.0, 1, "~/deltas")
    assert "ValueError" in parts["logs/window.log"] and "Traceback" in parts["logs/window.log"]
    assert list(tmp_path.glob("*.partial")) == []


def test_nothing_that_the_user_wrote_is_in_it(data: Path, tmp_path: Path) -> None:
    parts = saved(tmp_path / "d.zip", data)
    assert [name for name, text in parts.items() if "Bartholomew" in text] == []
    raw = (tmp_path / "d.zip").read_bytes()
    assert b"Bartholomew" not in raw and b"alice" not in raw
    assert [name for name, text in parts.items() if "alice" in text] == []


@pytest.mark.parametrize(("text", "expected"), [
    (f"at {HOMES}/alice/x", "at ~/x"), (f"{HOMES}/alice", "~"), (f"{HOMES}/alicea/x", f"{HOMES}/alicea/x"),
    (f"{USERS}/alice/x", "~/x"),
    (r"C:\Users\alice\x", r"~\x"), (r'"C:\\Users\\Alice\\x"', r'"~\\x"'), ("/mnt/alice/x", "/mnt/USER/x"), ("alice", "alice")])
def test_the_users_name_goes_out_of_paths(text: str, expected: str) -> None:
    assert Redaction(HOME, "alice")(text) == expected


def test_a_home_at_the_root_changes_nothing() -> None:
    assert Redaction(Path("/"), "")("/etc/x") == "/etc/x"


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"items": 3}', b'{"items": [3, {"request": 4, "error": 5}]}', b"\xff\xfe"])
def test_a_damaged_queue_does_no_harm(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "queue.json").write_bytes(content)
    json.dumps(diagnostics.jobs_of(tmp_path))
    assert diagnostics.save(tmp_path / "d.zip", tmp_path, {}, {}) > 0


def test_a_target_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        diagnostics.save(tmp_path / "none" / "d.zip", tmp_path, {}, {})
    assert list(tmp_path.iterdir()) == []
