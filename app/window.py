"""Start the window: on screen first, the engine after."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


def open_window(arguments: Sequence[str] = ()) -> int:
    """Run the window until it is closed; returns the exit code.

    `arguments` are checkpoint or delta folders to open; `--demo` opens the demo: the real pair, made if need be, or with
    `--tiny` the one that ships with the program.
    """
    # Waiting threads that spin make everything several times slower beside the window; to be said before OpenMP loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from PySide6.QtCore import QLockFile, QTimer
    from PySide6.QtWidgets import QApplication, QMessageBox

    from app import logs
    from app.collector import Collector
    from app.crash import CrashGuard
    from app.paths import data_folder
    from app.settings import Settings
    from app.shell import Shell
    from app.theme import Theme

    app = QApplication.instance() or QApplication(["deltadeck"])
    assert isinstance(app, QApplication)
    app.setApplicationName("deltadeck")
    app.setApplicationDisplayName("Deltadeck")
    app.setDesktopFileName("deltadeck")
    app.setStyle("Fusion")
    data = data_folder()
    with suppress(OSError):                            # said below: no lock can be taken there either
        data.mkdir(parents=True, exist_ok=True)
    lock = QLockFile(str(data / "window.lock"))
    lock.setStaleLockTime(0)                           # only a process that is gone leaves one behind
    if not lock.tryLock(100):
        QMessageBox.information(None, "Deltadeck", _why_not(data, lock.error() is QLockFile.LockError.LockFailedError))
        return 1
    kept = logs.begin(data, "window")
    collector = Collector()
    settings = Settings(data / "settings.json")
    theme = Theme(settings.options.theme, settings.options.zoom)
    window = Shell(settings, theme, data)
    guard = CrashGuard(window.ctx.icons, window)
    guard.install()
    # Python sees a Ctrl-C from the terminal only while it runs some code: let it, a few times a second.
    pulse = QTimer()
    pulse.timeout.connect(_nothing)
    pulse.start(300)
    with suppress(ValueError):
        signal.signal(signal.SIGINT, lambda *_: window.close())
        signal.signal(signal.SIGTERM, lambda *_: window.close())
    window.show()
    window.open_paths([a for a in arguments if not a.startswith("--")])
    if "--demo" in arguments:
        window.open_demo(tiny="--tiny" in arguments)
    try:
        return app.exec()
    finally:
        guard.remove()
        collector.close()
        logs.end(kept)
        lock.unlock()


def _why_not(data: Path, is_open: bool) -> str:
    """Why the window can't open."""
    if is_open:
        return "Deltadeck is open already.\n\nIts queue and library belong to that window."
    return (f"Deltadeck keeps its queue and settings in '{data}', and that folder can't be written to.\n\n"
            "Make it writable, or name another one in DELTADECK_DATA.")


def _nothing() -> None:
    pass
