"""The log keeps errors with their tracebacks, in files of bounded size, and none of the user's words."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import logs
from app.jobs.queue import explain
from app.tasks import Failure
from core.errors import BadOption, Cancelled, DeltadeckError

SECRET = "my dog is called Bartholomew"


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Path]:
    """The log file of a process that logs."""
    quiet = logging.root.manager.disable               # quiet commands, run by other tests, switch warnings off
    logging.disable(logging.NOTSET)
    handler = logs.begin(tmp_path, "window")
    yield tmp_path / "logs" / "window.log"
    logs.end(handler)
    logging.disable(quiet)


def caught(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as e:
        return e


def test_nothing_is_made_until_something_goes_wrong(kept: Path) -> None:
    logging.getLogger("deltadeck").info("all is well")
    assert not kept.parent.exists()


def test_an_error_comes_with_its_traceback_and_its_cause(kept: Path) -> None:
    Failure.of(caught(DeltadeckError("The disk is full.", "why", "do"), caught(OSError(28, "No space left", "a.bin"))))
    text = kept.read_text()
    assert "ERROR" in text and "DeltadeckError: The disk is full." in text
    assert "OSError: No space left: a.bin" in text and "which led to:" in text
    assert text.count("Traceback") == 2 and "raise error from cause" in text
    assert kept.stat().st_mode & 0o077 == 0


def test_an_error_is_logged_once_and_an_end_that_was_asked_for_never(kept: Path) -> None:
    error = caught(RuntimeError("odd"))
    Failure.of(error)
    explain(error)
    logs.note(error)
    for wanted in (Cancelled("Cancelled."), KeyboardInterrupt(), SystemExit(0)):
        logs.note(caught(wanted))
    text = kept.read_text()
    assert text.count("RuntimeError: odd") == 1
    assert "Cancelled" not in text and "Interrupt" not in text and "SystemExit" not in text
    logs.note(caught(BadOption("No such axis.")))
    assert "WARNING" in kept.read_text()


@pytest.mark.parametrize("error", [
    ValueError(f"can't read {SECRET}"), KeyError(SECRET), json.JSONDecodeError("Expecting value", SECRET, 0), Exception(SECRET),
    UnicodeEncodeError("utf-8", SECRET, 0, 1, SECRET), DeltadeckError("The template failed.", f"It said: {SECRET}."),
    ExceptionGroup(SECRET, [ValueError(SECRET)])])
def test_words_that_could_quote_the_user_are_left_out(kept: Path, error: Exception) -> None:
    error.add_note(SECRET)
    logs.note(caught(error, caught(ValueError(SECRET))))
    text = kept.read_text()
    assert type(error).__name__ in text and "Traceback" in text
    assert SECRET not in text


def test_of_other_libraries_only_the_place_is_kept(kept: Path) -> None:
    logging.getLogger("some_library.deep").warning("odd prompt: %s", SECRET)
    logging.getLogger().error(SECRET)
    text = kept.read_text()
    assert "some_library.deep" in text and "a message from test_logs:" in text
    assert SECRET not in text


def test_files_are_few_and_bounded(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = next(h for h in logging.getLogger().handlers if isinstance(h, logs._Files))
    handler.maxBytes = 4000
    for i in range(300):
        logs.note(caught(RuntimeError(f"{i} {'x' * 5000}")))
    files = sorted(kept.parent.iterdir())
    assert [f.name for f in files] == ["window.log", *(f"window.log.{i}" for i in range(1, logs.KEPT + 1))]
    assert all(f.stat().st_size <= 4000 for f in files)
    assert "299 xxx" in kept.read_text()


def test_a_folder_that_cannot_be_written_disturbs_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    handler = logs.begin(tmp_path / "file", "window")
    logs.note(caught(RuntimeError("odd")))
    logs.end(handler)
    assert capsys.readouterr().err == ""


def test_without_a_log_nothing_is_printed(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    logs.note(caught(RuntimeError("odd")))
    assert not caplog.records and capsys.readouterr().err == ""


def test_refusals_are_heard_though_warnings_are_switched_off(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logging.disable(logging.WARNING)                   # as quiet commands do
    Failure.of(caught(BadOption("There is no such folder.", "", "Give another.")))
    logging.getLogger("some.library").warning("chatter")
    text = kept.read_text()
    assert "WARNING deltadeck" in text and "BadOption: There is no such folder." in text and "chatter" not in text
    assert capsys.readouterr().err == ""
