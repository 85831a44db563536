"""A delta on paper: one self-contained HTML file, or a PDF of a few pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from app.library.entry import DeltaEntry
from app.models.layers import LayerRow


def write_report(entry: DeltaEntry, rows: Sequence[LayerRow], path: Path) -> None:
    """Write a report of a delta: a PDF where the name ends so, else HTML. The file is whole or not there. Raises OSError.

    `rows` are its tensors (`Library.load_rows`). May be called on a worker thread once there is a QGuiApplication.
    """
    from app.report.content import make_report
    from app.report.html import to_html
    from app.report.pdf import to_pdf
    from app.widgets.charts.exporting import write_whole

    report = make_report(entry, rows)
    write_whole(path, to_pdf(report) if path.suffix.lower() == ".pdf" else to_html(report).encode("utf-8", "replace"))
