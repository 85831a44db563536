"""The line at the foot of the window: the running job, memory, and the device."""

from __future__ import annotations

import os

import psutil
from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QFrame, QProgressBar, QWidget

from app.chat.conversations import milliseconds
from app.chat.engine import Switch
from app.context import Context
from app.jobs.queue import State
from app.tasks import Failure, Task
from app.widgets.basics import ElidedLabel, IconLabel, label, row
from app.words import about

SWITCH_SHOWN = 10_000
"""Milliseconds for which the Chat page tells of a switch; then it stands here."""
_VERBS = {"tune": "Tuning", "write": "Writing", "plan": "Planning", "prepare": "Preparing"}


class StatusBar(QFrame):
    """What goes on, in one line."""

    def __init__(self, ctx: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("look", "status")
        self.setAccessibleName("Status")
        self._ctx = ctx
        t = ctx.theme
        self._icon = IconLabel(ctx.icons, "info", size=16)
        self._job = label(size="small", weight=600)
        self._bar = QProgressBar()
        self._bar.setProperty("look", "thin")
        self._bar.setTextVisible(False)
        self._bar.setMaximum(1000)
        self._bar.setFixedWidth(t.px(96))
        self._bar.setAccessibleName("Progress of the running job")
        self._words = ElidedLabel()
        self._words.setProperty("step", "small")
        self._words.setProperty("tone", "faded")
        self._memory, self._device = label(size="small", tone="faded"), label(size="small", tone="faded")
        self._deck_icon = IconLabel(ctx.icons, "deltas", size=16)
        self._base, self._variant = label(size="small", tone="faded"), label(size="small", weight=600)
        self._switch_time = label(size="small", tone="faded")
        line = row(self._icon, self._job, self._bar, self._words, self._deck_icon, self._base, self._variant, self._switch_time,
                   12, IconLabel(ctx.icons, "memory", size=16), self._memory, 12, IconLabel(ctx.icons,
                   "chip", size=16), self._device,
                   gap=8, margins=(16, 0, 16, 0))
        line.setStretch(3, 1)
        self.setLayout(line)
        self.setFixedHeight(t.px(28))
        t.changed.connect(self._resize)
        self._process = psutil.Process()
        self._timer = QTimer(self)
        self._timer.setInterval(2000)
        self._timer.timeout.connect(self.measure)
        self._timer.start()
        self._devices = f"CPU, {os.cpu_count() or 1} cores"
        self._device.setText(self._devices)
        ctx.jobs.item_changed.connect(self.show_job)
        ctx.jobs.queue_changed.connect(self.show_job)
        ctx.engine.ready.connect(self._ask_devices)
        ctx.engine.ready.connect(self.show_job)
        self._told = QTimer(self, singleShot=True, interval=SWITCH_SHOWN)
        self._told.timeout.connect(self._tell_switch)
        self._last_switch = ""
        ctx.chat.changed.connect(self.show_deck)
        ctx.chat.switched.connect(self._switched)
        self.measure()
        self.show_job()
        self.show_deck()

    def _resize(self) -> None:
        self.setFixedHeight(self._ctx.theme.px(28))

    def measure(self) -> None:
        """Memory of this process, beside what the machine has."""
        used, whole = self._process.memory_info().rss, psutil.virtual_memory().total
        self._memory.setText(f"RAM {used / 1e9:.1f} of {whole / 1e9:.1f} GB")
        self._memory.setToolTip("Memory that Deltadeck uses, checkpoints mapped from disk included, of the machine's")

    def show_deck(self) -> None:
        """The loaded base, and who answers."""
        chat = self._ctx.chat
        ready = chat.state == "ready" and chat.facts is not None
        for part in (self._deck_icon, self._base, self._variant, self._switch_time):
            part.setVisible(ready)
        if ready and chat.facts is not None:
            over = f", over {chat.facts.spread}" if chat.facts.spread else ""
            self._base.setText(chat.base_name + over)
            names = ["Base" if n == "base" else n for n in dict.fromkeys(chat.facts.current.split(", "))]
            self._variant.setText(", ".join(names))
            self._base.setToolTip(f"Loaded in Chat: {chat.base_name}, {chat.facts.weights / 1e6:,.0f} MB of parameters{over}")
        else:
            self._switch_time.setText("")

    def _switched(self, switch: Switch) -> None:
        self._last_switch = f"switched in {milliseconds(switch.seconds)}"
        self._switch_time.setText("")                  # the Chat page says it first
        self._told.start()

    def _tell_switch(self) -> None:
        self._switch_time.setText(self._last_switch)

    def show_job(self, *_: object) -> None:
        """The running job, or what there is instead."""
        current = self._ctx.jobs.current()
        self._bar.setVisible(current is not None)
        if current is None:
            paused = [i for i in self._ctx.jobs.items() if i.state in (State.PAUSED, State.INTERRUPTED)]
            ready = self._ctx.engine.is_ready
            self._icon.set_icon("pause" if paused else "done" if ready else "clock", "text-faded")
            self._job.setText(f"{len(paused)} paused" if paused else "Ready" if ready else "Starting the engine")
            self._words.setText("")
            return
        state = self._ctx.jobs.run_state(current.id)
        stage = getattr(state, "stage", "") if state is not None else ""
        self._icon.set_icon("run", "accent")
        self._job.setText(f"{_VERBS.get(str(stage), 'Compressing')} {current.name}")
        self._bar.setValue(round(current.fraction * 1000))
        left = f", {about(current.seconds_left)} left" if current.seconds_left is not None else ""
        stopping = {State.PAUSING: "pausing after this step", State.CANCELLING: "stopping after this step"}.get(current.state)
        self._words.setText(stopping or f"{current.fraction * 100:.0f} %{left}")

    def _ask_devices(self) -> None:
        self._ctx.tasks.run(self, _devices, self._show_devices, self._no_devices)

    def _show_devices(self, words: str) -> None:
        self._device.setText(words)

    def _no_devices(self, failure: Failure) -> None:
        self._device.setToolTip(failure.what)


def _devices(task: Task) -> str:
    """What computes here, in words: "VRAM 3.1 of 24.0 GB, RTX 4090", "Apple GPU, 10 cores", "no GPU, 8 cores"."""
    import torch

    from core.devices import available_devices

    cores = f"{os.cpu_count() or 1} cores"
    kinds = available_devices()
    if "cuda" in kinds:
        free, whole = torch.cuda.mem_get_info()
        return f"VRAM {(whole - free) / 1e9:.1f} of {whole / 1e9:.1f} GB, {torch.cuda.get_device_name()}"
    return f"Apple GPU, {cores}" if "mps" in kinds else f"VRAM none, {cores}"
