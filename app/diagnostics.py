"""What a report of a fault needs, in one zip: the self-check, the logs, settings, and how jobs went.

None of the user's texts and no weights get in: every part is built from named fields, files are never copied whole but for
the logs, which hold no texts (`app.logs`). The home folder is written `~`, and the user's name nowhere.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import time
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from app.jobs.files import is_own_step
from app.logs import log_folder
from app.logs import versions as first_line

_WORDS = ("theme", "library", "device", "calibration", "page", "recent")
"""Settings that are texts and tell nothing of what the user wrote; of the others only numbers and switches are taken."""
_REQUEST = ("base", "fine_tuned", "output", "recipe", "axis", "embeddings", "objective", "calibration", "device", "method")
_ITEM = ("id", "name", "state", "folder", "base_name", "fine_tuned_name")
_LARGEST = 16 << 20
"""Bytes of a file beyond which it is left out: none of ours is that large."""
_README = """What is in this file:

doctor.json    versions, devices, folders, and the self-check of every kernel
settings.json  the program's settings: switches, numbers, folders
jobs.json      the queue: states, times, options, sizes of the steps on disk; no text, no weights
logs/          warnings and errors with the lines of code they came from

Conversations, prompts, answers, notes and calibration texts are not in it. The home folder is written ~.
"""


class Redaction:
    """Takes the home folder and the user's name out of texts."""

    def __init__(self, home: Path, user: str) -> None:
        home_texts = {str(home), os.path.realpath(home)} - {os.sep, "", "."}
        rules = [re.escape(text) for text in sorted(home_texts, key=len, reverse=True)]
        if user:
            rules.append(rf"(?:/home|/Users|[A-Za-z]:\\{{1,2}}Users)(?:/|\\{{1,2}}){re.escape(user)}")
        self._home = re.compile("(?:" + "|".join(rules) + r")(?![\w.-])", re.IGNORECASE) if rules else None
        self._user = re.compile(rf"(?<=[/\\]){re.escape(user)}(?=[/\\])", re.IGNORECASE) if user else None

    def __call__(self, text: str) -> str:
        """The text without them."""
        text = self._home.sub("~", text) if self._home else text
        return self._user.sub("USER", text) if self._user else text


def this_user() -> Redaction:
    """For whoever runs the program."""
    user = ""
    with suppress(OSError, KeyError, ImportError):     # an account without a name
        user = getpass.getuser()
    return Redaction(Path.home(), user)


def save(target: Path, data: Path, settings: Mapping[str, Any], doctor: Mapping[str, Any],
         redact: Callable[[str], str] | None = None) -> int:
    """Write the zip, whole or not at all; returns its bytes. Raises OSError.

    data: the program's data folder; settings: the options as plain data; doctor: a report as plain data.
    """
    clean = redact or this_user()
    parts = {"README.txt": f"{first_line()}, saved {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}\n\n{_README}",
             "doctor.json": _json(doctor), "settings.json": _json(settings_of(settings)), "jobs.json": _json(jobs_of(data))}
    for path in sorted(log_folder(data).glob("*.log*")) if log_folder(data).is_dir() else ():
        if (text := _text(path)) is not None:
            parts[f"logs/{path.name}"] = text
    work = target.with_name(target.name + ".partial")
    try:
        with zipfile.ZipFile(work, "w", zipfile.ZIP_DEFLATED) as file:
            for name, text in parts.items():
                file.writestr(name, clean(text))
        work.replace(target)
    finally:
        with suppress(OSError):
            work.unlink(missing_ok=True)
    return target.stat().st_size


def settings_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without what the user named: numbers, switches, and texts of a known kind."""
    found = {key: value for key, value in options.items() if isinstance(value, bool | int | float) or key in _WORDS}
    found["chat_presets"] = len(options.get("chat_presets") or ())
    return found


def jobs_of(data: Path) -> list[dict[str, Any]]:
    """The queue's jobs: states, times, options, the kind of their failure, and names and sizes of their steps."""
    raw = _text(data / "queue.json")
    try:
        items = msgspec.json.decode((raw or "{}").encode()).get("items", ())
    except (msgspec.DecodeError, AttributeError, RecursionError, UnicodeEncodeError):
        return [{"unreadable": True}]
    return [_job(item) for item in items if isinstance(item, dict)] if isinstance(items, list) else [{"unreadable": True}]


def _job(item: Mapping[str, Any]) -> dict[str, Any]:
    request = item.get("request")
    request = request if isinstance(request, dict) else {}
    error = item.get("error")
    found = {k: v for k, v in item.items() if _number(v) or (k in _ITEM and isinstance(v, str))}
    found["request"] = {k: v for k, v in request.items() if _number(v) or (k in _REQUEST and isinstance(v, str))}
    found["error"] = error.get("kind") if isinstance(error, dict) else None
    found["steps"] = _steps(request.get("output"))
    return found


def _number(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float)


def _steps(output: object) -> dict[str, int]:
    """Sizes in bytes of the files of a job's folder that a job writes, by name."""
    if not isinstance(output, str) or not output:
        return {}
    found = {}
    with suppress(OSError, ValueError):
        folder = Path(output)
        for path in sorted(folder.with_name(folder.name + ".job").iterdir()):
            if is_own_step(path.name):
                found[path.name] = path.stat().st_size
    return found


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.stat().st_size <= _LARGEST else None
    except OSError:
        return None


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n"
