"""Pictures and tables are saved whole, under the right name, or not at all."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from PySide6.QtCore import QSize
from PySide6.QtGui import QColor, QImage, QPainter
from PySide6.QtSvg import QSvgRenderer
from PySide6.QtWidgets import QFileDialog, QLabel, QWidget
from pytestqt.qtbot import QtBot

from app.tasks import Failure
from app.widgets.charts.exporting import CSV, PNG, SVG, ask_path, file_name, save_widget, write_csv

Answers = tuple[list[tuple[str, str]], list[str]]


def square(painter: QPainter) -> None:
    painter.fillRect(10, 10, 20, 20, QColor("#ff0000"))
    painter.drawText(5, 50, "R & C <1>")


def test_a_painted_png_has_twice_the_size_and_the_colours(qtbot: QtBot, tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    save_widget(square, path, size=QSize(60, 60), ground=QColor("#ffffff"))
    image = QImage(str(path))
    assert (image.width(), image.height()) == (120, 120)
    assert image.pixelColor(40, 40) == QColor("#ff0000")
    assert image.pixelColor(2, 2) == QColor("#ffffff")


def test_an_svg_is_valid_and_keeps_its_text(qtbot: QtBot, tmp_path: Path) -> None:
    path = tmp_path / "map.svg"
    save_widget(square, path, size=QSize(60, 60), title="a & b <c>")
    drawing = QSvgRenderer(str(path))
    assert drawing.isValid()
    assert drawing.viewBoxF().size().toSize() == QSize(60, 60)
    assert "R &amp; C &lt;1&gt;" in path.read_text(encoding="utf-8")


def test_a_widget_is_saved_as_it_looks(qtbot: QtBot, tmp_path: Path) -> None:
    widget = QLabel("seen")
    qtbot.addWidget(widget)
    widget.resize(80, 30)
    save_widget(widget, tmp_path / "label.png")
    assert QImage(str(tmp_path / "label.png")).size() == QSize(160, 60)


@pytest.mark.parametrize(("name", "size"), [("map.gif", QSize(4, 4)), ("map.png", QSize())])
def test_another_ending_and_an_empty_picture_are_refused(qtbot: QtBot, tmp_path: Path, name: str, size: QSize) -> None:
    with pytest.raises(ValueError, match="picture"):
        save_widget(square, tmp_path / name, size=size)
    assert not list(tmp_path.iterdir())


def test_csv_is_read_back_as_written(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", ("name", "value"), [("a, \"b\"", 1.5), ("ü\nx", None)])
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["name", "value"], ['a, "b"', "1.5"], ["ü\nx", ""]]
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize("write", [lambda p: write_csv(p, ("a",), []), lambda p: save_widget(square, p, size=QSize(4, 4))])
def test_a_missing_folder_is_named(qtbot: QtBot, tmp_path: Path, write: Callable[[Path], None]) -> None:
    path = tmp_path / "gone" / "t.png"
    with pytest.raises(FileNotFoundError) as caught:
        write(path)
    assert caught.value.filename == str(path)
    assert str(path) in Failure.of(caught.value).what


def test_an_old_file_stays_where_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.csv"
    path.write_text("old")

    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")
    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_csv(path, ("a",), [(1,)])
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """What the save dialog answers, in turn, and the names that it was opened with."""
    given: list[tuple[str, str]] = []
    asked: list[str] = []

    def ask(parent: QWidget, title: str, start: str, filters: str, chosen: str) -> tuple[str, str]:
        asked.append(start)
        return given.pop(0)
    monkeypatch.setattr(QFileDialog, "getSaveFileName", staticmethod(ask))
    return given, asked


def test_asking_gives_the_name_an_ending(qtbot: QtBot, tmp_path: Path, answers: Answers) -> None:
    parent = QWidget()
    qtbot.addWidget(parent)
    given, asked = answers
    given += [(str(tmp_path / "a"), "SVG drawing (*.svg)"), (str(tmp_path / "b.PNG"), ""), ("", "")]
    assert ask_path(parent, "Save", tmp_path / "v1.2", [PNG, SVG]) == tmp_path / "a.svg"
    assert ask_path(parent, "Save", tmp_path / "x.svg", [PNG, SVG]) == tmp_path / "b.PNG"
    assert ask_path(parent, "Save", tmp_path / "x", [CSV]) is None
    assert asked == [str(tmp_path / "v1.2.png"), str(tmp_path / "x.svg"), str(tmp_path / "x.csv")]


def test_asking_again_before_a_file_is_replaced(qtbot: QtBot, tmp_path: Path, answers: Answers) -> None:
    parent = QWidget()
    qtbot.addWidget(parent)
    (tmp_path / "a.csv").write_text("old")
    given, asked = answers
    given += [(str(tmp_path / "a"), "CSV table (*.csv)"), (str(tmp_path / "a.csv"), "CSV table (*.csv)")]
    assert ask_path(parent, "Save", tmp_path / "a", [CSV]) == tmp_path / "a.csv"
    assert asked[1] == str(tmp_path / "a.csv")


def test_a_name_for_any_system() -> None:
    assert file_name('pirate: "a/b" axis map') == "pirate- -a-b- axis map"
    assert file_name("...") == "chart"
