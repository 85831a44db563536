"""How smooth the window stays while two columns of long Markdown stream at 60 tokens a second each."""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SECONDS = 20.0
RATE = 60.0
"""Tokens a second in each column."""
_PART = """## Section {n}

A paragraph with **bold** words, *emphasis*, `code` and a [link](http://localhost/): {words}

1. First of a list, with some more words so that the line has to be broken once at least
2. Second of the list
   - and one inside it

```python
def section_{n}(x: int) -> int:
    return x + {n}
```

| name | value |
|---|---|
| one | {n} |

"""


def words() -> list[str]:
    """Tokens of a long answer, about four characters each."""
    text = "".join(_PART.format(n=n, words="the tide comes in and the tide goes out, " * 6) for n in range(40))
    return [text[i:i + 4] for i in range(0, len(text), 4)]


class Steady:
    """An engine that says the same long text in every row, a token each at a steady rate."""

    def __init__(self) -> None:
        self.characters = 0
        self.tokens = 0

    def open(self, base: str, device: str, offline: bool) -> Any:
        """A deck with nothing on it."""
        from tests.app.chat.fakes import FakeDeck

        return FakeDeck()

    def facts(self, deck: Any) -> Any:
        """Of a small model."""
        from app.chat.engine import DeckFacts

        return DeckFacts(269_000_000, 1_000_000_000, 8192, ", ".join(deck.on), "overlay")

    def mode(self, deck: Any, variant: str) -> Any:
        """With a template."""
        return "chat"

    def count(self, deck: Any, variant: str, messages: Any) -> int:
        """Roughly."""
        return sum(len(text) // 4 for _, text in messages)

    def forget(self, deck: Any, columns: Sequence[str]) -> None:
        """Nothing is kept."""

    def answer(self, deck: Any, asks: Sequence[Any], sampling: Any, seed: int | None, tell: Callable[[int, str], None],
               stopped: Callable[[], bool]) -> list[Any]:
        """Until it is stopped or all is said."""
        from app.chat.engine import Spoken

        began, said = time.perf_counter(), 0
        tokens = words()
        for number, token in enumerate(tokens):
            if stopped():
                break
            for row in range(len(asks)):
                tell(row, token)
            said = number + 1
            self.characters, self.tokens = self.characters + len(token), said
            time.sleep(max(0.0, began + said / RATE - time.perf_counter()))
        text = "".join(tokens[:said])
        seconds = time.perf_counter() - began
        return [Spoken(a.variant, text, said, seconds, 0.05, said / seconds, "overlay", 0.0, "stopped", 40, 8192) for a in asks]


def stream() -> dict[str, float]:
    """Seconds of delay of a 10 ms timer on the main thread, alone and while it streams; and how long Stop took."""
    os.environ["QT_QPA_PLATFORM"] = "offscreen"
    from PySide6.QtCore import QEventLoop, Qt, QTimer
    from PySide6.QtWidgets import QApplication

    from app.settings import Settings
    from app.shell import Shell
    from app.theme import Theme
    app = QApplication.instance() or QApplication([])
    assert isinstance(app, QApplication)
    app.setStyle("Fusion")
    with tempfile.TemporaryDirectory() as work:
        data = Path(work)
        settings = Settings(data / "settings.json")
        settings.set(library=str(data / "deltas"), theme="light", page="chat")
        engine = Steady()
        window = Shell(settings, Theme("light"), data, chat_engine=engine)
        window.ctx.engine.started = True               # nothing of the real engine is read meanwhile
        window.resize(1440, 900)
        window.show()
        page: Any = window.page("chat")

        def until(what: Callable[[], bool], seconds: float = 30.0) -> None:
            end = time.perf_counter() + seconds
            while not what() and time.perf_counter() < end:
                app.processEvents()
                time.sleep(0.001)
        page.loading.open_deck("models/tiny", ())
        until(lambda: page.session.state == "ready" and not page.session.doing)
        page.talk.set_sides(("base", "base"), 1)
        delays: list[float] = []
        last = time.perf_counter()

        def tick() -> None:
            nonlocal last
            now = time.perf_counter()
            delays.append(max(0.0, now - last - 0.010))
            last = now

        def run(seconds: float) -> list[float]:
            nonlocal last
            delays.clear()
            timer = QTimer()
            timer.setTimerType(Qt.TimerType.PreciseTimer)
            timer.timeout.connect(tick)
            last = time.perf_counter()
            timer.start(10)
            loop = QEventLoop()                        # quitting the application would close the window
            QTimer.singleShot(round(seconds * 1000), loop.quit)
            loop.exec()
            timer.stop()
            return sorted(delays)
        idle = run(3.0)
        page.drawer.dials["max_new_tokens"].set_value(4096)
        page.composer.edit.setPlainText("Tell me everything.")
        page.send()
        busy = run(SECONDS)
        tokens = engine.tokens
        asked = time.perf_counter()
        page.stop()
        until(lambda: not page.session.is_answering)
        stopped = time.perf_counter() - asked
        whole = page.talk.now.turns[0].answers["A"].current.text
        lost = abs(len(whole) - engine.characters)
        window.close()
    if threading.active_count() > 8:
        raise RuntimeError("threads are left over")
    return {"idle": idle[int(len(idle) * 0.99)], "busy": busy[int(len(busy) * 0.99)], "worst": busy[-1],
            "median": statistics.median(busy), "tokens": tokens, "lost": lost, "stop": stopped}


def run() -> list[dict[str, Any]]:
    """As the README of this folder says."""
    found = stream()
    beside = f"idle window: p99 {found['idle'] * 1000:.1f} ms; {found['tokens']:.0f} tokens in each of two columns"
    return [
        {"name": "main thread's delay while two columns stream, p99", "value": found["busy"] * 1000, "unit": "ms",
         "reference": beside, "goal": 33.0, "better": "lower"},
        {"name": "main thread's delay while two columns stream, worst", "value": found["worst"] * 1000, "unit": "ms",
         "reference": f"median {found['median'] * 1000:.1f} ms", "goal": None, "better": "lower"},
        {"name": "from Stop to the end of the answer", "value": found["stop"] * 1000, "unit": "ms",
         "reference": f"a token every {1000 / RATE:.0f} ms, drained every 66 ms", "goal": None, "better": "lower"},
        {"name": "characters lost on the way to the window", "value": found["lost"], "unit": "",
         "reference": "what the engine said", "goal": 0, "better": "lower"}]
