"""The card that says what a delta will be before it is made: size, memory, time, disk."""

from __future__ import annotations

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QPainter, QPaintEvent
from PySide6.QtWidgets import QFrame, QGridLayout, QLabel, QSizePolicy, QWidget

from app.context import Context
from app.planning import PlanFacts
from app.theme import Theme
from app.widgets.basics import Card, ElidedLabel, IconLabel, hairline, label, row, set_look
from app.words import about, count, size


def rough(count: float) -> str:
    """Bytes that are only an estimate, in three digits at most: `29.9 MB`, `78 GB`."""
    number, unit = size(count).split(" ")
    value = float(number.replace(",", ""))
    if unit == "bytes" or value >= 100:
        return f"{number} {unit}"
    return f"{value:.0f} {unit}" if value >= 50 else f"{value:.1f} {unit}"


class Bar(QWidget):
    """A bar of a share of the width."""

    def __init__(self, theme: Theme, role: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme, self._role, self._share = theme, role, 0.0
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        theme.changed.connect(self.update)

    def set_share(self, share: float) -> None:
        """From 0 to 1."""
        self._share = share
        self.update()

    def sizeHint(self) -> QSize:
        """10 high."""
        return QSize(120, 10)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw it."""
        if self._share <= 0:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(self._theme.mixed("text-faded", 0.42) if self._role == "quiet" else self._theme.color(self._role))
        painter.drawRoundedRect(QRectF(0, 0, max(3.0, self.width() * self._share), self.height()), 2, 2)
        painter.end()


class PredictedCard(Card):
    """Fills as the plan is made."""

    def __init__(self, ctx: Context, parent: QWidget | None = None) -> None:
        super().__init__("Predicted delta", gap=6, parent=parent)
        self._figure = label("–", size="figure", weight=600)
        self._times = ElidedLabel("")                  # a column without room for it must not become wider than its place
        self._times.setProperty("weight", "500")
        badge_icon = IconLabel(ctx.icons, "check", "success", 14)
        self._badge = QFrame()
        self._badge.setProperty("look", "badge-box")
        self._badge.setProperty("tone", "success")
        self._badge_words = label("exact", size="small", weight=500, tone="success")
        self._badge.setLayout(row(badge_icon, self._badge_words, gap=4,
                                  margins=(6, 2, 8, 2)))
        self._badge.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Maximum)
        self._full, self._delta = label("", size="small", weight=500), label("", size="small", weight=500)
        self._parts = ElidedLabel("Delta")
        self._parts.setProperty("step", "small")
        self._parts.setProperty("tone", "faded")
        self._full_bar, self._delta_bar = Bar(ctx.theme, "quiet"), Bar(ctx.theme, "accent")
        top = row(self._figure, self._times, self._badge, gap=10)
        top.setStretch(1, 1)
        delta_line = row(self._parts, self._delta)
        delta_line.setStretch(0, 1)
        grid = QGridLayout()
        grid.setHorizontalSpacing(8)
        grid.setVerticalSpacing(5)
        grid.setColumnMinimumWidth(1, ctx.theme.px(58))
        grid.setColumnMinimumWidth(2, ctx.theme.px(80))
        grid.setColumnStretch(3, 1)
        self._values: dict[str, tuple[QLabel, ElidedLabel]] = {}
        for at, (name, icon) in enumerate((("Memory", "memory"), ("Time", "clock"), ("Disk", "disk"))):
            value, more = label("–", size="small", weight=600), ElidedLabel("")
            more.setProperty("step", "small")
            more.setProperty("tone", "faded")
            grid.addWidget(IconLabel(ctx.icons, icon, size=16), at, 0)
            grid.addWidget(label(name, size="small", tone="faded"), at, 1)
            grid.addWidget(value, at, 2)
            grid.addWidget(more, at, 3)
            self._values[name] = value, more
        self.add(top, row(label("Full checkpoint", size="small", tone="faded"), None, self._full), self._full_bar, delta_line,
                 self._delta_bar, 2, hairline(), 2, grid)
        self.clear()

    def clear(self) -> None:
        """Nothing is known."""
        self._figure.setText("–")
        self._times.setText("")
        self._badge.hide()
        self._full.setText("")
        self._delta.setText("")
        self._parts.setText("Delta")
        self._full_bar.set_share(0)
        self._delta_bar.set_share(0)
        for name in self._values:
            self._set(name, "–", "", False)
        self.setAccessibleDescription("Not known yet")

    def set_full(self, full_bytes: int) -> None:
        """The fine-tune's size is known before the plan."""
        self._full.setText(size(full_bytes))
        self._full_bar.set_share(1)

    def show_plan(self, facts: PlanFacts) -> None:
        """Show a plan's figures."""
        total, kind = facts.weights_bytes, "at most" if facts.is_at_most else "exact"
        if not total:                                  # a fidelity that was asked for, of a pair that is not predicted yet
            self._show_unknown()
        else:
            self._figure.setText(size(total))
            self._figure.setToolTip(f"{total:,} bytes of weights; {size(facts.sidecar_bytes)} of config and tokenizer files go "
                                    "with them.")
            # A long number takes the short words: the badge beside them needs its room.
            self._times.setText(f"{facts.ratio:,.0f} x smaller" if facts.ratio >= 100 else f"{facts.ratio:.1f} times smaller")
        self._badge_words.setText(kind)
        self._badge.setToolTip("The weight files will not be larger than this." if facts.is_at_most else
                               "Counted from the plan: the weight files will have just this size.")
        self._badge.setVisible(bool(total))
        self.set_full(facts.full_bytes)
        self._delta.setText(size(total) if total else "")
        signs = f"signs {size(facts.sign_bytes)}, scales and rest" if facts.sign_bytes else "stored exactly"
        self._parts.setText("Delta: the best methods for its size" if facts.is_at_most else
                            f"Delta: {signs} {size(facts.rest_bytes)}")
        self._delta_bar.set_share(min(1.0, total / max(1, facts.full_bytes)))
        self._set("Memory", rough(facts.memory_bytes), f"of {rough(facts.memory_free)} free, peak", facts.is_short_of_memory)
        place = f"on {count(facts.cores, 'core')}" if facts.device == "cpu" else f"on {facts.device}"
        self._set("Time", about(facts.seconds), f"estimated, {place}", False)
        self._set("Disk", rough(facts.disk_bytes), f"while it runs, {rough(facts.disk_free)} free", facts.is_short_of_disk)
        what = f"{size(total)}, {facts.ratio:,.1f} times smaller" if total else "Size not known yet"
        self.setAccessibleDescription(f"{what} than {size(facts.full_bytes)}, {kind}; about {about(facts.seconds)}" if total else
                                      f"{what}; about {about(facts.seconds)}")

    def _show_unknown(self) -> None:
        self._figure.setText("\N{EN DASH}")
        self._figure.setToolTip("Known once the curve is predicted: the job does it by itself.")
        self._times.setText("size known once predicted")

    def _set(self, name: str, value: str, more: str, is_short: bool) -> None:
        value_label, more_label = self._values[name]
        value_label.setText(value)
        more_label.setText(more)
        set_look(value_label, tone="warning" if is_short else "text")
        value_label.setAccessibleName(f"{name}: {value} {more}".strip())
