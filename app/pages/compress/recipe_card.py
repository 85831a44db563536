"""The card in which the recipe is set: method, calibration, device, name and folder, and a folded rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from PySide6.QtCore import QSignalBlocker, Signal
from PySide6.QtWidgets import QCheckBox, QLineEdit, QWidget

from app.checkpoints import shown_source
from app.context import Context
from app.pages.compress.fields import Advanced, Calibration, Combo, PathField, Zoomed, form_line
from app.pages.compress.recipe import METHODS, Recipe
from app.paths import expanded
from app.planning import cores
from app.tasks import Failure
from app.widgets.basics import Card, Segmented, button, hairline, label, set_look
from app.words import count

_EMBEDDINGS = (("auto", "Signs, 2 bits by row"), ("full", "Stored whole"))


def device_words() -> tuple[tuple[str, str], ...]:
    """Keys and words of the devices here. For a worker thread: needs the engine."""
    from core.devices import available_devices

    def words(kind: str) -> str:
        if kind == "cuda":
            import torch

            return f"GPU, {torch.cuda.get_device_name()}"
        return "GPU of this Mac" if kind == "mps" else f"CPU, {count(cores(), 'core')}"
    return tuple((kind, words(kind)) for kind in available_devices())


class RecipeCard(Card):
    """`changed` comes when the recipe did, `place_changed` when name or folder did."""

    changed = Signal()
    place_changed = Signal()

    def __init__(self, ctx: Context, parent: QWidget | None = None) -> None:
        super().__init__("Recipe", parent=parent)
        self._ctx = ctx
        self.head.addWidget(button("Reset", "ghost", dense=True, name="Reset the recipe", clicked=self.reset))
        self.method = Segmented([(key, words[0]) for key, words in METHODS.items()], "Method", expand=True)
        self.method.chosen.connect(self._told)
        self._sentence = label("", size="small", tone="faded", wrap=True)
        Zoomed(ctx, self._sentence, self._sentence.setMinimumHeight, 32)
        self.embeddings = Combo("Embedding and head", _EMBEDDINGS)
        self.embeddings.activated.connect(self._told)
        self.calibration = Calibration(ctx)
        self.calibration.changed.connect(self._told)
        self.device = Combo("Device", (("auto", "Automatic"),))
        self.device.activated.connect(self._told)
        self.name = QLineEdit()
        self.name.setAccessibleName("Name of the delta")
        self.name.setPlaceholderText("Named after the fine-tune")
        self.name.setMaxLength(120)
        self.name.textEdited.connect(self._name_edited)
        self.folder = PathField(ctx, "Save in")
        self.folder.setToolTip("The folder that the delta's own folder goes into.")
        self.folder.editingFinished.connect(self._folder_told)
        self.folder.picked.connect(self._folder_told)
        self.tune = QCheckBox()
        self.tune.setChecked(True)
        self.tune.toggled.connect(self._told)
        self.advanced = Advanced(ctx)
        self.advanced.changed.connect(self._told)
        self.is_named_by_hand = self._is_by_size = False
        self._default_folder = ""
        self.add(self.method, self._sentence, form_line(ctx, "Embedding, head", self.embeddings),
                 form_line(ctx, "Calibration", self.calibration), form_line(ctx, "Device", self.device),
                 form_line(ctx, "Name", self.name), form_line(ctx, "Save in", self.folder), self.tune, hairline(), self.advanced)
        self.reset()
        ctx.settings.changed.connect(self._settings_changed)
        if ctx.engine.is_ready:
            self._ask_devices()
        else:
            ctx.engine.ready.connect(self._ask_devices)

    # ------------------------------------------------------------------------------------------------- the values
    def recipe(self) -> Recipe:
        """As it stands."""
        more = self.advanced
        return Recipe(self.method.value(), self.embeddings.key(), self.calibration.value(), self.calibration.samples.value(),
                      self.tune.isChecked(), more.tune_samples.value(), more.length.value() or None, more.seed.value(),
                      more.axis.key(), more.objective.key(), self.device.key())

    def reset(self) -> None:
        """Back to what is usual, as Settings say. Name and folder stay."""
        options = self._ctx.settings.options
        self.show_recipe(replace(Recipe(), calibration=options.calibration, device=options.device))
        if not self.folder.text():
            self._take_folder()
        self.changed.emit()

    def show_recipe(self, recipe: Recipe) -> None:
        """Take a recipe over without telling."""
        self.method.set_value(recipe.method)
        self.embeddings.set_key(recipe.embeddings)
        self.calibration.set_value(recipe.calibration)
        self.device.set_key(recipe.device)
        with QSignalBlocker(self.calibration.samples), QSignalBlocker(self.tune):
            self.calibration.samples.setValue(recipe.samples)
            self.tune.setChecked(recipe.tune)
        self.advanced.show_recipe(recipe)
        self._restate()

    def folder_path(self) -> Path:
        """Where the delta's folder goes."""
        return expanded(self.folder.text().strip() or self._default_folder).absolute()

    def output(self) -> Path:
        """The delta's folder."""
        return self.folder_path() / self.name.text().strip()

    def set_by_size(self, on: bool) -> None:
        """A size is asked for: the method is only that of matrices which stay signs."""
        if on != self._is_by_size:
            self._is_by_size = on
            self._restate()

    def set_name(self, name: str) -> None:
        """Give a name that follows from the fine-tune's, until one is typed."""
        self.is_named_by_hand = False
        self.name.setText(name)
        self.place_changed.emit()

    def mark_place(self, is_wrong: bool) -> None:
        """Show that the name can't be used."""
        set_look(self.name, wrong="true" if is_wrong else "")

    def set_length(self, tokens: int | None) -> None:
        """How long samples are, once the plan knows."""
        self.calibration.set_length(tokens)

    # ---------------------------------------------------------------------------------------------------- changes
    def _told(self) -> None:
        self._restate()
        self.changed.emit()

    def _restate(self) -> None:
        recipe = self.recipe()
        sentence = METHODS[recipe.method][3]
        self._sentence.setText(f"For matrices that a size leaves as signs: {sentence[0].lower()}{sentence[1:]}"
                               if self._is_by_size else sentence)
        self.embeddings.setItemText(0, "Signs, 1 bit, one scale" if recipe.method == "bitdelta" else _EMBEDDINGS[0][1])
        self.tune.setText(f"Tune all scales end to end, {recipe.tune_samples:,} samples")
        self.tune.setAccessibleName(self.tune.text())
        self.advanced.restate(recipe)

    def _name_edited(self, text: str) -> None:
        self.is_named_by_hand = bool(text.strip())
        self.place_changed.emit()

    def _folder_told(self) -> None:
        if not self.folder.text().strip():
            self._take_folder()
        self.place_changed.emit()

    def _take_folder(self) -> None:
        self._default_folder = shown_source(str(self._ctx.settings.library))
        self.folder.setText(self._default_folder)

    def _settings_changed(self, name: str) -> None:
        if name == "library" and self.folder.text() in ("", self._default_folder):
            self._take_folder()
            self.place_changed.emit()
        elif name in ("device", "calibration"):
            self.show_recipe(replace(self.recipe(), **{name: getattr(self._ctx.settings.options, name)}))
            self.changed.emit()

    # ---------------------------------------------------------------------------------------------------- devices
    def _ask_devices(self) -> None:
        self._ctx.tasks.run(self, lambda task: device_words(), self._take_devices, self._no_devices)

    def _take_devices(self, found: tuple[tuple[str, str], ...]) -> None:
        chosen = self.device.key()
        with QSignalBlocker(self.device):
            self.device.clear()
            if found:
                self.device.addItem(f"Automatic ({found[0][1]})" if len(found) > 1 else found[0][1], "auto")
            for key, words in found if len(found) > 1 else ():
                self.device.addItem(words, key)
        self.device.set_key(chosen if self.device.findData(chosen) >= 0 or len(found) > 1 else "auto")

    def _no_devices(self, failure: Failure) -> None:
        self.device.setToolTip(failure.what)

