"""How commands end: words, JSON and exit codes for every way of failing."""

from __future__ import annotations

import io
import json
import os
import re
import signal
from pathlib import Path

import pytest
from rich.control import Control
from rich.panel import Panel
from rich.segment import ControlType

from app.console import CleanConsole, Failed, Terminal, run, stop_signals, to_json
from app.tables import shown, table
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


@pytest.mark.parametrize("live", [False, True])
def test_no_text_steers_the_terminal(live: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    hostile = "a\x1b[31mb\x1b]0;pwn\x07c\x7fd\x9b1me\u202ef\u2066g"
    terminal = Terminal()
    if live:
        monkeypatch.setattr(terminal.out, "_force_terminal", True)
        monkeypatch.setattr(terminal.err, "_force_terminal", True)
    grid = table("Head", "x")
    grid.add_row(hostile, shown(f"[red]{hostile}\nz"))
    terminal.result({}, lambda out: out.print(grid, Panel(hostile)))
    terminal.say(f"[bold]{hostile}[/]")
    terminal.fail("X", hostile, hostile, hostile)
    out, err = capsys.readouterr()
    for text in (out, err):
        assert "a[31mb]0;pwncd1mefg" in text
        left = re.sub(r"\x1b\[[\d;]*m", "", text) if live else text
        assert left.replace("\n", "").isprintable()
        assert "\x1b[31m" not in text
    assert "[red]" in out
    assert "efg z" in out


def test_json_holds_control_characters_as_escapes_only() -> None:
    text = to_json({"name": "a\x1b\x7f\x9b\u202e\u00e4"})
    assert text.isprintable()
    assert "\u00e4" in text
    assert json.loads(text)["name"] == "a\x1b\x7f\x9b\u202e\u00e4"


def test_richs_own_controls_still_move_the_cursor() -> None:
    out = io.StringIO()
    console = CleanConsole(file=out, force_terminal=True)
    console.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2)))
    assert out.getvalue() == "\r\x1b[2K"
