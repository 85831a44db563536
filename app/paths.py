"""Paths as people write them: nothing here raises for a text that leads nowhere."""

from __future__ import annotations

from pathlib import Path


def expanded(text: str) -> Path:
    """A path with `~` replaced by the home folder; the home of somebody unknown here stays as it is written."""
    path = Path(text.replace("\0", ""))
    try:
        return path.expanduser()
    except RuntimeError:                               # `~name`, and the system knows nobody of that name
        return path
