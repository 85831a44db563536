"""Run a child process that can be watched and cancelled while it runs."""

from __future__ import annotations

import queue
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import IO

from core.errors import Cancelled

_POLL_SECONDS = 0.2


def run_watched(
    command: Sequence[str],
    environment: Mapping[str, str],
    on_line: Callable[[str], None],
    on_tick: Callable[[], None],
    cancelled: Callable[[], bool],
) -> tuple[int, str]:
    """Run `command`; return its exit code and the last 4,000 characters that it wrote on stderr.

    `on_line` gets each line of its stdout; `on_tick` is called a few times a second. Both run in the caller's
    thread. Raises Cancelled, after ending the child, once `cancelled()` is true.
    """
    # A file takes any amount of stderr without a second reader; pipes fill up and stall the child.
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen(
            list(command),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
            errors="replace",
        ) as child:
            _follow(child, on_line, on_tick, cancelled)
            code = child.wait()
        errors.seek(0)
        return code, errors.read().decode("utf-8", "replace")[-4000:].strip()


def _follow(
    child: subprocess.Popen[str],
    on_line: Callable[[str], None],
    on_tick: Callable[[], None],
    cancelled: Callable[[], bool],
) -> None:
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    assert child.stdout is not None
    reader = threading.Thread(target=_read, args=(child.stdout, lines), daemon=True)
    reader.start()
    try:
        while True:
            if cancelled():
                raise Cancelled("Making the demo pair was stopped.", remedy="Start it again to go on.")
            try:
                line = lines.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                on_tick()
                continue
            if line is None:
                return
            on_line(line)
    except BaseException:
        _end(child)  # closes the pipe, so that the reader ends too
        raise
    finally:
        reader.join()


def _read(stream: IO[str], lines: queue.SimpleQueue[str | None]) -> None:
    for line in stream:
        lines.put(line.rstrip("\n"))
    lines.put(None)


def _end(child: subprocess.Popen[str]) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
