"""Child processes of `bench_window`: a job without a window, and the same job under one that counts a timer's delays."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def alone(request: dict[str, Any]) -> dict[str, Any]:
    """Run a request; seconds of wall and processor time."""
    from core.job import Job
    from core.request import Request
    began, cpu = time.perf_counter(), time.process_time()
    Job(Request(**request), lambda event: None).run()
    return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}


def under_window(request: dict[str, Any], data: Path) -> dict[str, Any]:
    """Run a request in the window, its Run page on screen; also the delays of a 10 ms timer on the main thread."""
    from PySide6.QtCore import Qt, QTimer
    from PySide6.QtWidgets import QApplication

    from app.settings import Settings
    from app.shell import Shell
    from app.theme import Theme
    app = QApplication([])
    app.setStyle("Fusion")
    settings = Settings(data / "settings.json")
    settings.set(library=str(data / "deltas"), theme="light")
    window = Shell(settings, Theme("light"), data)
    window.resize(1440, 900)
    window.show()
    window.ctx.engine.load()
    while not window.ctx.engine.is_ready:
        app.processEvents()
    window.go("run")
    delays: list[float] = []
    last = time.perf_counter()

    def tick() -> None:
        nonlocal last
        now = time.perf_counter()
        delays.append(now - last - 0.010)
        last = now

    def over(item: object) -> None:
        timer.stop()
        QTimer.singleShot(0, app.quit)
    timer = QTimer()
    timer.setTimerType(Qt.TimerType.PreciseTimer)
    timer.timeout.connect(tick)
    window.ctx.jobs.finished.connect(over)
    window.ctx.jobs.failed.connect(over)
    began, cpu = time.perf_counter(), time.process_time()
    window.ctx.jobs.add("bench", request, base_name="base", fine_tuned_name="pirate")
    last = time.perf_counter()
    timer.start(10)
    app.exec()
    result = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu, "ticks": len(delays),
              "state": str(window.ctx.jobs.items()[0].state)}
    window.close()
    delays.sort()
    return {**result, **{name: delays[min(len(delays) - 1, int(share * len(delays)))]
                         for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))}}


if __name__ == "__main__":
    wanted = json.loads(sys.argv[2])
    print(json.dumps(alone(wanted) if sys.argv[1] == "alone" else under_window(wanted, Path(sys.argv[3]))))
