"""Controls of the recipe card: a line of a form, a combo with keys, the calibration source, the folded part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from PySide6.QtCore import QObject, QSignalBlocker, Qt, Signal
from PySide6.QtGui import QStandardItemModel
from PySide6.QtWidgets import QComboBox, QFileDialog, QGridLayout, QHBoxLayout, QLineEdit, QSpinBox, QToolButton, QWidget

from app.context import Context
from app.pages.compress.recipe import AXES, OBJECTIVES, Recipe
from app.paths import expanded
from app.widgets.basics import ElidedLabel, boxed, column, label, row, set_look, tool_button

LABEL_WIDTH = 106
_ADD_FILE, _ADD_HUB = "add-file", "add-hub"


class Zoomed(QObject):
    """Keeps a length of a widget in step with the font zoom: `apply(pixels)` is called now and after each change."""

    def __init__(self, ctx: Context, widget: QWidget, apply: Callable[[int], object], length: float) -> None:
        super().__init__(widget)
        self._theme, self._apply, self._length = ctx.theme, apply, length
        ctx.theme.changed.connect(self._follow)
        self._follow()

    def _follow(self) -> None:
        self._apply(self._theme.px(self._length))


class Combo(QComboBox):
    """A combo box of keys and words. The wheel scrolls the page, not the choice, unless it has the focus."""

    def __init__(self, name: str, choices: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__()
        self.setAccessibleName(name)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(1)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        for key, text in choices:
            self.addItem(text, key)

    def key(self) -> str:
        """The key of the choice."""
        return str(self.currentData() or "")

    def set_key(self, key: str) -> None:
        """Choose without telling; an unknown key is added."""
        with QSignalBlocker(self):
            if self.findData(key) < 0:
                self.addItem(key, key)
            self.setCurrentIndex(self.findData(key))

    def wheelEvent(self, event: object) -> None:
        """Only where one is in it."""
        if self.hasFocus():
            super().wheelEvent(event)  # type: ignore[arg-type]
        else:
            event.ignore()  # type: ignore[attr-defined]


class Spin(QSpinBox):
    """A whole number; the wheel works only where one is in it."""

    def __init__(self, ctx: Context, name: str, low: int, high: int, value: int, *, step: int = 1) -> None:
        super().__init__()
        self.setAccessibleName(name)
        self.setRange(low, high)
        self.setValue(value)
        self.setSingleStep(step)
        Zoomed(ctx, self, self.setFixedHeight, 30)
        self.setKeyboardTracking(False)
        self.lineEdit().setTextMargins(8, 0, 0, 0)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)

    def wheelEvent(self, event: object) -> None:
        """Only where one is in it."""
        if self.hasFocus():
            super().wheelEvent(event)  # type: ignore[arg-type]
        else:
            event.ignore()  # type: ignore[attr-defined]


def form_line(ctx: Context, name: str, *fields: QWidget, first: int = 1) -> QHBoxLayout:
    """A name in a column of one width, fields beside it; the `first` takes what is left."""
    words = label(name, tone="faded")
    Zoomed(ctx, words, words.setFixedWidth, LABEL_WIDTH)
    words.setBuddy(fields[0])
    made = row(words, *fields, gap=8)
    made.setStretch(first, 1)
    return made


class Calibration(QWidget):
    """Where the text comes from: built in, streamed, a file, or a data set of the hub; and how many samples of it."""

    changed = Signal()

    def __init__(self, ctx: Context) -> None:
        super().__init__()
        self._ctx = ctx
        self.combo = Combo("Calibration text", (("default", "Built-in text"), ("c4", "C4, streamed"), ("auto", "C4, or built-in"),
                                                (_ADD_FILE, "A file..."), (_ADD_HUB, "A hub data set...")))
        tips = ("Text that ships with Deltadeck: no network.", "Streamed from the hub while the job starts: needs a network.",
                "C4 where the hub answers, else the built-in text.", "A txt, jsonl, json or parquet file.",
                "Streamed from the hub: hub:org/name, with :config and :split if it has them.")
        self._tips = {str(self.combo.itemData(i)): tip for i, tip in enumerate(tips)}
        for i, tip in enumerate(tips):
            self.combo.setItemData(i, tip, Qt.ItemDataRole.ToolTipRole)
        self.samples = Spin(ctx, "Calibration samples", 2, 100_000, 50)
        self.samples.setToolTip("Samples of calibration text; a fifth of them only judge.")
        Zoomed(ctx, self.samples, self.samples.setFixedWidth, 98)
        self.hub = QLineEdit()
        self.hub.setPlaceholderText("hub:org/name:config:split")
        self.hub.setAccessibleName("Data set of the hub")
        self.hub.hide()
        self._key = "default"
        line = row(self.combo, self.samples, gap=8)
        line.setStretch(0, 1)
        self.setLayout(column(line, self.hub, gap=6))
        self.setFocusProxy(self.combo)
        self.combo.activated.connect(self._chosen)
        self.samples.valueChanged.connect(self._told)
        ctx.settings.changed.connect(self._settings_changed)
        self._settings_changed("offline")
        self.hub.editingFinished.connect(self._hub_given)

    def value(self) -> str:
        """The source as a request names it."""
        return self._key

    def set_value(self, source: str) -> None:
        """Choose without telling."""
        self._key = source
        if self.combo.findData(source) < 0:
            with QSignalBlocker(self.combo):
                self.combo.insertItem(3, source if source.startswith("hub:") else Path(source).name or source, source)
                self.combo.setItemData(3, source, Qt.ItemDataRole.ToolTipRole)
        self.combo.set_key(source)
        self.hub.setVisible(False)

    def set_length(self, tokens: int | None) -> None:
        """How long a sample is, once that is known."""
        self.samples.setSuffix(f" x {tokens:,}" if tokens else "")

    def problem(self) -> str:
        """What is missing, in a sentence."""
        return "Name the data set for calibration." if self.combo.key() == _ADD_HUB else ""

    def _told(self) -> None:
        self.changed.emit()

    def _settings_changed(self, name: str) -> None:
        """What needs a network can't be chosen in offline mode."""
        model = self.combo.model()
        if name != "offline" or not isinstance(model, QStandardItemModel):
            return
        offline = self._ctx.settings.options.offline
        for key in ("c4", _ADD_HUB):
            item = model.item(self.combo.findData(key))
            item.setEnabled(not offline)
            item.setToolTip("Offline mode is on." if offline else self._tips[key])

    def _chosen(self) -> None:
        key = self.combo.key()
        self.hub.setVisible(key == _ADD_HUB)
        if key == _ADD_FILE:
            found, _ = QFileDialog.getOpenFileName(self, "Calibration text", str(Path.home()),
                                                   "Text (*.txt *.jsonl *.json *.parquet);;All files (*)")
            self.set_value(found or self._key)
        elif key == _ADD_HUB:
            self.hub.setFocus()
        else:
            self._key = key
        self.changed.emit()

    def _hub_given(self) -> None:
        text = self.hub.text().strip()
        if text:
            self.set_value(text if text.startswith("hub:") else f"hub:{text}")
            self.changed.emit()


class Advanced(QWidget):
    """What is rarely changed, folded away; a line says what it holds."""

    changed = Signal()
    opened = Signal()

    def __init__(self, ctx: Context) -> None:
        super().__init__()
        self._ctx = ctx
        self.fold: QToolButton = tool_button(ctx.icons, "chevron-right", "Show the advanced recipe", size=16, clicked=self.toggle)
        self.fold.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self._words = ElidedLabel("")
        self._words.setProperty("step", "small")
        self._words.setProperty("tone", "faded")
        title = label("Advanced", weight=600)
        head = row(self.fold, title, self._words, gap=6)
        head.setStretch(2, 1)
        for part in (title, self._words):
            part.setCursor(Qt.CursorShape.PointingHandCursor)
            part.mousePressEvent = lambda _event: self.toggle()  # type: ignore[method-assign]
        self.axis = Combo("Axis of the scales", AXES)
        self.length = Spin(ctx, "Tokens per sample", 0, 1 << 20, 0, step=64)
        self.length.setSpecialValueText("by the model's width")
        self.tune_samples = Spin(ctx, "Tuning samples", 1, 100_000, 150)
        self.objective = Combo("What tuning lowers", OBJECTIVES)
        self.seed = Spin(ctx, "Seed", 0, 2**31 - 1, 0)
        grid = QGridLayout()
        grid.setHorizontalSpacing(8)
        grid.setVerticalSpacing(8)
        grid.setColumnStretch(1, 1)
        fields: tuple[tuple[str, QWidget], ...] = (("Axis", self.axis), ("Sample length", self.length), ("Tune samples",
                                                   self.tune_samples), ("Tuning lowers", self.objective), ("Seed", self.seed))
        for at, (name, field) in enumerate(fields):
            words = label(name, tone="faded")
            words.setBuddy(field)
            Zoomed(ctx, words, words.setFixedWidth, LABEL_WIDTH)
            grid.addWidget(words, at, 0)
            grid.addWidget(field, at, 1)
        self.body = boxed(grid)
        grid.setContentsMargins(0, 4, 0, 0)
        self.body.hide()
        self.setLayout(column(head, self.body, gap=4))
        for combo in (self.axis, self.objective):
            combo.activated.connect(self._told)
        for spin in (self.length, self.tune_samples, self.seed):
            spin.valueChanged.connect(self._told)

    def _told(self) -> None:
        self.changed.emit()

    def toggle(self) -> None:
        """Fold or unfold."""
        self.set_open(self.body.isHidden())

    def set_open(self, is_open: bool) -> None:
        """Fold or unfold."""
        self.body.setVisible(is_open)
        self._words.setVisible(not is_open)
        self.fold.setIcon(self._ctx.icons.icon("chevron-down" if is_open else "chevron-right", "text-faded", 16))
        name = "Fold the advanced recipe" if is_open else "Show the advanced recipe"
        self.fold.setAccessibleName(name)
        self.fold.setToolTip(name)
        if is_open:
            self.opened.emit()

    def show_recipe(self, recipe: Recipe) -> None:
        """Take values over without telling."""
        for spin, value in ((self.length, recipe.sequence_length or 0), (self.tune_samples, recipe.tune_samples),
                            (self.seed, recipe.seed)):
            with QSignalBlocker(spin):
                spin.setValue(value)
        self.axis.set_key(recipe.axis)
        self.objective.set_key(recipe.objective)
        self.restate(recipe)

    def restate(self, recipe: Recipe) -> None:
        """Say what is folded, and why something has no say."""
        self._words.setText(recipe.advanced_words())
        self.axis.setEnabled(recipe.takes_axis)
        self.axis.setToolTip("" if recipe.takes_axis else "This method decides the axis itself.")
        for field in (self.tune_samples, self.objective):
            field.setEnabled(recipe.tune)
            field.setToolTip("" if recipe.tune else "Tuning end to end is off.")


class PathField(QLineEdit):
    """A folder, with a button to browse for it."""

    picked = Signal()

    def __init__(self, ctx: Context, name: str) -> None:
        super().__init__()
        self.setAccessibleName(name)
        action = self.addAction(ctx.icons.icon("folder", "text-faded", 16), QLineEdit.ActionPosition.TrailingPosition)
        action.setText("Browse for a folder")
        action.setToolTip("Browse for a folder")
        action.triggered.connect(self.browse)
        for made in self.findChildren(QToolButton):
            made.setAccessibleName("Browse for a folder")

    def browse(self) -> None:
        """Let a folder be chosen in the system's dialog."""
        found = QFileDialog.getExistingDirectory(self, "Save deltas in", str(expanded(self.text() or "~")))
        if found:
            self.setText(found)
            self.picked.emit()

    def mark(self, is_wrong: bool) -> None:
        """Show that what it holds can't be used."""
        set_look(self, wrong="true" if is_wrong else "")

