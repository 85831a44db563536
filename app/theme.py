"""Colours by role, fonts by size, and how both follow the settings.

A theme is a TOML file in `resources/themes`: a name, light or dark, and a colour for each role. Tints are mixed from
the roles, never stored. Qt's own colour scheme is not relied on: it does nothing on some platforms.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PySide6.QtCore import QObject, Qt, Signal
from PySide6.QtGui import QColor, QFont, QFontDatabase, QGuiApplication, QPalette

from core.errors import BadOption

ROLES = ("surface", "surface-raised", "line", "line-strong", "text", "text-faded", "accent", "accent-text", "success",
         "warning", "danger", "row", "column")
SIZES = {"tick": 11, "small": 12, "text": 13, "big": 16, "title": 19, "figure": 28}
"""Font sizes in pixels at zoom 1, at which ordinary text is 13."""
FOLDER = Path(__file__).parent.parent / "resources" / "themes"

Choice = Literal["system", "light", "dark"]


@dataclass(frozen=True)
class Colours:
    """One theme file."""

    name: str
    dark: bool
    roles: dict[str, str]


def load_colours(path: Path) -> Colours:
    """Read a theme file. Raises `BadOption` where a role is missing or no colour."""
    found = tomllib.loads(path.read_text(encoding="utf-8"))
    roles = found.get("roles", {})
    bad = [r for r in ROLES if not re.fullmatch(r"#[0-9A-Fa-f]{6}", str(roles.get(r, "")))]
    if bad:
        raise BadOption(f"The theme '{path.name}' has no colour for '{bad[0]}'.", "", "Give every role a colour such as #5145B5.")
    return Colours(str(found.get("name", path.stem)), found.get("kind") == "dark", {r: roles[r] for r in ROLES})


def blend(top: QColor, ground: QColor, share: float) -> QColor:
    """`share` of `top` on `ground`, opaque."""
    return QColor.fromRgbF(*(top_c * share + ground_c * (1 - share) for top_c, ground_c in
                             ((top.redF(), ground.redF()), (top.greenF(), ground.greenF()), (top.blueF(), ground.blueF()))))


def luminance(colour: QColor) -> float:
    """Relative luminance, WCAG 2.2."""
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
             for c in (colour.redF(), colour.greenF(), colour.blueF())]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(a: QColor, b: QColor) -> float:
    """Contrast ratio of two colours, WCAG 2.2: from 1 to 21."""
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


class Theme(QObject):
    """The colours and fonts in force. `changed` comes after any of them did."""

    changed = Signal()

    def __init__(self, choice: Choice = "system", zoom: float = 1.0, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._files = {"light": load_colours(FOLDER / "light.toml"), "dark": load_colours(FOLDER / "dark.toml")}
        families = set(QFontDatabase.families())
        self.family = "Inter" if "Inter" in families else QFontDatabase.systemFont(QFontDatabase.SystemFont.GeneralFont).family()
        self.mono_family = "JetBrains Mono" if "JetBrains Mono" in families else QFontDatabase.systemFont(
            QFontDatabase.SystemFont.FixedFont).family()
        self.choice, self.zoom = choice, zoom
        self._fonts: dict[tuple[str, int, bool], QFont] = {}
        self._colours = self._chosen()
        hints = QGuiApplication.styleHints()
        hints.colorSchemeChanged.connect(self._system_changed)

    def _chosen(self) -> Colours:
        if self.choice != "system":
            return self._files[self.choice]
        return self._files["dark" if QGuiApplication.styleHints().colorScheme() == Qt.ColorScheme.Dark else "light"]

    def _system_changed(self) -> None:
        if self.choice == "system":
            self.use(self.choice, self.zoom)

    def use(self, choice: Choice, zoom: float) -> None:
        """Take another theme or font zoom (1 is 13 px)."""
        before = self._colours, self.zoom
        self.choice, self.zoom = choice, zoom
        self._colours = self._chosen()
        if (self._colours, zoom) != before:
            self._fonts.clear()
            self.changed.emit()

    @property
    def dark(self) -> bool:
        """Whether the theme in force is a dark one."""
        return self._colours.dark

    def color(self, role: str) -> QColor:
        """The colour of a role."""
        return QColor(self._colours.roles[role])

    def mixed(self, role: str, share: float, ground: str = "surface-raised") -> QColor:
        """`share` of a role's colour on another's: selections .11, badges .12, tracks .16, quiet bars .42."""
        return blend(self.color(role), self.color(ground), share)

    def px(self, length: float) -> int:
        """A length in pixels at the font zoom in force."""
        return max(1, round(length * self.zoom))

    def font(self, size: str = "text", weight: int = 400, mono: bool = False) -> QFont:
        """A font by the name of its size (see SIZES), with digits of one width."""
        key = (size, weight, mono)
        if key not in self._fonts:
            font = QFont(self.mono_family if mono else self.family)
            font.setPixelSize(self.px(SIZES[size]))
            font.setWeight(QFont.Weight(weight))
            font.setFeature(QFont.Tag("tnum"), 1)
            self._fonts[key] = font
        return QFont(self._fonts[key])

    def ink_on(self, ground: QColor) -> QColor:
        """Black or white, whichever stands out more on a colour."""
        black, white = QColor("#000000"), QColor("#FFFFFF")
        return black if contrast(black, ground) >= contrast(white, ground) else white

    def palette(self) -> QPalette:
        """For QApplication: what Fusion paints where the style sheet says nothing."""
        palette = QPalette()
        p = QPalette.ColorRole
        for role, colour in ((p.Window, "surface"), (p.WindowText, "text"), (p.Base, "surface-raised"), (p.Text, "text"),
                             (p.AlternateBase, "surface"), (p.Button, "surface-raised"), (p.ButtonText, "text"),
                             (p.Highlight, "accent"), (p.HighlightedText, "accent-text"), (p.PlaceholderText, "text-faded"),
                             (p.ToolTipBase, "surface-raised"), (p.ToolTipText, "text"), (p.Link, "accent"), (p.Mid, "line"),
                             (p.Accent, "accent")):
            palette.setColor(role, self.color(colour))
        for role in (p.WindowText, p.Text, p.ButtonText):
            palette.setColor(QPalette.ColorGroup.Disabled, role, self.color("text-faded"))
        return palette
