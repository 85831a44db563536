"""The window as a whole: pages, keys, themes, closing, the queue strip, and that everything has a name."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QImage
from PySide6.QtTest import QTest
from PySide6.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QLineEdit,
    QMessageBox,
    QPlainTextEdit,
    QSlider,
    QWidget,
)
from pytestqt.qtbot import QtBot

from app.actions import SPECS, Act
from app.jobs.queue import QueueItem, State, encode_queue
from app.jobs.worker import Outcome, Runner
from app.pages.compress.page import CompressPage
from app.settings import Settings
from app.shell import RAIL, Shell
from app.theme import Theme
from core.errors import Cancelled
from core.events import Progress, StageStarted

PAGES = ("compress", "run", "deltas", "compare", "settings")


class Slow:
    """A runner that tells progress until it is let go or stopped."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def __call__(self, request: dict[str, Any], tell: Callable[[Any], None], cancelled: Callable[[], bool]) -> Outcome:
        tell(StageStarted(stage="fit", total=10))
        while not self.go.wait(0.005):
            if cancelled():
                raise Cancelled("Cancelled.")
            tell(Progress(stage="fit", done=4, total=10, fraction=0.4, seconds_left=90.0))
        return Outcome(str(request["output"]))


@pytest.fixture
def slow() -> Iterator[Slow]:
    made = Slow()
    yield made
    made.go.set()


@pytest.fixture
def make_shell(qtbot: QtBot, tmp_path: Path) -> Iterator[Callable[..., Shell]]:
    made: list[Shell] = []

    def make(runner: Runner | None = None, **options: Any) -> Shell:
        settings = Settings(tmp_path / "data" / "settings.json")
        settings.set(**{"theme": "light", "library": str(tmp_path / "deltas"), **options})
        window = Shell(settings, Theme(settings.options.theme, settings.options.zoom), tmp_path / "data", runner)
        window.ctx.engine.started = True               # these tests need no engine
        made.append(window)
        window.resize(1280, 720)
        window.show()
        return window
    yield make
    for window in made:
        window._quitting = True
        window.ctx.jobs.shutdown()
        window.ctx.tasks.shutdown()
        window.close()
        window.deleteLater()
    QApplication.processEvents()


def add_job(window: Shell, tmp_path: Path, name: str = "pirate") -> str:
    request = {"base": "b", "fine_tuned": "f", "output": str(tmp_path / "deltas" / name)}
    return window.ctx.jobs.add(name, request, base_name="base", fine_tuned_name=name).id


def answer(qtbot: QtBot, text: str) -> None:
    """Press a button of the message box that comes next."""
    def press() -> None:
        box = QApplication.activeModalWidget()
        assert isinstance(box, QMessageBox)
        next(b for b in box.buttons() if b.text() == text).click()
    QTimer.singleShot(50, press)


def test_every_page_opens_by_click_and_key(qtbot: QtBot, make_shell: Callable[..., Shell]) -> None:
    window = make_shell()
    assert window.current_page() == "compress"
    for act in (*RAIL, Act.SETTINGS):
        window.ctx.actions[act].trigger()
        assert window.current_page() == act.value.removeprefix("go-")
    QTest.mouseClick(window._items["compress"], Qt.MouseButton.LeftButton)
    assert window.current_page() == "compress"
    window.activateWindow()
    qtbot.waitUntil(window.isActiveWindow)
    QTest.keyClick(window, Qt.Key.Key_3, Qt.KeyboardModifier.AltModifier)
    qtbot.waitUntil(lambda: window.current_page() == "deltas")


def test_the_page_and_the_place_are_kept(qtbot: QtBot, make_shell: Callable[..., Shell], tmp_path: Path) -> None:
    window = make_shell()
    window.go("settings")
    window.resize(1300, 800)
    window.close()
    again = make_shell()
    assert again.current_page() == "settings"
    assert again.ctx.settings.options.geometry


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("zoom", [1.0, 1.5])
def test_pages_can_be_drawn_in_every_look(qtbot: QtBot, make_shell: Callable[..., Shell], theme: str, zoom: float) -> None:
    window = make_shell(theme=theme, zoom=zoom)
    for page in PAGES:
        window.go(page)
        QApplication.processEvents()
        image = window.grab().toImage()
        assert image.pixelColor(round(168 * zoom) + 8, 300).name() == window.ctx.theme.color("surface").name()
        assert colours(image) > 20, f"{page} is empty"


def colours(image: QImage) -> int:
    return len({image.pixelColor(x, y).rgb() for x in range(180, image.width(), 3) for y in range(0, image.height(), 3)})


def test_the_theme_switches_live(qtbot: QtBot, make_shell: Callable[..., Shell]) -> None:
    window = make_shell()
    window.ctx.actions[Act.THEME].trigger()
    assert window.ctx.theme.dark
    assert window.ctx.settings.options.theme == "dark"
    window.ctx.actions[Act.LARGER].trigger()
    assert window.ctx.theme.zoom == 1.1


def test_a_running_job_shows_in_strip_status_and_rail(qtbot: QtBot, make_shell: Callable[..., Shell], slow: Slow,
                                                      tmp_path: Path) -> None:
    window = make_shell(slow)
    window.go("compress")
    assert not window.strip.isVisible()
    add_job(window, tmp_path)
    add_job(window, tmp_path, "bard")
    qtbot.waitUntil(lambda: window._items["run"].accessibleDescription() == "40 %")
    assert window.strip.isVisible()
    names = {w.accessibleName() for w in window.strip.findChildren(QWidget)}
    assert any("pirate, 40 %" in n for n in names) and any(n.startswith("bard, waiting") for n in names)
    slow.go.set()
    qtbot.waitUntil(lambda: all(i.state is State.DONE for i in window.ctx.jobs.items()))
    qtbot.waitUntil(lambda: not window.strip.isVisible())
    assert "is ready" in window.toast.text()


def test_closing_asks_once_while_a_job_runs(qtbot: QtBot, make_shell: Callable[..., Shell], slow: Slow, tmp_path: Path) -> None:
    window = make_shell(slow)
    id = add_job(window, tmp_path)
    qtbot.waitUntil(lambda: window.ctx.jobs.current() is not None)
    answer(qtbot, "Keep it running")
    window.close()
    assert window.isVisible()
    answer(qtbot, "Stop and close")
    window.close()
    assert not window.isVisible()
    again = make_shell(slow)
    item = again.ctx.jobs.item(id)
    assert item is not None and item.can_resume


def test_cancelling_asks_and_says_what_is_kept(qtbot: QtBot, make_shell: Callable[..., Shell], slow: Slow,
                                               tmp_path: Path) -> None:
    window = make_shell(slow)
    id = add_job(window, tmp_path)
    qtbot.waitUntil(lambda: window.ctx.jobs.current() is not None)
    answer(qtbot, "Cancel the job")
    window.ctx.actions[Act.CANCEL].trigger()
    qtbot.waitUntil(lambda: getattr(window.ctx.jobs.item(id), "state", None) is State.CANCELLED)


def test_the_queue_panel_lists_and_moves(qtbot: QtBot, make_shell: Callable[..., Shell], slow: Slow, tmp_path: Path) -> None:
    window = make_shell(slow)
    for name in ("one", "two", "three"):
        add_job(window, tmp_path, name)
    panel = window.panel
    window._open_queue()
    assert panel.model.rowCount() == 3
    panel.view.setCurrentIndex(panel.model.index(2, 0))
    panel._shift(-1)
    assert [i.name for i in window.ctx.jobs.items()] == ["one", "three", "two"]
    panel.hide()


def test_everything_has_a_name(qtbot: QtBot, make_shell: Callable[..., Shell], slow: Slow, tmp_path: Path) -> None:
    """A screen reader must be able to say what each control is."""
    window = make_shell(slow)
    add_job(window, tmp_path)
    window.page("compress").open_demo()                # type: ignore[attr-defined]
    for page in PAGES:
        window.go(page)
    QApplication.processEvents()
    nameless = []
    kinds = (QAbstractButton, QLineEdit, QComboBox, QAbstractSpinBox, QPlainTextEdit, QSlider, QAbstractItemView)
    for widget in window.findChildren(QWidget):
        if not isinstance(widget, kinds) or widget.objectName().startswith("qt_"):
            continue
        inner = isinstance(widget.parent(), QComboBox | QAbstractSpinBox | QAbstractItemView) or "Corner" in type(widget).__name__
        said = widget.accessibleName() or (widget.text() if isinstance(widget, QAbstractButton) else "")
        if not said.strip() and not inner and not widget.isHidden() and not _is_part(widget):
            nameless.append(f"{type(widget).__name__} in {type(widget.parent()).__name__} of {page_of(widget)}")
    assert not nameless, "\n".join(nameless)


def page_of(widget: QWidget) -> str:
    """Where a control stands, for the message."""
    while (parent := widget.parentWidget()) is not None:
        if hasattr(widget, "name"):
            return str(widget.name)
        widget = parent
    return type(widget).__name__


def _is_part(widget: QWidget) -> bool:
    """Parts that Qt makes inside its own controls: popups of combo boxes, buttons in fields, headers of tables."""
    own = {"QComboBoxPrivateContainer", "QHeaderView", "QLineEditIconButton", "QTableCornerButton"}
    walk: QWidget | None = widget
    while walk is not None:
        if walk.metaObject().className() in own:
            return True
        walk = walk.parentWidget()
    return False


def test_every_action_has_a_text_and_no_two_share_a_key(make_shell: Callable[..., Shell]) -> None:
    window = make_shell()
    keys: dict[str, Act] = {}
    for act, spec in SPECS.items():
        assert window.ctx.actions[act].text() == spec.text
        for key in spec.keys:
            assert key not in keys, f"{key} is given to {act} and {keys[key]}"
            keys[key] = act


def test_messages_of_any_length_fit(make_shell: Callable[..., Shell]) -> None:
    window = make_shell()
    for text in ("word " * 200, "Kept as '/tmp/a-folder/with-a-very-long-name-indeed/queue.json.broken'.", "Copied"):
        window.notify(text, "warning")
        place = window.toast.geometry()
        assert window._rail.geometry().contains(place), "it covers a page"
        assert not any(place.intersects(item.geometry()) for item in window._items.values())
        words = window.toast._text
        assert words.height() >= words.heightForWidth(words.width())
    QTest.mouseClick(window.toast, Qt.MouseButton.LeftButton)
    assert not window.toast.isVisible()


def test_what_the_run_page_says_is_not_said_twice(qtbot: QtBot, make_shell: Callable[..., Shell], slow: Slow,
                                                  tmp_path: Path) -> None:
    window = make_shell(slow)
    window.go("run")
    add_job(window, tmp_path)
    slow.go.set()
    qtbot.waitUntil(lambda: all(i.state is State.DONE for i in window.ctx.jobs.items()))
    assert "is ready" not in window.toast.text()


def test_a_job_of_the_strip_opens_on_the_run_page(qtbot: QtBot, make_shell: Callable[..., Shell], slow: Slow,
                                                  tmp_path: Path) -> None:
    window = make_shell(slow)
    first, second = add_job(window, tmp_path), add_job(window, tmp_path, "bard")
    window.go("compress")
    QTest.mouseClick(window.strip._cells[second], Qt.MouseButton.LeftButton)
    assert window.current_page() == "run"
    assert window._pages["run"].item.id == second      # type: ignore[attr-defined]
    window.strip._cells[first].setFocus()
    QTest.keyClick(window.strip._cells[first], Qt.Key.Key_Return)
    assert window._pages["run"].item.id == first       # type: ignore[attr-defined]


def test_the_pause_key_resumes_what_the_run_page_shows(qtbot: QtBot, make_shell: Callable[..., Shell], slow: Slow,
                                                       tmp_path: Path) -> None:
    window = make_shell(slow)
    first, second = add_job(window, tmp_path), add_job(window, tmp_path, "bard")
    jobs = window.ctx.jobs
    window.go("run")
    window.ctx.actions[Act.PAUSE].trigger()
    qtbot.waitUntil(lambda: (current := jobs.current()) is not None and current.id == second)
    window.ctx.actions[Act.PAUSE].trigger()
    states = [item.state for item in jobs.items()]
    assert states == [State.WAITING, State.RUNNING] and window._pages["run"].item.id == first  # type: ignore[attr-defined]


def test_the_queue_panel_hides_what_is_over_and_chooses_the_first_open_job(
        qtbot: QtBot, make_shell: Callable[..., Shell], slow: Slow, tmp_path: Path) -> None:
    window = make_shell(slow)
    ids = [add_job(window, tmp_path, name) for name in ("one", "two", "three", "four")]
    window.ctx.jobs.cancel(ids[1])
    window._open_queue()
    panel = window.panel
    item = panel._item()
    assert panel.model.rowCount() == 3 and item is not None and item.name == "one"
    assert panel._ended.text() == "Show 1 finished"
    panel.view.setCurrentIndex(panel.model.index(2, 0))
    panel._shift(-1)
    assert [i.name for i in window.ctx.jobs.items()] == ["one", "two", "four", "three"]
    panel._ended.click()
    assert panel.model.rowCount() == 4 and panel._ended.text() == "Hide finished"
    panel.hide()


def test_a_deltas_config_opens_the_delta(make_shell: Callable[..., Shell], tmp_path: Path,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """As a file manager opens it; the folder itself does as well."""
    (tmp_path / "d1").mkdir()
    (tmp_path / "d1" / "delta_config.json").write_text("{}")
    shell = make_shell()
    taken: list[Path] = []
    monkeypatch.setattr(shell.page("deltas"), "take", taken.append)
    shell.open_paths([str(tmp_path / "d1" / "delta_config.json"), str(tmp_path / "d1")])
    assert taken == [tmp_path / "d1"] * 2
    assert shell.current_page() == "deltas"


def test_all_checkpoints_given_at_start_are_taken(make_shell: Callable[..., Shell], tmp_path: Path) -> None:
    shell = make_shell()
    shell.open_paths([str(tmp_path / name) for name in ("base", "first", "second")])
    page = shell.page("compress")
    assert isinstance(page, CompressPage) and shell.current_page() == "compress"
    assert (page.base.source, page.tuned.source) == (str(tmp_path / "base"), str(tmp_path / "first"))
    assert [entry.source for entry in page.batch.entries] == [str(tmp_path / "second")]


def test_left_over_jobs_have_a_lasting_start(make_shell: Callable[..., Shell], slow: Slow, tmp_path: Path) -> None:
    names = ("one", "two", "three", "four")
    waiting = [QueueItem(id=name, name=name, request={"output": str(tmp_path / name)}) for name in names]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "queue.json").write_bytes(encode_queue(waiting))
    window = make_shell(slow)
    window.toast.hide()                                # it goes after a while: what it offered stays
    window.go("compress")
    window._open_queue()
    panel, strip = window.panel, window.strip
    assert "4 jobs from last time" in panel._held.text() and panel.start.isVisible() and strip.start.isVisible()
    window.resize(1024, 640)
    QApplication.processEvents()
    assert strip.minimumSizeHint().width() <= strip.width()       # fewer jobs are named, none with half its words
    panel.start.click()
    assert not window.ctx.jobs.is_held and window.ctx.jobs.is_busy
    assert not panel.start.isVisible() and not strip.start.isVisible() and not panel._waits.isVisible()
    panel.hide()


def test_self_check_and_diagnostics_are_commands(make_shell: Callable[..., Shell], monkeypatch: pytest.MonkeyPatch) -> None:
    shell = make_shell()
    page: Any = shell.page("settings")
    done: list[str] = []
    monkeypatch.setattr(page.help, "run_check", lambda: done.append("check"))
    monkeypatch.setattr(page.help, "ask_save", lambda: done.append("save"))
    shell.ctx.actions[Act.SELF_CHECK].trigger()
    shell.ctx.actions[Act.DIAGNOSTICS].trigger()
    assert done == ["check", "save"]
    assert shell.current_page() == "settings"
