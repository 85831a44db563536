"""Paths as people write them: nothing here raises for a text that leads nowhere."""

from __future__ import annotations

import os
from pathlib import Path


def expanded(text: str) -> Path:
    """A path with `~` replaced by the home folder; the home of somebody unknown here stays as it is written."""
    path = Path(text.replace("\0", ""))
    try:
        return path.expanduser()
    except RuntimeError:                               # `~name`, and the system knows nobody of that name
        return path


def data_folder() -> Path:
    """Where the queue, runs, settings and logs are kept; `DELTADECK_DATA` replaces it."""
    from platformdirs import user_data_dir

    return Path(os.environ.get("DELTADECK_DATA") or user_data_dir("deltadeck"))
