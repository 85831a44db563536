"""Saving charts: pictures as PNG (at twice the size) or SVG, figures as CSV. Files appear whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import os
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from PySide6.QtCore import QBuffer, QByteArray, QIODevice, QPoint, QRect, QSize
from PySide6.QtGui import QColor, QImage, QImageWriter, QPainter
from PySide6.QtSvg import QSvgGenerator
from PySide6.QtWidgets import QFileDialog, QWidget

Paint = Callable[[QPainter], None]
PNG, SVG, CSV = ("PNG picture", "png"), ("SVG drawing", "svg"), ("CSV table", "csv")
SCALE = 2
"""Pixels of a PNG per pixel on the screen."""


def save_widget(what: QWidget | Paint, path: Path, *, size: QSize | None = None, ground: QColor | None = None,
                title: str = "") -> None:
    """Save a widget, or what a function paints on `size` pixels, as PNG or SVG by the path's ending.

    `ground` fills the picture first; without it a PNG is transparent. Raises OSError, with the path, where the file
    cannot be written, and ValueError for another ending or a picture without a size.
    """
    area = size or (what.size() if isinstance(what, QWidget) else QSize())
    if area.isEmpty():
        raise ValueError("a picture needs a size")
    kind = path.suffix.lower()
    if kind not in (".png", ".svg"):
        raise ValueError(f"a picture ends in .png or .svg, not '{kind}'")
    made = _png(what, area, ground) if kind == ".png" else _svg(what, area, ground, title or path.stem)
    write_whole(path, made)


def _paint(painter: QPainter, what: QWidget | Paint, area: QSize, ground: QColor | None) -> None:
    if ground is not None:
        painter.fillRect(QRect(QPoint(), area), ground)
    if isinstance(what, QWidget):
        what.render(painter, QPoint())
    else:
        what(painter)


def _png(what: QWidget | Paint, area: QSize, ground: QColor | None) -> bytes:
    image = QImage(area * SCALE, QImage.Format.Format_ARGB32_Premultiplied)
    if image.isNull():
        raise OSError(errno.ENOMEM, "The picture is too large")
    image.setDevicePixelRatio(SCALE)
    image.fill(QColor(0, 0, 0, 0))
    painter = QPainter(image)
    _paint(painter, what, area, ground)
    painter.end()
    data = QByteArray()
    buffer = QBuffer(data)
    buffer.open(QIODevice.OpenModeFlag.WriteOnly)
    if not QImageWriter(buffer, b"PNG").write(image):
        raise OSError(errno.EIO, "The picture could not be made")
    return bytes(data.data())


def _svg(what: QWidget | Paint, area: QSize, ground: QColor | None, title: str) -> bytes:
    data = QByteArray()
    buffer = QBuffer(data)
    buffer.open(QIODevice.OpenModeFlag.WriteOnly)
    drawing = QSvgGenerator()
    drawing.setOutputDevice(buffer)
    drawing.setSize(area)
    drawing.setViewBox(QRect(QPoint(), area))
    drawing.setResolution(96)
    drawing.setTitle(title)
    painter = QPainter(drawing)
    _paint(painter, what, area, ground)
    painter.end()
    return bytes(data.data())


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table as CSV: UTF-8, commas, None as an empty field. Raises OSError, with the path."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows(["" if value is None else value for value in row] for row in rows)
    write_whole(path, text.getvalue().encode("utf-8"))


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under a temporary name beside its place, then rename it. Raises OSError that names `path`."""
    part = path.with_name(f".{path.name[:40]}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as e:
        with contextlib.suppress(OSError):
            part.unlink()
        raise OSError(e.errno, e.strerror or "The file could not be written", str(path)) from e


def file_name(text: str) -> str:
    """A text as a name for a file on any system."""
    return re.sub(r'[\x00-\x1f<>:"/\\|?*]+', "-", text).strip(" .-") or "chart"


def ask_path(parent: QWidget, title: str, suggested: Path, kinds: Sequence[tuple[str, str]]) -> Path | None:
    """Ask where to save; None where the user cancels. `kinds` are names and endings (`PNG`, `SVG`, `CSV`), the first the default.

    A name without one of the endings gets the ending of the chosen kind; where that file is there already, the dialog
    comes again with the whole name, so that nothing is replaced unasked.
    """
    filters = {f"{name} (*.{ending})": ending for name, ending in kinds}
    start = suggested if _ending(suggested) in filters.values() else _with_ending(suggested, kinds[0][1])
    while True:
        chosen, kind = QFileDialog.getSaveFileName(parent, title, str(start), ";;".join(filters), next(iter(filters)))
        if not chosen:
            return None
        path = Path(chosen)
        if _ending(path) in filters.values():
            return path
        start = _with_ending(path, filters.get(kind, kinds[0][1]))
        if not start.exists():
            return start


def _ending(path: Path) -> str:
    return path.suffix.lstrip(".").lower()


def _with_ending(path: Path, ending: str) -> Path:
    return path.with_name(f"{path.name}.{ending}")
