"""Data of multiple-choice tasks in a local folder: which file holds a task's questions. Data only, never code."""

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
