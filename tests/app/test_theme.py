"""Both themes are whole and readable; fonts and sizes follow the zoom."""

from __future__ import annotations

from pathlib import Path

import pytest
from PySide6.QtGui import QColor, QFont
from PySide6.QtWidgets import QApplication

from app.icons import FOLDER as ICON_FOLDER
from app.icons import Icons
from app.qss import style_sheet
from app.theme import FOLDER, ROLES, Choice, Theme, contrast, load_colours
from app.widgets.painting import axis_colour
from core.errors import BadOption

BOTH = pytest.mark.parametrize("choice", ["light", "dark"])


@BOTH
@pytest.mark.parametrize(("ink", "ground"), [
    ("text", "surface"), ("text", "surface-raised"), ("text-faded", "surface"), ("text-faded", "surface-raised"),
    ("accent", "surface-raised"), ("accent-text", "accent"), ("success", "surface-raised"), ("warning", "surface-raised"),
    ("danger", "surface-raised"), ("accent", "surface")])
def test_words_stand_out_from_their_ground(qapp: QApplication, choice: Choice, ink: str, ground: str) -> None:
    theme = Theme(choice)
    assert contrast(theme.color(ink), theme.color(ground)) >= 4.5


@BOTH
def test_words_on_tints_stand_out(qapp: QApplication, choice: Choice) -> None:
    theme = Theme(choice)
    for role, share in (("success", 0.12), ("warning", 0.12), ("danger", 0.12)):
        assert contrast(theme.color(role), theme.mixed(role, share)) >= 4.5
        assert contrast(theme.color("text"), theme.mixed(role, share)) >= 4.5
    for share in (0.08, 0.10, 0.14):                   # hover, disabled, track
        assert contrast(theme.color("text-faded"), theme.mixed("text-faded", share)) >= 4.5
    assert contrast(theme.color("text"), theme.mixed("accent", 0.11)) >= 4.5
    assert contrast(theme.color("text"), theme.mixed("accent", 0.11, "surface")) >= 4.5
    for share in (0.9, 0.8):                           # the primary button under the pointer and pressed
        assert contrast(theme.color("accent-text"), theme.mixed("accent", share, "text")) >= 4.5


@BOTH
def test_edges_of_fields_and_axis_colours_are_seen(qapp: QApplication, choice: Choice) -> None:
    theme = Theme(choice)
    for role in ("line-strong", "row", "column"):
        assert contrast(theme.color(role), theme.color("surface-raised")) >= 3
    for axis in ("row", "column"):
        for step in range(31):
            cell = axis_colour(theme, axis, step / 100)
            assert contrast(theme.ink_on(cell), cell) >= 4.5


@BOTH
def test_the_style_sheet_has_no_gaps(qapp: QApplication, choice: Choice) -> None:
    theme = Theme(choice)
    sheet = style_sheet(theme, Icons(theme).files())
    assert "$" not in sheet
    assert theme.color("accent").name() in sheet


def test_zoom_changes_fonts_and_lengths_and_tells(qapp: QApplication) -> None:
    theme = Theme("light")
    told: list[bool] = []
    theme.changed.connect(lambda: told.append(theme.dark))
    assert theme.font().pixelSize() == 13
    theme.use("light", 1.5)
    assert (theme.font().pixelSize(), theme.px(20)) == (20, 30)
    theme.use("dark", 1.5)
    theme.use("dark", 1.5)
    assert told == [False, True]
    assert theme.font("big", 600).weight() == QFont.Weight.DemiBold


def test_a_theme_with_a_missing_role_is_refused(tmp_path: Path) -> None:
    text = (FOLDER / "light.toml").read_text()
    broken = tmp_path / "broken.toml"
    broken.write_text(text.replace('danger = "#B3261E"', 'danger = "red"'))
    with pytest.raises(BadOption, match="'danger'"):
        load_colours(broken)


def test_every_icon_takes_its_roles_colour(qapp: QApplication) -> None:
    theme = Theme("light")
    icons = Icons(theme)
    for path in sorted(ICON_FOLDER.glob("*.svg")):
        image = icons.pixmap(path.stem, "danger", 40).toImage()
        pixels = [image.pixelColor(x, y) for x in range(40) for y in range(40)]
        drawn = {pixel.name() for pixel in pixels if pixel.alpha() > 250}
        assert drawn, path.name
        assert all(abs(QColor(c).red() - theme.color("danger").red()) < 8 for c in drawn), path.name


def test_all_roles_are_in_both_themes() -> None:
    for name in ("light", "dark"):
        assert tuple(load_colours(FOLDER / f"{name}.toml").roles) == ROLES
