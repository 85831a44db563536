"""Data of multiple-choice tasks in a local folder: which file holds a task's questions, and whether it can be read at all.

Data only, never code.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import TasksUnavailable

_LOADERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
PLAIN_KEYS = {"question", "choices", "answer"}
"""What a line of a plain set holds: text, list of texts, index of the right one."""


@dataclass(frozen=True)
class LocalData:
    """Files of one kind, `loader` being what `datasets` calls it."""

    loader: str
    files: tuple[Path, ...]


def find_task_data(folder: Path, task: str, dataset: str | None = None, split: str = "test") -> LocalData | None:
    """The files of a task below `folder`, None if there are none.

    Looked for, in this order: TASK.jsonl (or .json, .parquet); SPLIT*.jsonl in the folders TASK, DATASET (the name of a
    configuration on the hub), TASK/DATASET, and `data` in each of them: the layouts of the hub's own repositories.
    """
    for ending, loader in _LOADERS.items():
        single = folder / f"{task}{ending}"
        if single.is_file():
            return LocalData(loader, (single,))
    names = [task, *([dataset, f"{task}/{dataset}"] if dataset else [])]
    for place in [folder / name / sub for name in names for sub in ("", "data")]:
        for ending, loader in _LOADERS.items():
            files = sorted(f for f in place.glob(f"{split}*{ending}") if f.is_file())
            if files:
                return LocalData(loader, tuple(files))
    return None


def check_readable(data: LocalData) -> None:
    """Raise `TasksUnavailable` with the first line that is no JSON object, or the parquet file that is none.

    Looked at before any library reads them: their readers tell of a file's damage in words of their own.
    """
    for path in data.files:
        try:
            if data.loader == "parquet":
                _check_parquet(path)
            elif not _is_list(path):
                _check_lines(path)
        except OSError as error:
            raise TasksUnavailable(f"{path} can't be read: {error.strerror or error}.", "It holds the questions of a task.",
                                   "Check the file and its permissions.") from error


def _check_parquet(path: Path) -> None:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 4))
        end = file.read()
        file.seek(0)
        if size < 12 or end != b"PAR1" or file.read(4) != b"PAR1":
            raise TasksUnavailable(f"{path.name} is no parquet file, or was cut short.", f"It has {size:,} bytes.",
                                   "Copy or download it again.")


def _is_list(path: Path) -> bool:
    """Whether the whole file is one JSON list of objects, which is taken too."""
    with path.open("rb") as file:
        head = file.read(64).lstrip()
    if not head.startswith(b"["):
        return False
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(found, list) and all(isinstance(row, dict) for row in found)


def _check_lines(path: Path) -> None:
    remedy = "Correct or remove the line: each holds one question as a JSON object."
    rows = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            rows += 1
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                why = f"{error}." if isinstance(error, json.JSONDecodeError) else "It is not UTF-8, or nested too deeply."
                raise TasksUnavailable(f"Line {number} of {path.name} is not valid JSON.", why, remedy) from error
            if not isinstance(row, dict):
                raise TasksUnavailable(f"Line {number} of {path.name} is no JSON object.", "", remedy)
    if not rows:
        raise TasksUnavailable(f"{path.name} holds no question.", "The file is empty.", "Give another file.")


def why_not_plain(data: LocalData) -> str:
    """What keeps a readable file from being a plain set, as a sentence."""
    if data.loader != "json" or len(data.files) != 1:
        return "A plain set is one file of JSON lines."
    with data.files[0].open(encoding="utf-8", errors="replace") as lines:
        try:
            row = json.loads(next((line for line in lines if line.strip()), "{}"))
        except ValueError:
            return "A plain set has a question on each line."
    missing = sorted(PLAIN_KEYS - row.keys()) if isinstance(row, dict) else []
    return f"Its first question lacks {' and '.join(missing)}." if missing else (
        "In its first question, question is to be a text, choices two texts or more, and answer the index of one.")


def is_plain(data: LocalData) -> bool:
    """Whether the file is a plain set: JSON lines with `question`, `choices` and `answer`. Raises `TasksUnavailable` where a
    line is no such thing though the first one is."""
    if data.loader != "json" or len(data.files) != 1:
        return False
    with data.files[0].open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            good = _plain(line)
            if number == 1 and not good:
                return False
            if not good:
                raise TasksUnavailable(f"Line {number} of {data.files[0].name} is no question with choices.",
                                       "Each line holds a question (text), choices (two texts or more) and answer (an index).",
                                       "Correct or remove the line.")
    return True


def _plain(line: str) -> bool:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return False
    if not isinstance(row, dict) or not row.keys() >= PLAIN_KEYS:
        return False
    choices, answer = row["choices"], row["answer"]
    return (isinstance(row["question"], str) and isinstance(choices, list) and len(choices) > 1
            and all(isinstance(c, str) and c for c in choices)
            and isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices))


def local_names(folder: Path) -> Sequence[str]:
    """Names of the sets that lie directly in a folder, for a message."""
    return sorted(f.stem for f in folder.iterdir() if f.suffix in _LOADERS) if folder.is_dir() else []
