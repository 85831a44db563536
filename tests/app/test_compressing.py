"""Interrupted jobs: cancelled, killed, gone on with, and the same bytes in the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from app.cli import main
from app.compressing import calibration_place, read_request
from core.errors import BadOption, JobMismatch
from tests.conftest import byte_tokenizer
from tests.models import make_pair, write_text

ROOT = Path(__file__).resolve().parents[2]


def compress(base: Path, tuned: Path, text: Path, output: Path) -> list[str]:
    return ["compress", *map(str, (base, tuned, "-o", output, "--calibration", text, "--samples", 20, "--tune-samples", 24,
                                   "--sequence-length", 48, "--device", "cpu"))]


def stop_after(arguments: list[str], events: Path, number: signal.Signals, kind: str, count: int) -> tuple[int, str]:
    """Start a job, send it a signal once it has told of `count` events of a kind; its exit code and stderr."""
    process = subprocess.Popen([sys.executable, "-m", "app", *arguments, "--events", str(events)], cwd=ROOT,
                               env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if events.exists() and events.read_text().count(f'"event": "{kind}"') >= count:
            process.send_signal(number)
            break
        time.sleep(0.002)
    _, err = process.communicate(timeout=120)
    return process.returncode, err


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    base, tuned = make_pair(folder, "llama", byte_tokenizer(), dtype=torch.bfloat16, num_hidden_layers=4)
    return base, tuned, write_text(folder)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As in the processes that are killed: the number of threads decides the last bits of sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_cancelled_and_killed_jobs_end_with_the_same_bytes(
    pair: tuple[Path, Path, Path], tmp_path: Path, one_thread: None, capsys: pytest.CaptureFixture[str]
) -> None:
    output, job = tmp_path / "d", tmp_path / "d.job"
    code, err = stop_after(compress(*pair, output), tmp_path / "1.jsonl", signal.SIGINT, "layerfitted", 8)
    assert code == 130, err
    assert "Stopping after this step, finished layers are kept" in err
    assert "of 4 blocks are done" in err
    assert f"deltadeck resume {job}" in err
    assert not output.exists()
    done = len(list(job.glob("block-*-done.step")))
    assert done >= 1

    code, err = stop_after(compress(*pair, output), tmp_path / "2.jsonl", signal.SIGKILL, "tunepoint", 2)
    assert code == -signal.SIGKILL, err
    assert f"Resuming: {done} of 4 blocks are done." in err
    assert not output.exists()

    assert main(["resume", str(job), "--json"]) == 0
    out, err = capsys.readouterr()
    assert "Resuming: 4 of 4 blocks are done." in err
    assert json.loads(out)["folder"] == str(output)
    assert not job.exists()

    unbroken = tmp_path / "unbroken" / "d"
    assert main(compress(*pair, unbroken)) == 0
    assert "deltadeck evaluate" in capsys.readouterr().out
    assert {p.name: p.read_bytes() for p in output.iterdir()} == {p.name: p.read_bytes() for p in unbroken.iterdir()}


def test_a_job_folder_gives_its_request(tmp_path: Path) -> None:
    job = tmp_path / "x.job"
    job.mkdir()
    with pytest.raises(BadOption, match=r"no job\.json|no job folder"):
        read_request(job)
    (job / "job.json").write_text('{"full_request": {"base": "b", "output": "/elsewhere/x"}}')
    assert read_request(job) == {"base": "b", "output": str(tmp_path / "x")}
    for broken in ("{", "{}", '{"full_request": 3}'):
        (job / "job.json").write_text(broken)
        with pytest.raises(JobMismatch, match="can't be read"):
            read_request(job)
    job.rename(tmp_path / "renamed")
    with pytest.raises(BadOption, match="named after"):
        read_request(tmp_path / "renamed")


def test_only_files_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.txt").write_text("text")
    assert [calibration_place(s) for s in ("default", "c4", "hub:org/name", "t.txt", "gone.txt")] == [
        "default", "c4", "hub:org/name", str(tmp_path / "t.txt"), "gone.txt"]
