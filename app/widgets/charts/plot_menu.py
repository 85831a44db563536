"""The menu of a `PlainPlot`: fit, the kind of axis, and saving as a picture or a table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PySide6.QtCore import QPoint, QStandardPaths, Qt
from PySide6.QtWidgets import QMenu, QWidget

from app.widgets.charts.exporting import CSV, PNG, SCALE, SVG, ask_path, file_name, save_widget, write_csv

if TYPE_CHECKING:
    from app.widgets.charts.plot_base import PlainPlot


def make_menu(plot: PlainPlot) -> QMenu:
    """The menu, which lives until it is closed."""
    menu = QMenu(plot)
    menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    menu.setAccessibleName(f"{plot.accessibleName()}: menu")
    menu.addAction("Fit", plot.fit)
    scale = menu.addAction("Log scale")
    scale.setCheckable(True)
    scale.setChecked(plot.is_log)
    scale.triggered.connect(plot.set_log)
    menu.addSeparator()
    for kind in (PNG, SVG, CSV):
        made = menu.addAction(f"Save as {kind[1].upper()}...")
        made.setData(kind)
        made.setEnabled(kind != CSV or any(len(s.x) for s in plot.listed))
    menu.triggered.connect(lambda action: ask_and_save(plot, action.data()) if action.data() else None)
    return menu


def open_menu(plot: PlainPlot, at: QPoint) -> None:
    """Show the menu at a place of the screen."""
    make_menu(plot).popup(at)


def ask_and_save(plot: PlainPlot, kind: tuple[str, str]) -> None:
    """Ask where to, and save; the plot tells where that fails."""
    home = Path(QStandardPaths.writableLocation(QStandardPaths.StandardLocation.PicturesLocation) or Path.home())
    folder = home if home.is_dir() else Path.home()
    name = plot.accessibleName()
    path = ask_path(plot.window(), f"Save {name}", folder / f"{file_name(name)}.{kind[1]}", [kind])
    if path is not None:
        save(plot, path)


def save(plot: PlainPlot, path: Path) -> None:
    """Save by the path's ending: .png, .svg or .csv."""
    try:
        if path.suffix.lower() == ".csv":
            write_csv(path, [plot.x_name or "x", *(s.name for s in plot.listed if len(s.x))], table(plot))
        else:
            _draw(plot, path)
    except OSError as e:
        plot.trouble.emit(f"'{path}' could not be saved: {e.strerror or e}.")


def _draw(plot: PlainPlot, path: Path) -> None:
    before, plot.is_saving = plot.dense, True
    plot.set_dense(SCALE if path.suffix.lower() == ".png" else 1.0)
    try:
        # A view's own `render` draws the scene alone; labels and ticks are the widget's.
        save_widget(lambda painter: QWidget.render(plot, painter, QPoint()), path, size=plot.size(),
                    ground=plot.theme.color("surface-raised"), title=plot.accessibleName())
    finally:
        plot.is_saving = False
        plot.set_dense(before)


def table(plot: PlainPlot) -> Iterator[list[object]]:
    """One line per x: the listed series' values, None where one has none."""
    known = [s for s in plot.listed if len(s.x)]
    if not known:
        return
    values = [{x: y for x, y in zip(s.x.tolist(), s.y.tolist(), strict=True) if np.isfinite(y)} for s in known]
    for x in np.unique(np.concatenate([s.x for s in known])).tolist():
        yield [int(x) if float(x).is_integer() else x, *(found.get(x) for found in values)]
