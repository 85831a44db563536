"""`python -m app.screenshots FOLDER`: pictures of every page, light and dark, of a real library and a real run.

Works without a display. `--library` is a folder of deltas; `--events` the event stream of a run (JSON lines, as
`deltadeck compress --events` writes them), which is played back on the Run page: as it stood in the middle of fitting,
and at its end. `--base` and `--fine-tuned` are what the Compress page shows.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.shell import Shell

PATIENCE = 120.0
"""Seconds to wait for a page to have read everything."""


class Playback:
    """Plays a recorded event stream as if a job ran, up to where it is told to stop."""

    def __init__(self, path: Path, delta: Path | None) -> None:
        import msgspec

        from core.events import AnyEvent
        self.events = [msgspec.json.decode(line, type=AnyEvent) for line in path.read_bytes().splitlines() if line.strip()]
        self.delta = delta
        """What the run made."""
        self.middle = threading.Event()
        """The middle of fitting is reached."""
        self.go_on = threading.Event()

    def __call__(self, request: dict[str, Any], tell: Callable[[Any], None], cancelled: Callable[[], bool]) -> Any:
        """The runner of a job manager."""
        from app.jobs.worker import Outcome
        from core.events import Finished, LayerFitted
        fitted = [i for i, e in enumerate(self.events) if isinstance(e, LayerFitted)]
        stop = fitted[len(fitted) * 3 // 5] if fitted else 0
        for i, event in enumerate(self.events):
            tell(event)
            if i == stop + 40:
                self.middle.set()
                self.go_on.wait(PATIENCE)
        end = next((e for e in self.events if isinstance(e, Finished)), None)
        return Outcome(folder=str(self.delta or request["output"]), weights_bytes=end.weights_bytes if end else 0)


def wait(until: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    """Let the window work until a condition holds; whether it came to hold."""
    from PySide6.QtWidgets import QApplication
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
        if until():
            return True
        time.sleep(0.005)
    return False


def settle(seconds: float = 0.6) -> None:
    """Let late layouts and timers come to rest."""
    wait(lambda: False, seconds)


def take(window: Shell, folder: Path, name: str) -> None:
    """Save the window as it stands, in both themes."""
    for theme in ("light", "dark"):
        window.ctx.settings.set(theme=theme)
        settle(0.35)
        path = folder / f"{name}{'-dark' if theme == 'dark' else ''}.png"
        if not window.grab().save(str(path)):
            raise OSError(f"'{path}' could not be written.")
        print(path)


def shoot(folder: Path, library: Path | None, events: Path | None, base: str, fine_tuned: str, size: tuple[int, int]) -> None:
    """Make all pictures."""
    from PySide6.QtWidgets import QApplication

    from app.settings import Settings
    from app.shell import Shell
    from app.theme import Theme
    app = QApplication.instance() or QApplication(["deltadeck"])
    assert isinstance(app, QApplication)
    app.setStyle("Fusion")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        data = Path(work)
        settings = Settings(data / "settings.json")
        settings.set(theme="light", library=str(library or data / "deltas"), page="compress")
        made = sorted(p.parent for p in library.glob("*/delta_config.json")) if library else []
        made.sort(key=lambda p: not p.name.startswith(Path(fine_tuned).name))      # the one that the run made comes first
        playback = Playback(events, made[0] if made else None) if events else None
        window = Shell(settings, Theme("light"), data, playback)
        window.resize(*size)
        window.show()
        window.ctx.engine.load()
        wait(lambda: window.ctx.engine.is_ready)
        settle()
        take(window, folder, "first")
        planned: list[Any] = []
        if base and fine_tuned:
            page: Any = window.page("compress")
            page.planner.planned.connect(planned.append)
            page.open_pair(base, fine_tuned)
            wait(lambda: bool(planned))
            settle()
            take(window, folder, "compress")
        if playback is not None:
            name = Path(fine_tuned).name or "variant"
            window.ctx.jobs.add(name, {"base": base, "fine_tuned": fine_tuned, "output": str(data / "deltas" / name)},
                                planned[0].expect if planned else (), base_name=Path(base).name or "base", fine_tuned_name=name)
            window.go("run")
            wait(playback.middle.is_set)
            settle(1.5)
            take(window, folder, "run")
            playback.go_on.set()
            wait(lambda: not window.ctx.jobs.is_busy)
            settle(1.5)
            take(window, folder, "run-done")
        window.go("deltas")
        wait(lambda: bool(window.ctx.library.entries()) or library is None, 20)
        settle(1.5)
        take(window, folder, "deltas")
        paths = [entry.path for entry in window.ctx.library.entries()]
        if paths:
            window.ctx.library.compare(paths[:5])
        window.go("compare")
        settle(1.5)
        take(window, folder, "compare")
        window.go("settings")
        settle()
        take(window, folder, "settings")
        window.close()


def demo_sources(folder: Path) -> tuple[Path, Path | None, str, str]:
    """(library, events, base, fine-tune) of a folder that the demo has filled."""
    from core.demo import default_demo_folder, tiny_trio
    kind = json.loads((folder / "report.json").read_text(encoding="utf-8"))["kind"]
    trio, real = tiny_trio(), default_demo_folder()
    pair = (trio.base, trio.pirate) if kind == "tiny" else (real / "base", real / "pirate")
    events = folder / "events.jsonl"
    return folder, events if events.is_file() else None, str(pair[0]), str(pair[1])


def main() -> int:
    """For the command line."""
    parser = argparse.ArgumentParser(prog="python -m app.screenshots", description="Pictures of every page, light and dark.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--library", type=Path, help="a folder of deltas")
    parser.add_argument("--events", type=Path, help="a run's events, as deltadeck compress --events writes them")
    parser.add_argument("--base", default="")
    parser.add_argument("--fine-tuned", default="")
    parser.add_argument("--size", default="1440x900", help="of the window: 1440x900")
    parser.add_argument("--demo", type=Path, help="a folder that deltadeck demo has filled, in place of the four above")
    given = parser.parse_args()
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    width, height = (int(x) for x in given.size.split("x"))
    if given.demo:
        given.library, given.events, given.base, given.fine_tuned = demo_sources(given.demo)
    shoot(given.folder, given.library, given.events, given.base, given.fine_tuned, (width, height))
    return 0


if __name__ == "__main__":
    sys.exit(main())
