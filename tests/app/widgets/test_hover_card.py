"""Hover cards stand beside what they are about, inside the window."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PySide6.QtCore import QPoint, QRect, QSize, Qt
from PySide6.QtGui import QColor
from PySide6.QtWidgets import QWidget
from pytestqt.qtbot import QtBot

from app.theme import Choice, Theme
from app.widgets.hover_card import GAP, HoverCard, HoverFacts, place_beside

AREA = QRect(0, 0, 1272, 712)
FACTS = HoverFacts("Block 16, down", "column by 19 %", (("Recovery", "0.860"), ("Scales", "1,536")), "Too few tokens", "C",
                   QColor("#D55E00"))


@given(x=st.integers(0, 1240), y=st.integers(0, 680), wide=st.integers(100, 400), high=st.integers(40, 300))
def test_it_never_covers_its_cell_nor_leaves_the_window(x: int, y: int, wide: int, high: int) -> None:
    anchor, size = QRect(x, y, 23, 28), QSize(wide, high)
    card = QRect(place_beside(anchor, size, AREA), size)
    assert AREA.contains(card)
    assert not card.intersects(anchor)


def test_it_stands_at_the_right_and_at_the_left_near_the_edge() -> None:
    size = QSize(250, 150)
    assert place_beside(QRect(100, 300, 20, 20), size, AREA).x() == 120 + GAP
    assert place_beside(QRect(1200, 300, 20, 20), size, AREA).x() == 1200 - GAP - 250


def test_it_leaves_the_layer_being_fitted_visible() -> None:
    anchor, now = QRect(600, 400, 22, 28), QRect(624, 310, 22, 28)
    size = QSize(250, 180)
    card = QRect(place_beside(anchor, size, QRect(0, 0, 1272, 500), [now]), size)
    assert not card.intersects(now) and not card.intersects(anchor)
    assert card.left() >= anchor.right()


def test_a_window_too_small_for_it_still_gets_it() -> None:
    area = QRect(0, 0, 200, 100)
    at = place_beside(QRect(90, 40, 20, 20), QSize(190, 90), area)
    assert area.contains(QRect(at, QSize(190, 90)))


@pytest.mark.parametrize("choice", ["light", "dark"])
def test_it_floats_takes_no_clicks_and_says_its_facts(qtbot: QtBot, choice: Choice) -> None:
    window = QWidget()
    qtbot.addWidget(window)
    window.resize(900, 500)
    chart = QWidget(window)
    chart.setGeometry(40, 40, 400, 300)
    window.show()
    theme = Theme(choice)
    card = HoverCard(theme, window)
    card.show_beside(FACTS, QRect(100, 50, 20, 20), chart)
    assert card.isVisible() and card.parentWidget() is window
    assert card.card_rect().left() >= chart.mapTo(window, QPoint(120, 50)).x()
    assert card.testAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
    assert card.accessibleName() == "Block 16, down: column by 19 %. Recovery 0.860. Scales 1,536. Too few tokens"
    image = card.grab().toImage()
    inks = {image.pixelColor(x, y).name() for x in range(image.width()) for y in range(image.height())}
    assert "#d55e00" in inks and len(inks) > 20
    theme.use("dark" if choice == "light" else "light", 1.0)
    assert not card.isVisible()


def test_more_facts_make_it_higher(qtbot: QtBot) -> None:
    window = QWidget()
    qtbot.addWidget(window)
    card = HoverCard(Theme("light"), window)
    card.facts = HoverFacts("q")
    low = card.sizeHint().height()
    card.facts = FACTS
    assert card.sizeHint().height() > low + 30
