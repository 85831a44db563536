"""What a user reads when something fails: each fault brought into a real window on tiny models, with a picture of it.

`python -m tests.benchmarks.bench_fault_screens FOLDER` writes a picture of every fault and `texts.md` with the words on each,
and says where a sentence is missing, a text is cut, or a traceback is shown. `--dark`, `--size 1920x1080`; `--only NAME`
takes those whose names hold NAME. No screen is needed.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from PySide6.QtWidgets import QApplication

from app.console import quiet_transformers
from tests.faults.screens import SCREENS
from tests.faults.studio import Studio, finished, said


def shoot(folder: Path | None, only: Sequence[str] = (), dark: bool = False,
          size: tuple[int, int] = (1280, 720)) -> dict[str, str]:
    """What is wrong by screen, empty where nothing is; pictures and texts go to `folder`."""
    app = QApplication.instance() or QApplication(["deltadeck"])
    assert isinstance(app, QApplication)
    app.setStyle("Fusion")
    quiet_transformers()
    problems: dict[str, str] = {}
    words: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        made = finished(Path(scratch) / "made")
        for name in [n for n in SCREENS if not only or any(o in n for o in only)]:
            studio = Studio(Path(scratch) / name, made, "dark" if dark else "light", size)
            problems[name] = _shoot(studio, name, folder, words)
            print(f"{name}: {problems[name] or 'fine'}", flush=True)
    if folder is not None:
        (folder / "texts.md").write_text("\n".join(words), encoding="utf-8")
    return problems


def _shoot(studio: Studio, name: str, folder: Path | None, words: list[str]) -> str:
    found = SCREENS[name]
    try:
        found.make(studio)
        texts = studio.texts()
        words.append(f"## {name}\n\n{texts}\n")
        if folder is not None and not studio.picture().save(str(folder / f"{name}.png")):
            return "the picture could not be written"
        missing = said(texts, *found.says)
        wrong = [f"nothing says {', '.join(missing)}"] if missing else []
        wrong += [f"cut: {text[:80]}" for text in studio.cut()]
        wrong += ["a traceback is shown"] if "Traceback" in texts else []
        return "; ".join(wrong)
    except Exception as error:
        traceback.print_exc()
        if folder is not None and studio.shell is not None:
            studio.picture().save(str(folder / f"{name}.png"))
        return f"could not be made: {type(error).__name__}: {error}"
    finally:
        studio.close()


def run() -> list[dict[str, Any]]:
    """Figures for the runner."""
    problems = shoot(None)
    fine = sum(not p for p in problems.values())
    return [{"name": "Faults that the window puts into words", "value": fine, "unit": f"of {len(problems)}",
             "reference": "what, why, what to do, and the number that was short", "goal": len(problems), "better": "higher"}]


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the pictures; 1 where a text is missing or cut."""
    parser = argparse.ArgumentParser(description="Pictures of what a user reads when something fails.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", action="append", default=[], help="a part of a name; may be given more than once")
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--size", default="1280x720")
    given = parser.parse_args(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    width, height = (int(x) for x in given.size.split("x"))
    problems = shoot(given.folder, given.only, given.dark, (width, height))
    print(f"{sum(not p for p in problems.values())} of {len(problems)} faults are in words")
    return 1 if any(problems.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
