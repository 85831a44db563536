"""How commands end: words, JSON and exit codes for every way of failing."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from app.console import Failed, Terminal, run, stop_signals, to_json
from core.errors import Cancelled, DeltadeckError, DemoUnavailable, NoSpace


def test_json_is_plain_for_any_reader() -> None:
    assert json.loads(to_json({"a": float("nan"), "b": (1, [float("inf")]), "c": Path("x"), 3: "ä"})) == {
        "a": None, "b": [1, [None]], "c": "x", "3": "ä"}


@pytest.mark.parametrize(("error", "code", "kind"), [
    (NoSpace("The disk is full.", "It holds 1 byte.", "Free some."), 2, "NoSpace"),
    (DemoUnavailable("No index.", "", ""), 1, "DemoUnavailable"), (DeltadeckError("It broke.", "", ""), 1, "DeltadeckError"),
    (Cancelled("Stopped in time."), 130, "Cancelled"), (KeyboardInterrupt(), 130, "Cancelled"),
    (PermissionError(13, "Permission denied", "/x"), 1, "OSError"), (ZeroDivisionError("by zero"), 1, "ZeroDivisionError")])
def test_every_failure_has_words_and_a_code(error: BaseException, code: int, kind: str, tmp_path: Path,
                                            capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("platformdirs.user_log_path", lambda name: tmp_path / name)

    def work() -> None:
        raise error
    assert run(Terminal(as_json=True), work) == code
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told.keys() == {"error"}
    assert told["error"].keys() == {"kind", "what", "why", "remedy"}
    assert told["error"]["kind"] == kind
    assert told["error"]["what"] in err.replace("\n", " ")
    assert "Traceback" not in err
    if isinstance(error, ZeroDivisionError):
        kept = next((tmp_path / "deltadeck").iterdir())
        assert str(kept) in told["error"]["why"]
        assert "ZeroDivisionError: by zero" in kept.read_text()
    else:
        assert not (tmp_path / "deltadeck").exists()


def test_debug_shows_the_traceback_and_plain_output_is_no_json(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise RuntimeError("odd [thing]")
    assert run(Terminal(debug=True), work) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "odd [thing]" in err
    assert "Traceback" in err


def test_a_command_that_has_told_all_says_nothing_more(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise Failed
    assert run(Terminal(), work) == 1
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_only_asks(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    terminal, before = Terminal(), signal.getsignal(number)
    with stop_signals(terminal):
        os.kill(os.getpid(), number)
        assert terminal.wants_stop()
        with pytest.raises(Cancelled):
            terminal.check()
    assert signal.getsignal(number) is before
    assert "Stopping after this step" in capfd.readouterr().err
