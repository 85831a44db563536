"""The desktop's files: valid, whole, and put where desktops look; the icon's pictures are those of its drawing."""

from __future__ import annotations

import configparser
import json
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QImage, QPainter
from PySide6.QtSvg import QSvgRenderer
from PySide6.QtWidgets import QApplication

from app import desktop
from app.cli import main
from app.desktop import ENTRY, SIZES, SOURCE, TYPES

MIME = "{http://www.freedesktop.org/standards/shared-mime-info}"


def keys(text: str) -> dict[str, str]:
    found = configparser.RawConfigParser(strict=True)
    found.optionxform = str  # type: ignore[method-assign,assignment]
    found.read_string(text)
    assert found.sections() == ["Desktop Entry"]
    return dict(found["Desktop Entry"])


def test_the_entry_opens_what_is_given_to_it() -> None:
    found = keys((SOURCE / ENTRY).read_text(encoding="utf-8"))
    assert (found["Type"], found["Name"], found["Icon"], found["Terminal"]) == ("Application", "Deltadeck", "deltadeck", "false")
    assert found["Exec"] == "deltadeck window %F"
    for listed in ("Categories", "MimeType", "Keywords"):
        assert found[listed].endswith(";")


@pytest.mark.skipif(shutil.which("desktop-file-validate") is None, reason="desktop-file-utils is not here")
@pytest.mark.parametrize("program", ["/opt/deltadeck", '"/o p/b$/python" -m app'.replace("$", "\\\\$")])
def test_the_desktops_own_tool_finds_nothing_wrong(tmp_path: Path, program: str) -> None:
    text = (SOURCE / ENTRY).read_text(encoding="utf-8")
    (tmp_path / "a.desktop").write_text(text)
    (tmp_path / "b.desktop").write_text(desktop.entry(text, program))
    for name in ("a.desktop", "b.desktop"):
        done = subprocess.run(["desktop-file-validate", tmp_path / name], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, "")


def test_the_type_is_that_of_a_deltas_config() -> None:
    (kind,) = ElementTree.parse(SOURCE / TYPES).getroot().findall(f"{MIME}mime-type")
    named = kind.get("type")
    assert named is not None
    assert [g.get("pattern") for g in kind.findall(f"{MIME}glob")] == ["delta_config.json"]
    assert [s.get("type") for s in kind.findall(f"{MIME}sub-class-of")] == ["application/json"]
    assert named in keys((SOURCE / ENTRY).read_text(encoding="utf-8"))["MimeType"].split(";")


@pytest.mark.parametrize("side", SIZES)
def test_a_picture_is_the_drawing_at_its_size(qapp: QApplication, side: int) -> None:
    found = QImage(str(SOURCE / f"deltadeck-{side}.png")).convertToFormat(QImage.Format.Format_ARGB32)
    drawn = QImage(side, side, QImage.Format.Format_ARGB32)
    drawn.fill(Qt.GlobalColor.transparent)
    painter = QPainter(drawn)
    QSvgRenderer(str(SOURCE / "deltadeck.svg")).render(painter)
    painter.end()
    assert (found.width(), found.height()) == (side, side)
    ours, theirs = bytes(found.constBits()), bytes(drawn.constBits())
    assert sum(abs(a - b) for a, b in zip(ours, theirs, strict=True)) / len(ours) < 2


@pytest.mark.parametrize(("text", "expected"), [
    ("/usr/bin/deltadeck", "/usr/bin/deltadeck"), ("/o p/x", '"/o p/x"'), ("/a$b", r'"/a\\$b"'), ("/50%", '"/50%%"'),
    ('/q"', r'"/q\\""'), ("/b\\c", r'"/b\\\\c"')])
def test_arguments_are_quoted_as_the_specification_says(text: str, expected: str) -> None:
    assert desktop.quoted(text) == expected


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="desktop files are Linux's")
def test_all_is_put_in_place_and_taken_away_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    assert main(["desktop", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)["installed"]
    assert len(made) == 3 + len(SIZES) and all(Path(f).is_file() for f in made)
    found = keys((tmp_path / "share" / "applications" / ENTRY).read_text())
    assert found["Exec"].endswith(" window %F") and found["Exec"].lstrip('"').startswith("/")
    assert "TryExec" not in found
    assert main(["desktop", "--remove", "--json"]) == 0
    assert sorted(json.loads(capsys.readouterr().out)["removed"]) == sorted(made)
    assert not any(Path(f).exists() for f in made)
    assert main(["desktop", "--remove"]) == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="desktop files are Linux's")
def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "share").write_text("")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    assert main(["desktop"]) == 1
    assert "XDG_DATA_HOME" in capsys.readouterr().err
