"""The window: how soon it is on screen, how smooth it stays while a real job runs, and what it costs the job.

Start-up is timed from outside, from the process's start until the X server shows its window, beside an empty Qt window
started the same way; it needs Xvfb and xdotool and is left out without them. Smoothness is the delay of a 10 ms timer
on the main thread, with the Run page on screen, over a whole job on the real pair; the same job runs without a window
before and after it.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks.pairs import real_pairs

STARTS = 5
SAMPLES, TUNE_SAMPLES = 16, 40
PATIENCE = 60.0

_BARE = """
from PySide6.QtWidgets import QApplication, QWidget
app = QApplication([])
window = QWidget()
window.setWindowTitle("Deltadeck")
window.resize(800, 600)
window.show()
app.exec()
"""


@contextmanager
def screen() -> Iterator[dict[str, str]]:
    """Environment for a program with a window: a virtual screen of its own where Xvfb is installed, else offscreen."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(Path.cwd())}
    if not (shutil.which("Xvfb") and shutil.which("xdotool")):
        yield {**environment, "QT_QPA_PLATFORM": "offscreen"}
        return
    number = next(n for n in range(90, 200) if not Path(f"/tmp/.X11-unix/X{n}").exists())
    server = subprocess.Popen(["Xvfb", f":{number}", "-screen", "0", "1920x1080x24", "-nolisten", "tcp", "-noreset"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 10
        while not Path(f"/tmp/.X11-unix/X{number}").exists() and time.monotonic() < end:
            time.sleep(0.02)
        yield {**environment, "DISPLAY": f":{number}", "QT_QPA_PLATFORM": "xcb"}
    finally:
        server.terminate()
        server.wait()


def start_seconds(command: list[str], environment: dict[str, str]) -> float:
    """From a process's start until its window is visible on the X server."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while time.perf_counter() - begin < PATIENCE and process.poll() is None:
            found = subprocess.run(["xdotool", "search", "--onlyvisible", "--name", "^Deltadeck$"], env=environment,
                                   capture_output=True, text=True, timeout=PATIENCE)
            if found.stdout.strip():
                return time.perf_counter() - begin
            time.sleep(0.005)
        raise RuntimeError(f"no window came of {' '.join(command[:4])}")
    finally:
        process.kill()                                 # the next start must not find this one's window
        process.wait()


def _child(environment: dict[str, str], *arguments: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", "tests.benchmarks.window_child", *arguments], env=environment,
                          capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def start_rows(environment: dict[str, str], work: str) -> list[dict[str, Any]]:
    """Start-up beside an empty window; nothing without an X server."""
    if environment["QT_QPA_PLATFORM"] != "xcb":
        return []
    ours, bare = [], []
    for i in range(STARTS + 1):
        own = {**environment, "DELTADECK_DATA": f"{work}/start"}
        times = (start_seconds([sys.executable, "-m", "app"], own), start_seconds([sys.executable, "-c", _BARE], environment))
        if i:                                          # the first warms the disk's cache
            ours.append(times[0])
            bare.append(times[1])
    listed = ", ".join(f"{t:.2f}" for t in ours)
    return [{"name": "window on screen after the process starts", "value": round(statistics.median(ours), 3), "unit": "s",
             "reference": f"an empty Qt window: {statistics.median(bare):.3f} s; ours {listed}", "goal": 1.0, "better": "lower"}]


def run() -> list[dict[str, Any]]:
    """Start-up, smoothness, and the job's slow-down."""
    with screen() as environment, tempfile.TemporaryDirectory() as work:
        rows = start_rows(environment, work)
        base, tuned = real_pairs()["pirate"]

        def request(name: str) -> str:
            return json.dumps({"base": str(base), "fine_tuned": str(tuned), "output": f"{work}/{name}", "calibration": "default",
                               "samples": SAMPLES, "tune_samples": TUNE_SAMPLES})
        before = _child(environment, "alone", request("before"))
        window = _child(environment, "window", request("beside"), f"{work}/data")
        after = _child(environment, "alone", request("after"))
    alone = (before["seconds"] + after["seconds"]) / 2
    rows.append({"name": "delay of a 10 ms timer on the main thread while a job runs, p99",
                 "value": round(1000 * window["p99"], 1), "unit": "ms", "goal": 33, "better": "lower",
                 "reference": f"median {1000 * window['p50']:.1f} ms, worst {1000 * window['max']:.0f} ms, "
                              f"{window['ticks']} ticks in {window['seconds']:.0f} s"})
    rows.append({"name": "a job under the window / without it", "value": round(window["seconds"] / alone, 3), "unit": "x",
                 "goal": 1.05, "better": "lower",
                 "reference": f"{before['seconds']:.1f} and {after['seconds']:.1f} s without (processor {before['cpu']:.0f} s), "
                              f"{window['seconds']:.1f} s under the window (processor {window['cpu']:.0f} s)"})
    return rows


if __name__ == "__main__":
    for row in run():
        print(row)
