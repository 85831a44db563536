"""Getting figures out of the page: pictures, drawings, tables, and both together on the clipboard."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

from PySide6.QtCore import QMimeData
from PySide6.QtGui import QAction, QGuiApplication
from PySide6.QtWidgets import QMenu, QWidget

from app.context import Context
from app.pages.compare.sheet import SHEET, Figure, figure_painter, figure_size, picture, sheet_painter
from app.tasks import Failure
from app.widgets.charts.exporting import CSV, PNG, SVG, ask_path, file_name, save_widget, write_csv

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
_KINDS = {"png": PNG, "svg": SVG, "csv": CSV}


def export_menu(figures: Sequence[Figure], save: Callable[[str, str], None], parent: QWidget) -> QMenu:
    """Submenus for the whole page and each chart, with PNG, SVG and CSV; `save` gets a figure's key (or "page") and the kind."""
    menu = QMenu(parent)
    for key, title in (("page", "Whole page"), *((f.key, f.title) for f in figures)):
        inner = menu.addMenu(title)
        for kind, (name, _) in _KINDS.items():
            action = QAction(f"{name}...", inner)
            action.triggered.connect(lambda *_, key=key, kind=kind: save(key, kind))
            inner.addAction(action)
        if key == "page":
            menu.addSeparator()
    return menu


def export(ctx: Context, parent: QWidget, figures: Sequence[Figure], table: Table, caption: str, key: str, kind: str) -> None:
    """Ask where to, and save the page ("page") or one figure as PNG, SVG or CSV."""
    figure = next((f for f in figures if f.key == key), None)
    title = figure.title if figure is not None else "Compare"
    path = ask_path(parent, f"Save {title} as {kind.upper()}", Path.home() / f"{file_name(title.lower())}.{kind}", [_KINDS[kind]])
    if path is not None:
        try:
            save(ctx, figures, table, caption, figure, kind, path)
        except OSError as e:
            ctx.show_error(Failure.of(e))
        else:
            ctx.notify(f"Saved {path.name}", "success")


def save(ctx: Context, figures: Sequence[Figure], table: Table, caption: str, figure: Figure | None, kind: str,
         path: Path) -> None:
    """Write a file: `figure`, or the whole page where it is None. Raises OSError."""
    if kind == "csv":
        header, rows = figure.chart.table() if figure is not None else table
        write_csv(path, header, rows)
    elif figure is not None:
        size, ground = figure_size(figure, ctx.theme), ctx.theme.color("surface-raised")
        save_widget(figure_painter(figure, ctx.theme, size), path, size=size, ground=ground, title=figure.title)
    else:
        sheet, ground = sheet_painter(figures, ctx.theme, "Compare", caption), ctx.theme.color("surface")
        save_widget(sheet, path, size=SHEET, ground=ground, title="Compare")


def copy_figures(ctx: Context, figures: Sequence[Figure], table: Table, caption: str) -> None:
    """Put the sheet as a picture and the page's table as text on the clipboard: whoever pastes takes what it can."""
    data = QMimeData()
    data.setImageData(picture(sheet_painter(figures, ctx.theme, "Compare", caption), SHEET, ctx.theme.color("surface")))
    data.setText(text_table(table))
    data.setData("text/csv", csv_text(table).encode())
    QGuiApplication.clipboard().setMimeData(data)
    ctx.notify("The figures are on the clipboard: a picture and a table.", "success")


def text_table(table: Table) -> str:
    """Columns apart by tabs, as spreadsheets take them; columns without any value are left out."""
    header, rows = table
    kept = [i for i in range(len(header)) if any(r[i] for r in rows)]
    return "\n".join("\t".join(cells[i] for i in kept) for cells in (header, *rows))


def csv_text(table: Table) -> str:
    """The whole table as CSV."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows((table[0], *table[1]))
    return text.getvalue()
