"""Labels, cards, buttons and rows of facts, styled by the one style sheet through dynamic properties."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from PySide6.QtCore import QEvent, QObject, QSize, Qt, Signal
from PySide6.QtGui import QFontMetrics, QPaintEvent, QResizeEvent
from PySide6.QtWidgets import (
    QAbstractButton,
    QBoxLayout,
    QButtonGroup,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLayout,
    QLayoutItem,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from app.icons import Icons
from app.words import plain_tip

Tone = Literal["text", "faded", "accent", "success", "warning", "danger"]


def set_look(widget: QWidget, **properties: object) -> None:
    """Set dynamic properties that the style sheet reads, and have the widget styled anew."""
    changed = False
    for name, value in properties.items():
        if widget.property(name) != value:
            widget.setProperty(name, value)
            changed = True
    if changed:
        widget.style().unpolish(widget)
        widget.style().polish(widget)


class ElidedLabel(QLabel):
    """A label of one line that ends in dots where it is too long, with the whole text as its tooltip."""

    def __init__(self, text: str = "", mode: Qt.TextElideMode = Qt.TextElideMode.ElideRight,
                 parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._whole, self._mode = text, mode
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setText(text)

    def setText(self, text: str) -> None:
        """Show another text."""
        self._whole = text
        self.setAccessibleName(text)
        self.updateGeometry()
        self._fit()

    def whole_text(self) -> str:
        """The text without dots."""
        return self._whole

    def _fit(self) -> None:
        shown = QFontMetrics(self.font()).elidedText(self._whole, self._mode, max(0, self.contentsRect().width()))
        super().setText(shown)
        self.setToolTip(plain_tip(self._whole) if shown != self._whole else "")

    def sizeHint(self) -> QSize:
        """As wide as the whole text."""
        metrics = QFontMetrics(self.font())
        return QSize(metrics.horizontalAdvance(self._whole) + 4, metrics.height() + 2)

    def minimumSizeHint(self) -> QSize:
        """It may shrink to three letters."""
        metrics = QFontMetrics(self.font())
        return QSize(min(self.sizeHint().width(), metrics.horizontalAdvance("MMM")), metrics.height() + 2)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Elide anew."""
        super().resizeEvent(event)
        self._fit()

    def changeEvent(self, event: QEvent) -> None:
        """Another font needs other dots."""
        super().changeEvent(event)
        if event.type() in (QEvent.Type.FontChange, QEvent.Type.StyleChange):
            self.updateGeometry()
            self._fit()


def label(text: str = "", size: str = "text", weight: int = 400, tone: Tone = "text", *, mono: bool = False, wrap: bool = False,
          elide: bool = False, selectable: bool = False) -> QLabel:
    """A label of plain text. `wrap` breaks lines, `elide` cuts with dots, `selectable` can be copied from."""
    made = ElidedLabel(text) if elide else QLabel(text)
    made.setTextFormat(Qt.TextFormat.PlainText)
    made.setWordWrap(wrap)
    for name, value in (("step", size), ("weight", str(weight)), ("tone", tone), ("mono", "true" if mono else "")):
        made.setProperty(name, value)
    if wrap:
        # As high as its lines need and no higher: a wrapped label would else take its share of empty space.
        policy = QSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        policy.setHeightForWidth(True)
        made.setSizePolicy(policy)
    if selectable:
        flags = Qt.TextInteractionFlag
        made.setTextInteractionFlags(flags.TextSelectableByMouse | flags.TextSelectableByKeyboard)
    return made


def badge(text: str = "", tone: Tone = "faded") -> QLabel:
    """A small tinted word of state."""
    made = QLabel(text)
    made.setTextFormat(Qt.TextFormat.PlainText)
    made.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
    made.setProperty("look", "badge")
    made.setProperty("tone", tone)
    return made


def key_cap(text: str) -> QLabel:
    """The picture of a key, beside what it does."""
    made = QLabel(text)
    made.setProperty("look", "key")
    made.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
    return made


class IconLabel(QLabel):
    """An icon that keeps its colour when the theme changes."""

    def __init__(self, icons: Icons, name: str, tone: str = "text-faded", size: int = 18, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._icons, self._name, self._tone, self._size = icons, name, tone, size
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        icons.theme.changed.connect(self._draw)
        self._draw()

    def set_icon(self, name: str, tone: str | None = None) -> None:
        """Show another icon."""
        self._name, self._tone = name, tone or self._tone
        self._draw()

    def _draw(self) -> None:
        self.setPixmap(self._icons.pixmap(self._name, self._tone, self._size))


class _IconKeeper(QObject):
    """Keeps the icon of a button in the theme's colours; lives and dies with the button."""

    def __init__(self, made: QAbstractButton, icons: Icons, name: str, role: str, size: int = 16) -> None:
        super().__init__(made)
        self._made, self._icons, self._look = made, icons, (name, role, size)
        icons.theme.changed.connect(self.draw)
        self.draw()

    def draw(self) -> None:
        """Tint it anew."""
        name, role, size = self._look
        gap = 4 if self._made.text() else 0            # no style sheet sets the space between icon and text
        self._made.setIcon(self._icons.icon(name, role, size, gap))
        t = self._icons.theme
        self._made.setIconSize(QSize(t.px(size) + (t.px(gap) if gap else 0), t.px(size)))


Look = Literal["", "primary", "ghost", "chip", "segment"]


def button(text: str, look: Look = "", *, icons: Icons | None = None, icon: str = "", tone: Tone = "text", tip: str = "",
           name: str = "", dense: bool = False, clicked: Callable[[], object] | None = None) -> QPushButton:
    """A push button; `primary` once a page. `name` is what screen readers say where `text` is not enough."""
    made = QPushButton(text)
    made.setProperty("look", look)
    made.setProperty("tone", tone)
    made.setProperty("dense", "true" if dense else "")
    made.setAccessibleName(name or text.replace("&", ""))
    made.setToolTip(tip)
    made.setCursor(Qt.CursorShape.PointingHandCursor)
    if icons is not None and icon:
        role = {"primary": "accent-text"}.get(look, "danger" if tone == "danger" else "text-faded" if look == "ghost" else "text")
        _IconKeeper(made, icons, icon, role)
    if clicked is not None:
        made.clicked.connect(lambda *_: clicked())
    return made


def tool_button(icons: Icons, icon: str, name: str, *, tip: str = "", size: int = 18, tone: str = "text-faded",
                clicked: Callable[[], object] | None = None) -> QToolButton:
    """A button that is an icon alone; `name` is its accessible name and, without `tip`, its tooltip."""
    made = QToolButton()
    made.setAccessibleName(name)
    made.setToolTip(tip or name)
    made.setCursor(Qt.CursorShape.PointingHandCursor)
    made.setFocusPolicy(Qt.FocusPolicy.TabFocus)
    _IconKeeper(made, icons, icon, tone, size)
    if clicked is not None:
        made.clicked.connect(lambda *_: clicked())
    return made


def hairline() -> QFrame:
    """A thin line across."""
    made = QFrame()
    made.setProperty("look", "hairline")
    made.setFixedHeight(1)
    return made


def upright() -> QFrame:
    """A thin line down."""
    made = QFrame()
    made.setProperty("look", "upright")
    made.setFixedWidth(1)
    return made


def fill(layout: QBoxLayout, items: Iterable[QWidget | QLayout | int | None], stretch: Sequence[int] = ()) -> None:
    """Add widgets and layouts in order; a number is a gap in pixels, None takes up what is left."""
    for i, item in enumerate(items):
        share = stretch[i] if i < len(stretch) else 0
        if item is None:
            layout.addStretch(1)
        elif isinstance(item, int):
            layout.addSpacing(item)
        elif isinstance(item, QLayout):
            layout.addLayout(item, share)
        else:
            layout.addWidget(item, share)


def row(*items: QWidget | QLayout | int | None, gap: int = 8, margins: tuple[int, int, int, int] = (0, 0, 0, 0)) -> QHBoxLayout:
    """Things side by side."""
    made = QHBoxLayout()
    made.setSpacing(gap)
    made.setContentsMargins(*margins)
    fill(made, items)
    return made


def column(*items: QWidget | QLayout | int | None, gap: int = 8,
           margins: tuple[int, int, int, int] = (0, 0, 0, 0)) -> QVBoxLayout:
    """Things one below the other."""
    made = QVBoxLayout()
    made.setSpacing(gap)
    made.setContentsMargins(*margins)
    fill(made, items)
    return made


def boxed(layout: QLayout, look: str = "") -> QWidget:
    """A widget around a layout."""
    made = QWidget()
    if look:
        made.setProperty("look", look)
        made.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
    made.setLayout(layout)
    return made


class Card(QFrame):
    """A raised part of a page: a title line (title, quiet explanation, anything at the right) over its content."""

    def __init__(self, title: str = "", caption: str = "", *, margins: tuple[int, int, int, int] = (16, 12, 16, 12),
                 gap: int = 8, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("look", "card")
        self.setAccessibleName(title)
        self.body = QVBoxLayout(self)
        self.body.setContentsMargins(*margins)
        self.body.setSpacing(gap)
        self.title = label(title, weight=600)
        self.caption = label(caption, tone="faded", elide=True)
        self.head = row(self.title, self.caption, gap=8)
        self.head.setStretch(1, 1)
        if title or caption:
            self.body.addLayout(self.head)
        else:
            self.title.hide()
            self.caption.hide()
            for unused in (self.title, self.caption):
                unused.setParent(self)

    def at_right(self, *widgets: QWidget) -> None:
        """Put widgets at the right end of the title line."""
        for widget in widgets:
            self.head.addWidget(widget)

    def add(self, *items: QWidget | QLayout | int | None) -> None:
        """Add content below."""
        fill(self.body, items)


class FactList(QWidget):
    """Faded names in a column of one width, values beside them."""

    def __init__(self, names: Sequence[str] = (), *, width: int = 96, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setHorizontalSpacing(8)
        self._grid.setVerticalSpacing(4)
        self._grid.setColumnMinimumWidth(0, width)
        self._grid.setColumnStretch(1, 1)
        self._values: dict[str, ElidedLabel] = {}
        self._names: dict[str, QLabel] = {}
        for name in names:
            self.set(name, "")

    def set(self, name: str, value: str) -> None:
        """Set a fact, adding it below the others where it is new."""
        if name not in self._values:
            at = len(self._values)
            shown = label(name, size="small", tone="faded")
            value_label = ElidedLabel()
            value_label.setProperty("weight", "500")
            self._grid.addWidget(shown, at, 0)
            self._grid.addWidget(value_label, at, 1)
            self._values[name], self._names[name] = value_label, shown
        self._values[name].setText(value)
        self._values[name].setAccessibleName(f"{name}: {value}")

    def value(self, name: str) -> str:
        """The text of a fact."""
        return self._values[name].whole_text()

    def clear(self) -> None:
        """Empty all values."""
        for name in self._values:
            self.set(name, "")


class Figure(QWidget):
    """A number over what it is."""

    def __init__(self, caption: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._value = label("", size="big", weight=600)
        self._unit = label("", size="small", tone="faded")
        self._caption = label(caption, size="small", tone="faded")
        self.setLayout(column(row(self._value, self._unit, None, gap=5), self._caption, gap=1))
        self.set("–")

    def set_caption(self, text: str) -> None:
        """Say otherwise what the number is."""
        if self._caption.text() != text:
            self._caption.setText(text)

    def set(self, value: str, unit: str = "") -> None:
        """Show a value, with a faded unit beside it."""
        self._value.setText(value)
        self._unit.setText(unit)
        self.setAccessibleName(f"{self._caption.text()}: {value} {unit}".strip())


class Segmented(QFrame):
    """Two to four choices that exclude each other. `chosen` tells the key of the new one."""

    chosen = Signal(str)

    def __init__(self, choices: Sequence[tuple[str, str]], name: str, *, expand: bool = False,
                 parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("look", "segmented")
        self.setAccessibleName(name)
        self._group = QButtonGroup(self)
        self._group.setExclusive(True)
        self._keys = [key for key, _ in choices]
        layout = row(gap=2, margins=(2, 2, 2, 2))
        for i, (_, text) in enumerate(choices):
            made = button(text, "segment", name=f"{name}: {text}")
            made.setCheckable(True)
            made.setSizePolicy(QSizePolicy.Policy.Expanding if expand else QSizePolicy.Policy.Minimum, QSizePolicy.Policy.Fixed)
            self._group.addButton(made, i)
            layout.addWidget(made, 1 if expand else 0)
        self.setLayout(layout)
        self.setSizePolicy(QSizePolicy.Policy.Expanding if expand else QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
        self._group.button(0).setChecked(True)
        self._group.idClicked.connect(self._clicked)

    def _clicked(self, number: int) -> None:
        self.chosen.emit(self._keys[number])

    def value(self) -> str:
        """The key of the choice."""
        return self._keys[self._group.checkedId()]

    def set_value(self, key: str) -> None:
        """Choose without telling."""
        self._group.button(self._keys.index(key)).setChecked(True)

    def set_text(self, key: str, text: str) -> None:
        """Another text on a choice (a count)."""
        self._group.button(self._keys.index(key)).setText(text)


def scrolled(content: QWidget, *, name: str) -> QScrollArea:
    """A page or pane that scrolls down where the window is low."""
    area = QScrollArea()
    area.setWidgetResizable(True)
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setAccessibleName(name)
    content.setProperty("look", "body")
    area.setWidget(content)
    area.viewport().setAutoFillBackground(False)
    return area


def clear_layout(layout: QLayout) -> None:
    """Take everything out of a layout and let go of it."""
    while (item := layout.takeAt(0)) is not None:
        _discard(item)


def _discard(item: QLayoutItem) -> None:
    if (widget := item.widget()) is not None:
        widget.hide()
        widget.setParent(None)
        widget.deleteLater()
    elif (inner := item.layout()) is not None:
        clear_layout(inner)


class PageHeader(QWidget):
    """Title and quiet explanation at the left, buttons at the right; 64 high."""

    def __init__(self, title: str, caption: str = "", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.title = label(title, size="title", weight=600)
        self.caption = label(caption, tone="faded", elide=True)
        self.line = row(self.title, 4, self.caption, gap=8)
        self.line.setStretch(2, 1)
        self.setLayout(self.line)
        self.setMinimumHeight(64)

    def at_right(self, *widgets: QWidget) -> None:
        """Put buttons at the right end."""
        for widget in widgets:
            self.line.addWidget(widget)


class Swatch(QWidget):
    """A small square in the colour of an axis with its letter: the axes are never told by colour alone."""

    def __init__(self, icons: Icons, axis: Literal["row", "column", "todo"], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme, self._axis = icons.theme, axis
        self.setFixedSize(self._theme.px(14), self._theme.px(14))
        self._theme.changed.connect(self.update)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw it."""
        from app.widgets.painting import draw_axis_cell

        draw_axis_cell(self, self._theme, self._axis)
