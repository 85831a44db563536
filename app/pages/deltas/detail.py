"""The pane beside the table: one delta's figures, map, sizes, load times, layers and model card."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QComboBox, QMenu, QStackedWidget, QVBoxLayout, QWidget

from app.checkpoints import shown_source
from app.context import Context
from app.library.entry import DeltaEntry
from app.library.reading import read_card
from app.models.layers import LayerRow
from app.models.library import kl_text, recovery_text, short_date, short_size, short_time
from app.pages.deltas.bars import Bar, MiniBars
from app.pages.deltas.bits_scale import BitsScale
from app.pages.deltas.card_view import CardView
from app.pages.deltas.layer_list import LayerList
from app.pages.deltas.trouble import TroubleBox
from app.tasks import Failure, Task
from app.widgets.basics import (
    Card,
    FactList,
    Segmented,
    Swatch,
    badge,
    boxed,
    button,
    column,
    hairline,
    label,
    row,
    scrolled,
    set_look,
)
from app.widgets.charts.axis_legend import AxisLegend
from app.widgets.charts.axis_map import AxisMap
from app.widgets.states import Skeleton
from app.words import count, plain_tip

WIDTH = 330
_BADGES = {"fine": ("not verified", "faded"), "verified": ("verified", "success"), "base-missing": ("base not found", "warning"),
           "damaged": ("damaged", "danger")}
_WAYS = (("full", "cold", "Full, cold"), ("full", "warm", "Full, warm"), ("switch", "cold", "Delta, cold"),
         ("switch", "warm", "Delta, warm"))
_MORE = (("Verify", "shield", "verify", ""), ("Compare with others", "compare", "compare", ""), ("", "", "", ""),
         ("Rename...", "edit", "rename", ""), ("Note", "note", "note", "F2"),
         ("Reveal in the file manager", "reveal", "reveal", ""), ("", "", "", ""), ("Move to trash", "trash", "trash", "Del"))
"""Text, icon, what is asked, key; an empty text is a line between."""


class DetailPane(Card):
    """Shows a `DeltaEntry`. What its buttons ask for comes out as `asked(what)`: the page knows how."""

    asked = Signal(str)
    """chat, verify, export-merged, export-folder, report, compare, rename, note, reveal, trash, measure, base, fine-tune."""

    def __init__(self, ctx: Context, parent: QWidget | None = None) -> None:
        super().__init__(margins=(0, 0, 0, 0), parent=parent)
        self._ctx = ctx
        self._entry: DeltaEntry | None = None
        self._reading: Task | None = None
        self.setAccessibleName("The selected delta")
        self._stack = QStackedWidget()
        self._stack.addWidget(self._nothing())
        self._stack.addWidget(self._something())
        self.body.addWidget(self._stack)
        ctx.theme.changed.connect(self._restyle)
        self._restyle()

    def _restyle(self) -> None:
        self.setFixedWidth(self._ctx.theme.px(WIDTH))

    # ------------------------------------------------------------------------------------------------- building
    def _nothing(self) -> QWidget:
        self._hint = label("Select a delta to see its layers, sizes and model card.", tone="faded", wrap=True)
        self._hint.setAlignment(Qt.AlignmentFlag.AlignCenter)
        made = QWidget()
        made.setLayout(column(None, self._hint, None, margins=(24, 24, 24, 24)))
        return made

    def _something(self) -> QWidget:
        inside = QWidget()
        body = QVBoxLayout(inside)
        body.setContentsMargins(16, 12, 16, 12)
        body.setSpacing(10)
        self._name = label(size="big", weight=600, elide=True)
        self._badge = badge()
        title = row(self._name, self._badge, gap=8)
        title.setStretch(0, 1)
        self._line = label(size="small", tone="faded", elide=True)
        self._trouble = TroubleBox(self._ctx.icons)
        self._tabs = Segmented((("figures", "Figures"), ("card", "Model card")), "What is shown", expand=True)
        self._tabs.chosen.connect(self._tab_chosen)
        self._views = QStackedWidget()
        self._figures = self._build_figures()
        self.card = CardView(self._ctx.theme)
        self.card.setMinimumHeight(240)
        self._views.addWidget(self._figures)
        self._views.addWidget(self.card)
        body.addLayout(column(title, self._line, gap=2))
        body.addLayout(self._buttons())
        body.addWidget(self._trouble)
        body.addWidget(self._tabs)
        body.addWidget(self._views, 100)
        body.addStretch(1)
        self._area = scrolled(inside, name="The selected delta")
        return self._area

    def _buttons(self) -> QVBoxLayout:
        icons = self._ctx.icons
        self.chat = button("Open in Chat", "primary", icons=icons, icon="chat", clicked=lambda: self.asked.emit("chat"))
        self.export = button("Export...", icons=icons, icon="export", tip="Write a checkpoint or a copy of the delta")
        menu = QMenu(self.export)
        menu.setAccessibleName("Export")
        self._merged = self._item(menu, "Merged checkpoint...", "cube", "export-merged")
        self._folder = self._item(menu, "Delta folder...", "folder", "export-folder")
        self.export.setMenu(menu)
        self.report = button("Report", icons=icons, icon="report", tip="Write an HTML page or a PDF about this delta",
                             clicked=lambda: self.asked.emit("report"))
        self.more = button("", icons=icons, icon="more", name="More", tip="Verify, compare, rename, note, reveal, trash")
        more = QMenu(self.more)
        more.setAccessibleName("More")
        self.items: dict[str, QAction] = {}
        for text, icon, what, keys in _MORE:
            if not text:
                more.addSeparator()
                continue
            self.items[what] = self._item(more, f"{text}\t{keys}" if keys else text, icon, what)
        self.more.setMenu(more)
        line = row(self.export, self.report, self.more, gap=8)
        line.setStretch(0, 1)
        return column(self.chat, line, gap=8)

    def _item(self, menu: QMenu, text: str, icon: str, what: str) -> QAction:
        action = menu.addAction(self._ctx.icons.icon(icon), text)
        action.triggered.connect(lambda *_: self.asked.emit(what))

        def draw() -> None:
            action.setIcon(self._ctx.icons.icon(icon))
        self._ctx.theme.changed.connect(draw)
        return action

    def _build_figures(self) -> QWidget:
        ctx = self._ctx
        self.facts = FactList(("Recovery", "KL", "Base"), width=64)
        self.map = AxisMap(ctx.theme, compact=True)
        self.map.chosen.connect(self._map_chosen)
        self._rows_count, self._columns_count = label(size="small", weight=500), label(size="small", weight=500)
        self._others = label(size="small", tone="faded")
        self.map_mode = QComboBox()
        self.map_mode.setProperty("dense", "true")
        self.map_mode.setAccessibleName("What the map shows")
        for key, words in (("margin", "Axis map"), ("codec", "Codec map")):
            self.map_mode.addItem(words, key)
        self.map_mode.currentIndexChanged.connect(self._mode_changed)
        self.legend = AxisLegend(ctx.theme, room=WIDTH - 44)
        self.legend.hide()
        self.bits_scale = BitsScale(ctx.theme)
        self.bits_scale.hide()
        self._axis_counts = boxed(row(Swatch(ctx.icons, "row"), self._rows_count, 4,
                                  Swatch(ctx.icons, "column"), self._columns_count, 4, self._others, None, gap=6))
        self._map_head = column(row(self.map_mode, None), self._axis_counts, row(self.legend, None),
                                row(self.bits_scale, None), gap=6)
        self._skeleton = Skeleton(ctx.theme, 6)
        self._layers_problem = label(size="small", tone="danger", wrap=True)
        self.sizes = MiniBars(ctx.theme, "Size")
        self._times_caption = label(size="small", tone="faded")
        self.measure = button("Measure", dense=True, icons=ctx.icons, icon="clock", name="Measure load times",
                              tip="Load the full checkpoint and the delta several times, cold and warm",
                              clicked=lambda: self.asked.emit("measure"))
        self.times = MiniBars(ctx.theme, "Load time")
        self._times_why = label(size="small", tone="faded", wrap=True)
        self._locate = button("", dense=True, icons=ctx.icons, icon="folder", name="Choose a checkpoint")
        self._locate.clicked.connect(self._ask_place)
        self.layers = LayerList(ctx.icons)
        self.layers.pointed.connect(self._layer_pointed)
        self._layers_count = label(size="small", tone="faded")
        made = QWidget()
        made.setLayout(column(
            self.facts, hairline(), self._map_head, self._skeleton, self._layers_problem, self.map, hairline(),
            label("Size", weight=600), self.sizes, hairline(),
            row(label("Load time", weight=600), None, self._times_caption, self.measure), self.times, self._times_why,
            row(self._locate, None), hairline(),
            row(label("Layers", weight=600), None, self._layers_count), self.layers, gap=7))
        layout = made.layout()
        assert isinstance(layout, QVBoxLayout)
        layout.setStretch(layout.count() - 1, 1)
        return made

    # -------------------------------------------------------------------------------------------------- showing
    def entry(self) -> DeltaEntry | None:
        """The delta that is shown."""
        return self._entry

    def show_entry(self, entry: DeltaEntry | None, hint: str = "") -> None:
        """Show a delta, or a sentence in place of one."""
        before, self._entry = self._entry, entry
        if entry is None:
            self._hint.setText(hint or "Select a delta to see its layers, sizes and model card.")
            self._stack.setCurrentIndex(0)
            self._forget_layers()
            return
        self._stack.setCurrentIndex(1)
        same = before is not None and before.path == entry.path and before.sha256 == entry.sha256
        self._name.setText(entry.name)
        text, tone = _BADGES[entry.state]
        if entry.state == "verified" and entry.verified_at is not None:
            text = f"\N{CHECK MARK} {text}"
            self._badge.setToolTip(f"Every byte was read on {entry.verified_at:%d %B %Y, %H:%M}"
                                   + (", the base's tensors too." if entry.base_verified else "; its base was not read."))
        else:
            self._badge.setToolTip(plain_tip(entry.problem) or "Verify reads every byte and compares it with the delta's record.")
        self._badge.setText(text)
        set_look(self._badge, tone=tone)
        on = f" on {entry.base_name}" if entry.base_name else ""
        asked = f" of {entry.asked}" if entry.asked else ""
        self._line.setText(", ".join(x for x in (f"{entry.method}{asked}{on}", short_date(entry.created)) if x))
        self._show_trouble(entry)
        usable = bool(entry.usable and entry.sha256)
        self.report.setEnabled(usable)
        self.report.setToolTip("Write an HTML page or a PDF about this delta" if usable else "A damaged delta has no figures.")
        self.export.setEnabled(usable)
        self.export.setToolTip("Write a checkpoint or a copy of the delta" if usable else "A damaged delta can't be exported.")
        why = "" if usable and entry.base_path else "A damaged delta can't be loaded." if not usable else \
            f"Its base '{entry.base_name}' was not found. Choose it below."
        self.chat.setEnabled(not why)
        self.chat.setToolTip(why or f"Load {entry.base_name or 'its base'} and talk to this variant")
        for what in ("compare", "verify"):
            self.items[what].setEnabled(usable or what == "verify")
        self.items["note"].setEnabled(bool(entry.sha256))
        self._tabs.setVisible(usable)
        self._views.setVisible(usable)
        if usable:
            self._show_figures(entry)
            if not same:
                self._area.verticalScrollBar().setValue(0)
                self._load_layers(entry)
            if not same or self._tabs.value() == "card":
                self._show_card()
        else:
            self._forget_layers()

    def _show_trouble(self, entry: DeltaEntry) -> None:
        icons = self._ctx.icons
        self._trouble.setVisible(entry.state in ("base-missing", "damaged"))
        if entry.state == "base-missing":
            choose = button("Choose...", dense=True, name="Choose the base's folder", clicked=lambda: self.asked.emit("base"))
            self._trouble.show_trouble("warning", "Base not found", f"{entry.problem} It can be listed, verified and copied, "
                                       "but not exported as a checkpoint.", choose)
        elif entry.state == "damaged":
            reveal = button("Reveal", dense=True, icons=icons, icon="reveal", clicked=lambda: self.asked.emit("reveal"))
            self._trouble.show_trouble("danger", "This delta is damaged", entry.problem or "It can't be read.", reveal)

    def _show_figures(self, entry: DeltaEntry) -> None:
        se = f" \N{PLUS-MINUS SIGN} {kl_text(entry.kl_se)}" if entry.kl_se is not None else ""
        self.facts.set("Recovery", f"{recovery_text(entry.recovery)} on {count(entry.tokens, 'token')}"
                       if entry.recovery is not None else "not measured")
        self.facts.set("KL", f"{kl_text(entry.kl)}{se}, base alone {kl_text(entry.base_kl)}" if entry.kl is not None else
                       "not measured" if entry.objective in ("", "kl") else "judged by squared logit error")
        self.facts.set("Base", shown_source(entry.base_path) if entry.base_path else f"{entry.base_name}, not found")
        self.sizes.set_bars((Bar("Full checkpoint", entry.full_bytes, short_size(entry.full_bytes)),
                             Bar("Delta", entry.bytes, short_size(entry.bytes), True)))
        self._show_times(entry)

    def _show_times(self, entry: DeltaEntry) -> None:
        times = entry.load_times or {}
        bars = []
        for way, kind, name in _WAYS:
            if found := times.get(kind, {}).get(way):
                reach = (found["lowest"], found["highest"])
                bars.append(Bar(name, found["median"], short_time(found["median"]), way == "switch", reach))
        self.times.set_bars(bars)
        self.times.setVisible(bool(bars))
        self._times_caption.setText(f"median of {times.get('repeats', 0)}" if bars else "")
        measured = f"Measured here on {str(times.get('date', ''))[:10]}. {times.get('note', '')}".strip()
        self._times_caption.setToolTip(measured if bars else "")
        why, place = "", ""
        if entry.base_path is None:
            why, place = f"Measuring needs the base '{entry.base_name}', which was not found.", "base"
        elif entry.fine_tuned_path is None:
            why, place = f"Measuring needs the full fine-tune '{entry.fine_tuned}' too. Its folder is not known.", "fine-tune"
        elif not bars:
            why = "Not measured on this machine yet. It loads both checkpoints some thirty times."
        elif not times.get("cold"):
            why = times.get("note") or "Cold figures are missing: the files stayed in the system's cache."
        self.measure.setText("Again" if bars else "Measure")
        self.measure.setEnabled(not place)
        self.measure.setToolTip(plain_tip(why) if place else
                                "Load the full checkpoint and the delta several times, cold and warm")
        self._times_why.setText(why)
        self._times_why.setVisible(bool(why))
        self._locate.setProperty("place", place)
        self._locate.setText("Choose the base..." if place == "base" else "Choose the fine-tune...")
        self._locate.setAccessibleName(self._locate.text())
        self._locate.setVisible(bool(place))

    def _ask_place(self) -> None:
        self.asked.emit(str(self._locate.property("place")))

    # --------------------------------------------------------------------------------------------------- layers
    def _forget_layers(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _load_layers(self, entry: DeltaEntry) -> None:
        self._forget_layers()
        self._layers_problem.hide()
        self.map.hide()
        self._skeleton.show()
        self.layers.layers.show(())
        self._layers_count.setText("")
        self._show_counts(entry)
        path = entry.path

        def done(rows: tuple[LayerRow, ...]) -> None:
            self._reading = None
            if self._entry is not None and self._entry.path == path:
                self.show_layers(rows)

        def failed(failure: Failure) -> None:
            self._reading = None
            self._skeleton.hide()
            self._layers_problem.setText(f"{failure.what} {failure.remedy}")
            self._layers_problem.show()
        self._reading = self._ctx.library.load_rows(self, path, done, failed)

    def show_layers(self, rows: tuple[LayerRow, ...]) -> None:
        """Show the layers of the delta."""
        matrices = [r for r in rows if len(r.shape) != 1]
        self._skeleton.hide()
        self.map.set_rows(rows)
        inside = [r for r in matrices if r.block is not None]
        self.map_mode.setCurrentIndex(int(2 * sum(r.coding != "sign" for r in inside) > len(inside)))
        self._mode_changed(self.map_mode.currentIndex())
        self.map.setVisible(any(r.block is not None for r in matrices))
        self.layers.layers.show(matrices)
        self._layers_count.setText(f"{len(matrices):,}")

    def _show_counts(self, entry: DeltaEntry) -> None:
        rows, columns = sum(k.row for k in entry.kinds), sum(k.column for k in entry.kinds)
        others = sum(k.other for k in entry.kinds)
        self._rows_count.setText(f"Row {rows:,}")
        self._columns_count.setText(f"Column {columns:,}")
        self._others.setText(f" {entry.other_name} {others:,}" if others else "")

    def _mode_changed(self, at: int) -> None:
        self.map.set_mode(str(self.map_mode.itemData(at)))
        by_codec = self.map.mode == "codec"
        self.legend.set_counts(self.map.codings(), by_codec=True, bits=_mean_bits(self.map.rows()))
        self.legend.setVisible(by_codec)
        self.bits_scale.set_codings(tuple(self.map.codings()))
        self.bits_scale.setVisible(by_codec)
        self._axis_counts.setVisible(not by_codec)

    def _map_chosen(self, row_there: LayerRow) -> None:
        self.layers.choose(row_there.tensor)

    def _layer_pointed(self, row_there: LayerRow) -> None:
        self.map.select(row_there.tensor)

    # ----------------------------------------------------------------------------------------------------- card
    def _tab_chosen(self, key: str) -> None:
        self._views.setCurrentIndex(1 if key == "card" else 0)
        self._show_card()

    def _show_card(self) -> None:
        if self._entry is not None and self._tabs.value() == "card":
            self.card.show_card(read_card(self._entry.path) or "This delta has no model card.")

    def focus_first(self) -> None:
        """Move the keyboard into the pane."""
        next(b for b in (self.chat, self.export, self.more) if b.isEnabled()).setFocus(Qt.FocusReason.OtherFocusReason)


def _mean_bits(rows: Sequence[LayerRow]) -> dict[str, float]:
    """Stored bits per weight by the way to store, mean over the matrices in blocks."""
    found: dict[str, list[float]] = {}
    for one in rows:
        if one.block is not None and len(one.shape) != 1 and one.bits is not None:
            found.setdefault(one.coding, []).append(one.bits)
    return {key: sum(bits) / len(bits) for key, bits in found.items()}
