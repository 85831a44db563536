"""Settings: looks, folders, device, network; and the table of all shortcuts."""

from __future__ import annotations

import os

from PySide6.QtCore import Qt, QUrl
from PySide6.QtGui import QDesktopServices, QKeySequence
from PySide6.QtWidgets import QCheckBox, QComboBox, QDialog, QFileDialog, QGridLayout, QLabel, QLineEdit, QWidget

from app.actions import SPECS, Act
from app.context import Context
from app.pages.settings_cluster import ClusterCard
from app.pages.settings_help import HelpCard
from app.paths import expanded
from app.settings import ZOOMS
from app.tasks import Failure, Task
from app.widgets.basics import Card, PageHeader, Segmented, button, column, key_cap, label, row, scrolled, set_look
from app.widgets.states import versions

_THEMES = (("system", "As the system"), ("light", "Light"), ("dark", "Dark"))


class SettingsPage(QWidget):
    """Everything takes effect at once and is kept."""

    name = "settings"

    def __init__(self, ctx: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._ctx = ctx
        options = ctx.settings.options
        header = PageHeader("Settings", "Changes take effect at once")
        keys = button("Shortcuts", icons=ctx.icons, icon="info", clicked=ctx.actions[Act.SHORTCUTS].trigger)
        header.at_right(keys)

        self.theme = Segmented(_THEMES, "Theme")
        self.theme.set_value(options.theme)
        self.theme.chosen.connect(self._set_theme)
        self.zoom = QComboBox()
        for zoom in ZOOMS:
            self.zoom.addItem(f"{zoom * 100:.0f} %  ({round(13 * zoom)} px)", zoom)
        self.zoom.activated.connect(self._set_zoom)
        looks = Card("Looks")
        looks.add(self._form(("Theme", self.theme, ""),
                             ("Text size", self.zoom, "Ctrl++ and Ctrl+- do the same anywhere")))

        self.library = QLineEdit(options.library)
        self.library.setAccessibleName("Folder of the deltas")
        self.library.editingFinished.connect(self._set_library)
        self._library_note = label(size="small", tone="faded", wrap=True)
        browse = button("Browse...", clicked=self._browse, name="Choose the deltas' folder")
        reveal = button("Open", clicked=self._reveal, name="Open the deltas' folder")
        place = QWidget()
        place.setLayout(column(row(self.library, browse, reveal), self._library_note, gap=4))
        self.data = QLineEdit(str(ctx.data))
        self.data.setReadOnly(True)
        self.data.setToolTip("The queue, runs and these settings. DELTADECK_DATA chooses another folder.")
        folders = Card("Folders")
        folders.add(self._form(("Deltas", place, ""),
                               ("Program data", self.data, "Queue, runs and settings; set by DELTADECK_DATA")))

        self.device = QComboBox()
        self.device.setAccessibleName("Device")
        self.device.addItem("Automatic: the fastest that is here", "auto")
        self.device.activated.connect(self._set_device)
        self._device_note = label("Being looked up", size="small", tone="faded", wrap=True)
        self.offline = QCheckBox("Offline: never use the network")
        self.offline.setChecked(options.offline)
        self.offline.toggled.connect(self._set_offline)
        engine = Card("Engine")
        devices = QWidget()
        devices.setLayout(column(self.device, self._device_note, gap=4))
        engine.add(self._form(("Device", devices, ""),
                              ("Network", self.offline, "Hub ids are then looked up in the local cache only; holds for what "
                                                         "starts from now on")))

        about = Card("About")
        text = versions().replace(", ", "\n")
        about.add(label(text, tone="faded", wrap=True, selectable=True),
                  row(button("Copy", icons=ctx.icons, icon="copy", clicked=self._copy_versions, name="Copy the versions"), None))
        self._about = text

        self.jobs = ClusterCard(ctx, self._form)
        self.help = HelpCard(ctx)
        body = QWidget()
        body.setLayout(column(looks, folders, engine, self.jobs, self.help, about, None, gap=12, margins=(0, 0, 0, 24)))
        body.setMaximumWidth(ctx.theme.px(860))
        self._area = scrolled(body, name="Settings")
        self.setLayout(column(header, self._area, gap=0, margins=(24, 0, 24, 0)))
        ctx.settings.changed.connect(self._follow)
        ctx.engine.ready.connect(self._ask_devices)
        self._follow("zoom")
        self._note_library()
        if ctx.engine.is_ready:
            self._ask_devices()

    def _form(self, *lines: tuple[str, QWidget, str]) -> QGridLayout:
        grid = QGridLayout()
        grid.setHorizontalSpacing(16)
        grid.setVerticalSpacing(10)
        grid.setColumnMinimumWidth(0, self._ctx.theme.px(120))
        grid.setColumnStretch(1, 1)
        for at, (name, widget, note) in enumerate(lines):
            caption = QLabel(name)
            caption.setProperty("tone", "faded")
            caption.setBuddy(widget)
            if not widget.accessibleName():
                widget.setAccessibleName(name)
            caption.setContentsMargins(0, self._ctx.theme.px(1 if isinstance(widget, QCheckBox) else 7), 0, 0)
            grid.addWidget(caption, at, 0, Qt.AlignmentFlag.AlignTop)
            if note:
                grid.addLayout(column(widget, label(note, size="small", tone="faded", wrap=True), gap=4), at, 1)
            else:
                side = Qt.AlignmentFlag.AlignLeft if isinstance(widget, Segmented) else Qt.AlignmentFlag(0)
                grid.addWidget(widget, at, 1, side)
        return grid

    def shown(self) -> None:
        """Look again whether the folder is there, and what was installed."""
        self._note_library()
        self.jobs.follow()

    def self_check(self) -> None:
        """Check this machine."""
        self._area.ensureWidgetVisible(self.help)
        self.help.run_check()

    def save_diagnostics(self) -> None:
        """Save what a report of a fault needs."""
        self._area.ensureWidgetVisible(self.help)
        self.help.ask_save()

    # ------------------------------------------------------------------------------------------- what is set
    def _set_theme(self, key: str) -> None:
        self._ctx.settings.set(theme=key)

    def _set_zoom(self, index: int) -> None:
        self._ctx.settings.set(zoom=self.zoom.itemData(index))

    def _set_device(self, index: int) -> None:
        self._ctx.settings.set(device=self.device.itemData(index))

    def _set_offline(self, on: bool) -> None:
        self._ctx.settings.set(offline=on)

    def _set_library(self) -> None:
        text = self.library.text().strip()
        problem = folder_problem(text)
        set_look(self.library, wrong="true" if problem else "")
        self._library_note.setText(problem)
        if not problem:
            self._ctx.settings.set(library=text)
            self._note_library()

    def _note_library(self) -> None:
        folder = self._ctx.settings.library
        if not self.library.property("wrong"):
            self._library_note.setText("New deltas go here, and the Deltas page lists what is in it."
                                       if os.path.isdir(folder) else "This folder is made when the first delta is written.")

    def _browse(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, "Folder for deltas", str(self._ctx.settings.library))
        if chosen:
            self.library.setText(chosen)
            self._set_library()

    def _reveal(self) -> None:
        folder = self._ctx.settings.library
        if os.path.isdir(folder):
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(folder)))
        else:
            self._ctx.notify(f"'{folder}' is not there yet: it is made when the first delta is written.", "faded")

    def _copy_versions(self) -> None:
        from PySide6.QtGui import QGuiApplication
        QGuiApplication.clipboard().setText(self._about)
        self._ctx.notify("Copied", "success")

    def _follow(self, name: str) -> None:
        options = self._ctx.settings.options
        self.theme.set_value(options.theme)
        nearest = min(range(len(ZOOMS)), key=lambda i: abs(ZOOMS[i] - options.zoom))
        self.zoom.setCurrentIndex(nearest)
        if name == "library":
            self.library.setText(options.library)
            self._note_library()

    # ----------------------------------------------------------------------------------------------- devices
    def _ask_devices(self) -> None:
        self._ctx.tasks.run(self, _devices, self._show_devices, self._no_devices)

    def _show_devices(self, found: list[tuple[str, str]]) -> None:
        while self.device.count() > 1:
            self.device.removeItem(1)
        for key, words in found:
            self.device.addItem(words, key)
        self.device.setCurrentIndex(max(0, self.device.findData(self._ctx.settings.options.device)))
        kinds = [key for key, _ in found]
        self._device_note.setText("No GPU is usable here: CUDA and Apple's GPU are not present." if kinds == ["cpu"] else
                                  "A job keeps the device that it began on.")

    def _no_devices(self, failure: Failure) -> None:
        self._device_note.setText(failure.what)


def folder_problem(text: str) -> str:
    """Why a folder can't hold deltas; empty when it can, or can be made."""
    if not text:
        return "Name a folder."
    path = expanded(text)
    if not path.is_absolute():
        return "Give the whole path, or one that begins with ~."
    if any(len(os.fsencode(part)) > 255 for part in path.parts) or len(os.fsencode(path)) > 4000:
        return "This path is too long."
    if os.path.exists(path) and not os.path.isdir(path):
        return "This is a file. Name a folder."
    near = path
    while not os.path.exists(near) and near != near.parent:
        near = near.parent
    if not os.access(near, os.W_OK):
        return f"'{near}' can't be written to. Choose a folder of your own."
    return ""


def _devices(task: Task) -> list[tuple[str, str]]:
    import os

    import torch

    from core.devices import available_devices

    words = {"cpu": f"CPU, {os.cpu_count() or 1} cores", "mps": "Apple GPU"}
    if torch.cuda.is_available():
        words["cuda"] = torch.cuda.get_device_name()
    return [(kind, words.get(kind, kind)) for kind in available_devices()]


class ShortcutsDialog(QDialog):
    """All keys, by group."""

    def __init__(self, ctx: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Shortcuts")
        groups: dict[str, list[Act]] = {}
        for act, spec in SPECS.items():
            if spec.listed and ctx.actions[act].isVisible():
                groups.setdefault(spec.group, []).append(act)
        blocks = []
        for group, acts in groups.items():
            grid = QGridLayout()
            grid.setColumnStretch(0, 1)
            grid.setVerticalSpacing(6)
            for at, act in enumerate(acts):
                grid.addWidget(label(SPECS[act].text), at, 0)
                keys = ctx.actions[act].shortcuts()[:1]
                text = keys[0].toString(QKeySequence.SequenceFormat.NativeText) if keys else ""
                caps = row(None, *(key_cap(part) for part in text.replace("++", "+Plus").split("+")), gap=4)
                grid.addLayout(caps, at, 1)
            blocks.append(column(label(group, weight=600), grid, gap=6))
        half = (len(blocks) + 1) // 2
        more = column(label("In lists and maps", weight=600),
                      *(row(label(text), None, *(key_cap(k) for k in keys), gap=4) for text, keys in (
                          ("Walk the axis map", ("Arrows",)), ("Show that layer's curves", ("Enter",)),
                          ("Edit the note", ("F2",)), ("Move to the trash", ("Delete",)))), gap=6)
        left, right = column(*blocks[:half], None, gap=16), column(*blocks[half:], more, None, gap=16)
        close = button("Close", clicked=self.accept)
        columns = row(gap=32)
        columns.addLayout(left, 1)
        columns.addLayout(right, 1)
        self.setLayout(column(columns, row(None, close), gap=16, margins=(24, 20, 24, 16)))
        self.setMinimumWidth(ctx.theme.px(680))
