"""The drawer at the right: system prompt, sampling, seed, presets, and what is known of the loaded deck."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from PySide6.QtCore import QSignalBlocker, Qt, QTimer, Signal
from PySide6.QtGui import QAction, QWheelEvent
from PySide6.QtWidgets import (
    QCheckBox,
    QFrame,
    QInputDialog,
    QMenu,
    QPlainTextEdit,
    QSlider,
    QWidget,
)

from app.chat.conversations import Choice
from app.context import Context
from app.pages.chat.number import NumberField
from app.widgets.basics import FactList, boxed, button, column, hairline, label, row, scrolled, tool_button
from app.words import plain_tip

WIDTH = 262
PRESETS: Mapping[str, Choice] = {
    "Balanced": Choice(),
    "Precise": Choice(temperature=0.2, top_p=0.9, top_k=20),
    "Exact (always the likeliest)": Choice(temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.0),
    "Inventive": Choice(temperature=1.1, top_p=0.95, top_k=0)}
_FIELDS = ("temperature", "top_p", "top_k", "max_new_tokens", "repetition_penalty")


class _Slider(QSlider):
    """A slider that leaves the wheel to the drawer, which scrolls."""

    def wheelEvent(self, event: QWheelEvent) -> None:
        """For the drawer."""
        event.ignore()


class Dial(QWidget):
    """A number as a slider and a field. `steps` is the field's step; the slider may run in another measure (`curve` 2)."""

    changed = Signal()

    def __init__(self, ctx: Context, name: str, low: float, high: float, step: float, tip: str, *, curve: float = 1.0) -> None:
        super().__init__()
        self._low, self._high, self._curve = low, high, curve
        self.field = NumberField(name, low, high, step, 2 if step < 1 else 0)
        self.field.valueChanged.connect(self._typed)
        self.field.setFixedWidth(ctx.theme.px(62))
        self.slider = _Slider(Qt.Orientation.Horizontal)
        self.slider.setMinimumHeight(20)               # of its handle, which the style does not count
        self.slider.setRange(0, 1000)
        self.slider.setAccessibleName(f"{name}, slider")
        self.slider.valueChanged.connect(self._slid)
        said = label(name, size="small", weight=500)
        said.setBuddy(self.field)
        self.setToolTip(tip)
        self.setLayout(column(row(said, None, self.field), self.slider, gap=0))

    def value(self) -> float:
        """The number."""
        return self.field.value()

    def set_value(self, value: float) -> None:
        """Show a number without telling."""
        self.field.set_value(value)
        with QSignalBlocker(self.slider):
            self._move()

    def _move(self) -> None:
        share = (self.value() - self._low) / (self._high - self._low)
        self.slider.setValue(round(1000 * max(0.0, share) ** (1 / self._curve)))

    def _typed(self, *_: object) -> None:
        with QSignalBlocker(self.slider):
            self._move()
        self.changed.emit()

    def _slid(self, place: int) -> None:
        value = self._low + (self._high - self._low) * (place / 1000) ** self._curve
        self.field.set_value(round(value / self.field.step) * self.field.step if self.field.step < 1 else value)
        self.changed.emit()


class Drawer(QFrame):
    """`changed` comes after the user changed sampling or system prompt."""

    changed = Signal()
    close_asked = Signal()
    unload_asked = Signal()

    def __init__(self, ctx: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._ctx = ctx
        self.setProperty("look", "drawer")
        self.setAccessibleName("Sampling")
        icons = ctx.icons
        self._presets = button("Presets", "ghost", dense=True, icons=icons, icon="chevron-down",
                               tip="Sampling that goes together")
        self._menu = QMenu(self._presets)
        self._menu.setAccessibleName("Presets")
        self._menu.aboutToShow.connect(self._fill_presets)
        self._menu.triggered.connect(self._preset_chosen)
        self._presets.setMenu(self._menu)
        self.reset = button("Reset", "ghost", dense=True, tip="Back to the usual sampling; the system prompt stays",
                            clicked=self._reset)
        close = tool_button(icons, "close", "Close the drawer", size=15, clicked=self.close_asked.emit)
        self.system = QPlainTextEdit()
        self.system.setAccessibleName("System prompt")
        self.system.setPlaceholderText("None: the variant's own, if it has one.")
        self.system.setTabChangesFocus(True)
        self.system.setFixedHeight(ctx.theme.px(76))
        self._system_why = label("Not used: this variant has no chat template.", size="small", tone="faded", wrap=True)
        self._system_why.hide()
        self._rest = QTimer(self, singleShot=True, interval=400)
        self._rest.timeout.connect(self.changed)
        self.system.textChanged.connect(self._rest.start)
        self.dials = {
            "temperature": Dial(ctx, "Temperature", 0, 2, 0.05, "0 always takes the likeliest token; higher is more varied"),
            "top_p": Dial(ctx, "Top p", 0.05, 1, 0.01, "Only the likeliest tokens that together reach this share; 1 is all"),
            "top_k": Dial(ctx, "Top k", 0, 200, 1, "Only so many of the likeliest tokens; 0 is all", curve=1.6),
            "max_new_tokens": Dial(ctx, "Longest answer, tokens", 16, 4096, 16, "An answer is cut there; it can be continued",
                                   curve=2.2),
            "repetition_penalty": Dial(ctx, "Repetition penalty", 1, 2, 0.01,
                                       "Tokens that were said become less likely; 1 is off")}
        for dial in self.dials.values():
            dial.changed.connect(self._rest.start)
        self.seed = NumberField("Seed", 0, 2**31 - 1, 1, 0)
        self.seed.setFixedWidth(ctx.theme.px(96))
        self.lock = tool_button(icons, "unlock", "Keep the seed", size=16, clicked=self._toggle_lock)
        self.lock.setCheckable(True)
        self.same = QCheckBox("Same seed on all sides")
        self.same.setToolTip("Differences between sides come from the variants alone then")
        self.seed.valueChanged.connect(self._rest.start)
        self.same.toggled.connect(self._rest.start)
        seed_label = label("Seed", size="small", weight=500)
        seed_label.setBuddy(self.seed)
        self._seed_why = label("Each answer takes a new seed. Lock it to repeat an answer.", size="small", tone="faded",
                               wrap=True)
        self.facts = FactList(("Base", "In memory", "Variants", "Applied", "Process"), width=ctx.theme.px(68))
        self.unload = button("Unload", dense=True, icons=icons, icon="memory", tip="Give the memory back",
                             clicked=self.unload_asked.emit)
        self._deck = boxed(column(hairline(), 4, row(label("Deck", weight=600), None, self.unload), self.facts, gap=6))
        head = row(label("Sampling", weight=600), None, self._presets, self.reset, close, gap=0)
        system_label = label("System prompt", size="small", weight=500)
        system_label.setBuddy(self.system)
        body = column(head, column(system_label, self.system, self._system_why, gap=6), 2, *self.dials.values(), 2, hairline(),
                      row(seed_label, None, self.lock, self.seed, gap=6), self._seed_why, self.same, 2, self._deck, None, gap=10,
                      margins=(16, 10, 12, 16))
        inside = QWidget()
        inside.setLayout(body)
        self.setLayout(column(scrolled(inside, name="Sampling and deck"), gap=0, margins=(1, 1, 0, 0)))
        ctx.theme.changed.connect(self._restyle)
        self._choice = Choice()
        self._restyle()

    def _restyle(self) -> None:
        px = self._ctx.theme.px
        self.setFixedWidth(px(WIDTH))
        self.system.setFixedHeight(px(76))
        self.seed.setFixedWidth(px(96))
        for dial in self.dials.values():
            dial.field.setFixedWidth(px(62))

    # ---------------------------------------------------------------------------------------------- the values
    def show_choice(self, choice: Choice, system: str) -> None:
        """Show sampling and system prompt without telling."""
        self._rest.stop()
        self._choice = choice
        for name, dial in self.dials.items():
            dial.set_value(getattr(choice, name))
        self.seed.set_value(choice.seed)
        with QSignalBlocker(self.same), QSignalBlocker(self.system):
            self.same.setChecked(choice.same_seed)
            if self.system.toPlainText() != system:
                self.system.setPlainText(system)
        self._show_lock(choice.locked)

    def choice(self) -> Choice:
        """What is set."""
        values = {name: (round(d.value()) if name in ("top_k", "max_new_tokens") else round(d.value(), 4))
                  for name, d in self.dials.items()}
        return Choice(**values, seed=round(self.seed.value()), locked=self.lock.isChecked(), same_seed=self.same.isChecked())  # type: ignore[arg-type]

    def system_prompt(self) -> str:
        """What is written there."""
        return self.system.toPlainText()

    def set_completion(self, completion: bool) -> None:
        """A variant without a chat template has no use for a system prompt."""
        self._system_why.setVisible(completion)

    def flush(self) -> None:
        """Tell at once what was changed a moment ago."""
        if self._rest.isActive():
            self._rest.stop()
            self.changed.emit()

    def _show_lock(self, locked: bool) -> None:
        self.lock.setChecked(locked)
        self.lock.setIcon(self._ctx.icons.icon("lock" if locked else "unlock", "accent" if locked else "text-faded", 16))
        self.lock.setToolTip("Locked: each answer starts from this seed" if locked else "Each answer takes a new seed. Lock it")
        self.seed.setEnabled(locked)
        self._seed_why.setVisible(not locked)

    def _toggle_lock(self) -> None:
        self._show_lock(self.lock.isChecked())
        self.changed.emit()

    def _reset(self) -> None:
        self._apply(Choice())

    def _apply(self, preset: Choice) -> None:
        now = self.choice()
        self.show_choice(msgspec.structs.replace(now, **{name: getattr(preset, name) for name in _FIELDS}), self.system_prompt())
        self.changed.emit()

    # ------------------------------------------------------------------------------------------------ presets
    def _saved(self) -> dict[str, dict[str, float]]:
        return self._ctx.settings.options.chat_presets

    def _fill_presets(self) -> None:
        self._menu.clear()
        for name in dict.fromkeys((*PRESETS, *self._saved())):
            self._menu.addAction(name.replace("&", "&&")).setData(("use", name))
        self._menu.addSeparator()
        self._menu.addAction(self._ctx.icons.icon("plus"), "Save as a preset...").setData(("save", ""))
        if self._saved():
            gone = self._menu.addMenu("Delete a preset")
            for name in self._saved():
                gone.addAction(name.replace("&", "&&")).setData(("delete", name))

    def _preset_chosen(self, action: QAction) -> None:
        what, name = action.data() or ("", "")
        if what == "save":
            given, ok = QInputDialog.getText(self, "Save as a preset", "Name of the preset")
            if ok and given.strip():
                self.save_preset(given.strip())
        elif what == "delete":
            self._ctx.settings.set(chat_presets={k: v for k, v in self._saved().items() if k != name})
        elif what == "use":
            self.use_preset(name)

    def use_preset(self, name: str) -> None:
        """Set what a preset says, the user's own before ours of the same name; unknown ones do nothing."""
        if name in self._saved():
            known = {k: v for k, v in self._saved()[name].items() if k in _FIELDS}
            self._apply(msgspec.convert({**msgspec.to_builtins(Choice()), **known}, Choice, strict=False))
        elif name in PRESETS:
            self._apply(PRESETS[name])

    def save_preset(self, name: str) -> None:
        """Keep what is set under a name."""
        values = {k: float(getattr(self.choice(), k)) for k in _FIELDS}
        self._ctx.settings.set(chat_presets={**self._saved(), name: values})

    # -------------------------------------------------------------------------------------------------- deck
    def show_deck(self, facts: Mapping[str, str], why: str, tip: str) -> None:
        """Facts of the deck, none without one; `why` it can't be unloaded now."""
        self._deck.setVisible(bool(facts))
        for name, value in facts.items():
            self.facts.set(name, value)
        self.facts.setToolTip(plain_tip(tip))
        self.unload.setEnabled(not why)
        self.unload.setToolTip(why or "Give the memory back")
