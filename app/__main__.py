"""The program: without arguments the window, with arguments the command line (`python -m app`, or `deltadeck`)."""

from __future__ import annotations

import sys


def main() -> int:
    """Open the window or run a command; returns the exit code."""
    given = sys.argv[1:]
    if not given or given[0] == "window":
        # Not by way of the command line's own libraries: the window is to be on screen at once.
        from app.display import has_display

        if has_display():
            from app.window import open_window

            return open_window(given[1:])
    from app.cli import main as command_line

    return command_line()


def window() -> int:
    """Open the window with the folders given: for starts without a console (`deltadeck-window`)."""
    from app.window import open_window

    return open_window(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
