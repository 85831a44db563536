"""Progress: rate and time left, plain lines for a log, a bar on a terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from app.compressing import Listener
from app.console import Terminal
from app.progress import amount, pace, plain_line, showing, standing
from core.errors import Cancelled
from core.events import Progress, StageStarted


def test_rate_and_time_left_follow_from_what_was_done_here() -> None:
    s = standing("Fitting", 13, 30, "blocks", 5.0, 60.0, began_at=3)
    assert s.rate == 2
    assert s.seconds_left == 8.5
    assert (amount(s), pace(s)) == ("13/30 blocks", "2.0 blocks/s")
    assert plain_line(s) == "Fitting     43 %, 13/30 blocks, 2.0 blocks/s, about 8.5 s left"


def test_slow_steps_read_the_other_way_round_and_bytes_as_sizes() -> None:
    assert pace(standing("Fitting", 1, 30, "blocks", 4.0, 4.0)) == "4.0 s/block"
    s = standing("Exporting", 5e6, 20_000_000, "bytes", 2.0, 2.0)
    assert (amount(s), pace(s)) == ("5.00 MB of 20.00 MB", "2.50 MB/s")


def test_a_whole_jobs_estimate_goes_before_the_stages_own() -> None:
    s = standing("Tuning", 1, 2, "steps", 1.0, 1.0, fraction=0.8, seconds_left=None)
    assert s.fraction == 0.8
    assert s.seconds_left is None
    nothing = standing("Tuning", 0, 0, "steps", 0.0, 0.0)
    assert (nothing.fraction, nothing.rate, amount(nothing)) == (0, None, "")


def test_a_log_gets_few_plain_lines() -> None:
    terminal = Terminal()
    terminal.err = Console(file=io.StringIO(), force_terminal=False)
    with showing(terminal) as display:
        display.stage("Planning", 1000, "tensors")
        for i in range(1000):
            display.advance(i)
        display.stage("Writing", 10, "bytes")
        display.advance(1)
    lines = str(terminal.err.file.getvalue()).splitlines()  # type: ignore[attr-defined]
    assert [line.split()[0] for line in lines] == ["Planning", "Writing"]
    assert not any("\x1b" in line for line in lines)


def test_a_terminal_gets_a_bar_that_tells_of_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    terminal.err = Console(file=io.StringIO(), force_terminal=True, width=100)
    with showing(terminal) as display:
        display.stage("Fitting", 4, "blocks")
        display.advance(2)
        terminal.err.print(display)
        assert terminal.announce is not None
        terminal.stopping = True
        terminal.announce()
        terminal.err.print(display)
        with pytest.raises(Cancelled):
            display.advance(3)
    shown = str(terminal.err.file.getvalue())  # type: ignore[attr-defined]
    assert "Fitting" in shown
    assert "2/4 blocks" in shown
    assert "Stopping after this step" in shown
    assert terminal.announce is None


def test_a_prediction_is_told_in_percent_and_then_tensors_are_counted(tmp_path: Path) -> None:
    terminal = Terminal()
    with showing(terminal) as display:
        tell = Listener(display, tmp_path)
        tell(StageStarted(stage="prepare", total=38))
        tell(Progress(stage="prepare", done=0.1, total=1, fraction=0.01))
        tell(Progress(stage="prepare", done=0.71, total=1, fraction=0.1))
        assert display.now is not None
        assert (amount(display.now), pace(display.now)) == ("predicting 71 %", "")
        assert "tensor" not in plain_line(display.now)
        tell(Progress(stage="prepare", done=5, total=38, fraction=0.2))
        assert (amount(display.now), display.now.rate) == ("5/38 tensors", None)
