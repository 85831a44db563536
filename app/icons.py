"""Line icons of 20 units, tinted by a role of the theme and kept once made."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path

from PySide6.QtCore import QByteArray, QRectF, QSize, Qt
from PySide6.QtGui import QGuiApplication, QIcon, QImage, QPainter, QPixmap
from PySide6.QtSvg import QSvgRenderer

from app.theme import Theme

FOLDER = Path(__file__).parent.parent / "resources" / "icons"


class Icons:
    """Icons by name (a file of resources/icons without its ending), role and size; made anew when the theme changes."""

    def __init__(self, theme: Theme) -> None:
        self.theme = theme
        self._made: dict[tuple[str, str, int], QPixmap] = {}
        self._sources: dict[str, str] = {}
        self._folder: Path | None = None
        theme.changed.connect(self._made.clear)

    def pixmap(self, name: str, role: str = "text", size: int = 18) -> QPixmap:
        """A picture of `size` (at zoom 1) logical pixels in a role's colour, sharp on dense screens."""
        side = self.theme.px(size)
        key = (name, role, side)
        if key not in self._made:
            ratio = max((s.devicePixelRatio() for s in QGuiApplication.screens()), default=1.0)
            image = QImage(QSize(round(side * ratio), round(side * ratio)), QImage.Format.Format_ARGB32_Premultiplied)
            image.fill(Qt.GlobalColor.transparent)
            painter = QPainter(image)
            QSvgRenderer(QByteArray(self._svg(name, role).encode())).render(painter, QRectF(0, 0, side * ratio, side * ratio))
            painter.end()
            image.setDevicePixelRatio(ratio)
            self._made[key] = QPixmap.fromImage(image)
        return self._made[key]

    def icon(self, name: str, role: str = "text", size: int = 18, gap: int = 0) -> QIcon:
        """An icon for buttons and menus, greyed where they are disabled; `gap` leaves room to the text at its right."""
        icon = QIcon(_padded(self.pixmap(name, role, size), self.theme.px(gap) if gap else 0))
        icon.addPixmap(_padded(self.pixmap(name, "text-faded", size), self.theme.px(gap) if gap else 0), QIcon.Mode.Disabled)
        return icon

    def files(self) -> dict[str, str]:
        """Paths of the pictures that the style sheet names, tinted for the theme in force."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="deltadeck-icons-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        found = {}
        for key, name, role in (("chevron", "chevron-down", "text-faded"), ("chevron_up", "chevron-up", "text-faded"),
                                ("check", "check", "accent-text")):
            path = self._folder / f"{name}-{'dark' if self.theme.dark else 'light'}.svg"
            path.write_text(self._svg(name, role), encoding="utf-8")
            found[key] = path.as_posix()
        return found

    def _svg(self, name: str, role: str) -> str:
        if name not in self._sources:
            self._sources[name] = (FOLDER / f"{name}.svg").read_text(encoding="utf-8")
        return self._sources[name].replace("currentColor", self.theme.color(role).name())


def _padded(picture: QPixmap, gap: int) -> QPixmap:
    """The picture with `gap` empty logical pixels at its right."""
    if not gap:
        return picture
    ratio = picture.devicePixelRatio()
    wide = QPixmap(picture.width() + round(gap * ratio), picture.height())
    wide.setDevicePixelRatio(ratio)
    wide.fill(Qt.GlobalColor.transparent)
    painter = QPainter(wide)
    painter.drawPixmap(0, 0, picture)
    painter.end()
    return wide
