"""Runs come back from their files, and a damaged file is no run."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.jobs import runfile
from app.jobs.queue import Failure, State
from app.jobs.runfile import encode_tunes, read_run, read_tunes, snapshot
from app.jobs.runstate import RunState
from tests.app.jobs.play import fitted, point, started, whole_job
from tests.app.jobs.test_runstate import told


def test_a_run_comes_back_whole(tmp_path: Path) -> None:
    state = told([*whole_job("/tmp/x"), started(5, 6)])
    state.end(State.FAILED, Failure(what="The disk is full."))
    path = tmp_path / "run"
    path.write_bytes(snapshot(state)())
    found = read_run(path)
    assert found is not None
    assert found.layers == state.layers and list(found.log) == list(state.log) and found.stages == state.stages
    assert found.curves_of("layer.2") == state.curves_of("layer.2")
    assert repr(found.tune_curve()) == repr(state.tune_curve())
    for name in ("id", "name", "state", "fraction", "layers_done", "layers_total", "bytes_fitted", "blocks", "failure",
                 "log_count", "folder", "tune_before"):
        assert getattr(found, name) == getattr(state, name), name
    assert found.elapsed == state.elapsed and found.row("layer.5") is not None


@pytest.mark.parametrize("data", [b"", b"\x80", b"nonsense", b"\xff" * 100])
def test_a_damaged_file_is_no_run(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "run").write_bytes(data)
    assert read_run(tmp_path / "run") is None and read_tunes(tmp_path / "run") == []
    assert read_run(tmp_path / "missing") is None and read_tunes(tmp_path / "missing") == []


def test_a_cut_file_is_no_run(tmp_path: Path) -> None:
    data = snapshot(told(whole_job("/tmp/x")))()
    for end in (1, len(data) // 2, len(data) - 1):
        (tmp_path / "run").write_bytes(data[:end])
        assert read_run(tmp_path / "run") is None


def test_a_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = told(point(number, x) for number in range(20) for x in range(100))
    whole = snapshot(state)()
    monkeypatch.setattr(runfile, "POINTS", 200)
    small = snapshot(state)()
    assert len(small) < len(whole) / 4
    (tmp_path / "run").write_bytes(small)
    found = read_run(tmp_path / "run")
    assert found is not None
    xs = found.curves_of("layer.7")[0].iterations
    assert len(xs) == 10 and (xs[0], xs[-1]) == (0, 99)


def test_a_snapshot_is_of_its_moment(tmp_path: Path) -> None:
    state = told([started(0), fitted(0)])
    make = snapshot(state)
    told([started(1), fitted(1)], state)
    (tmp_path / "run").write_bytes(make())
    found = read_run(tmp_path / "run")
    assert found is not None and found.layers_done == 1


def test_the_latest_tuning_curves(tmp_path: Path) -> None:
    curves = []
    for number in range(6):
        state = told(whole_job("/tmp/x", steps=3 + number), RunState(str(number), f"run {number}"))
        curves.append(state.tune_curve())
    (tmp_path / "tunes").write_bytes(encode_tunes(curves))
    found = read_tunes(tmp_path / "tunes")
    assert repr(found) == repr(curves[-runfile.TUNES:]) and found[-1].total == 8
