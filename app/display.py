"""Whether a window can be shown here: `python -m app.display` exits with 0 if so; `--check` loads what a window needs."""

from __future__ import annotations

import ctypes.util
import os
import sys


def has_display() -> bool:
    """Whether there is a screen, or a platform without one was asked for by name."""
    if os.environ.get("QT_QPA_PLATFORM", "") in ("offscreen", "minimal", "vnc"):
        return True
    return sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def problem() -> str:
    """What keeps Qt from working here; empty if nothing does."""
    try:
        from PySide6.QtGui import QFontDatabase, QGuiApplication
        from PySide6.QtSvg import QSvgRenderer  # noqa: F401
        from PySide6.QtWidgets import QWidget  # noqa: F401
    except ImportError as e:
        return f"Qt can't be loaded: {e}."
    if os.environ.get("DISPLAY") and sys.platform == "linux" and not ctypes.util.find_library("xcb-cursor"):
        return "The library xcb-cursor is missing: Qt can show no window without it."
    app = QGuiApplication.instance() or QGuiApplication([])
    families = QFontDatabase.families()
    del app
    return "" if families else "There is no font."


def main() -> int:
    """For the Makefile."""
    if "--check" in sys.argv[1:]:
        if found := problem():
            print(found, file=sys.stderr)
            return 1
        return 0
    return 0 if has_display() else 1


if __name__ == "__main__":
    sys.exit(main())
