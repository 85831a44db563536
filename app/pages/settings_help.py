"""The help card of Settings: check this machine, and save what a report of a fault needs."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFileDialog, QGridLayout, QLabel, QWidget

from app.context import Context
from app.tasks import Failure, Task
from app.widgets.basics import Card, button, clear_layout, column, label, row
from core.doctor import Finding, Report

_SHOWN = 12
"""Findings that the card lists; the rest is in the copy."""


class HelpCard(Card):
    """Two buttons, what they are doing, and what the last self-check found."""

    def __init__(self, ctx: Context, parent: QWidget | None = None) -> None:
        super().__init__("Help", parent=parent)
        self._ctx = ctx
        self._task: Task | None = None
        self.report: Report | None = None
        self._target: Path | None = None
        self.check = button("Self-check", icons=ctx.icons, icon="shield", clicked=self.run_check, name="Check this machine")
        self.save = button("Save diagnostics...", icons=ctx.icons, icon="export", clicked=self.ask_save,
                           name="Save diagnostics for a report")
        self.copy = button("Copy", icons=ctx.icons, icon="copy", clicked=self._copy, name="Copy what the self-check found")
        self.copy.hide()
        self.stop = button("Cancel", icons=ctx.icons, icon="close", clicked=self.cancel, name="Cancel the self-check")
        self.stop.hide()
        self.outcome = label("Looks at versions, devices and folders, and checks every kernel against a reference: some seconds, "
                             "at a first run up to two minutes.", size="small", tone="faded", wrap=True)
        self.outcome.setAccessibleName("Outcome of the self-check")
        self._found = QGridLayout()
        self._found.setColumnStretch(1, 1)
        self._found.setHorizontalSpacing(12)
        self._found.setVerticalSpacing(6)
        note = label("Diagnostics are a zip with the self-check, the logs, settings and how jobs went. No conversation, note or "
                     "calibration text is in it, and no weights; your home folder is written ~.",
                     size="small", tone="faded", wrap=True)
        self.add(row(self.check, self.stop, self.save, self.copy, None), self.outcome, self._found, note)

    @property
    def is_busy(self) -> bool:
        """Whether a check is under way."""
        return self._task is not None

    # ---------------------------------------------------------------------------------------------- self-check
    def run_check(self) -> None:
        """Check this machine in the background."""
        if not self.is_busy:
            self._target = None
            self._begin()

    def _begin(self) -> None:
        for control in (self.check, self.save):
            control.setEnabled(False)
            control.setToolTip("The self-check is under way")
        self.stop.show()
        self.outcome.setText("Beginning...")
        data = self._ctx.data

        def look(task: Task) -> Report:
            from app.doctor import check_up

            return check_up(data, lambda name: task.progress(name))
        self._task = self._ctx.tasks.run(self, look, self._checked, self._failed, self._progress)

    def cancel(self) -> None:
        """Give the check up; the process that it runs in ends with its next word."""
        if self._task is not None:
            self._task.cancel()
            self._target = None
            self._free()
            self.outcome.setText("The self-check was cancelled.")

    def _progress(self, name: object) -> None:
        self.outcome.setText(f"Checking: {name}")

    def _free(self) -> None:
        self._task = None
        self.stop.hide()
        for control in (self.check, self.save):
            control.setEnabled(True)
            control.setToolTip("")

    def _checked(self, report: Report) -> None:
        self._free()
        self.show_report(report)
        if self._target is not None:
            self._write(self._target, report.as_json())

    def _failed(self, failure: Failure) -> None:
        self._free()
        self.outcome.setText(f"The self-check could not be made: {failure.what} {failure.why}".strip())
        if self._target is not None:                   # the rest is worth having
            self._write(self._target, {"failed": failure.why or failure.what})

    def show_report(self, report: Report) -> None:
        """The outcome in a sentence; what is broken or noted below, each with what to do."""
        from app.doctor import summary

        self.report = report
        self.copy.show()
        self.outcome.setText(summary(report))
        clear_layout(self._found)
        told = [*report.problems, *(f for f in report.findings if f.state == "note")]
        for at, finding in enumerate(told[:_SHOWN]):
            self._add(at, finding)
        if len(told) > _SHOWN:
            self._found.addWidget(label(f"and {len(told) - _SHOWN} more: see the copy", size="small", tone="faded"), _SHOWN, 1)

    def _add(self, at: int, finding: Finding) -> None:
        broken = finding.state == "broken"
        mark: QLabel = label("Broken" if broken else "Note", tone="danger" if broken else "warning", weight=600)
        words = label(f"{finding.name}: {finding.detail}" if finding.detail else finding.name, wrap=True, selectable=True)
        self._found.addWidget(mark, at, 0, Qt.AlignmentFlag.AlignTop)
        if finding.remedy:
            remedy = label(finding.remedy, size="small", tone="faded", wrap=True, selectable=True)
            self._found.addLayout(column(words, remedy, gap=2), at, 1)
        else:
            self._found.addWidget(words, at, 1)

    def _copy(self) -> None:
        from PySide6.QtGui import QGuiApplication

        from app.doctor import facts
        if self.report is not None:
            lines = [*facts(self.report), "", *(f"{f.state:<6} {f.group}: {f.name}. {f.detail} {f.remedy}".rstrip() for f in
                                               self.report.findings)]
            QGuiApplication.clipboard().setText("\n".join(lines))
            self._ctx.notify("Copied", "success")

    # --------------------------------------------------------------------------------------------- diagnostics
    def ask_save(self) -> None:
        """Ask where to, check the machine anew unless that was done, and write the zip."""
        if self.is_busy:
            return
        name = f"deltadeck-diagnostics-{time.strftime('%Y%m%d-%H%M%S')}.zip"
        chosen, _ = QFileDialog.getSaveFileName(self, "Save diagnostics", str(Path.home() / name), "Zip files (*.zip)")
        if not chosen:
            return
        target = Path(chosen)
        if self.report is None:
            self._target = target
            self._begin()
        else:
            self._write(target, self.report.as_json())

    def _write(self, target: Path, doctor: dict[str, object]) -> None:
        self._target = None
        data, options = self._ctx.data, msgspec.to_builtins(self._ctx.settings.options)

        def write(task: Task) -> int:
            from app import diagnostics

            return diagnostics.save(target, data, options, doctor)

        def saved(_: int) -> None:
            self._ctx.notify(f"Diagnostics are in '{target}'", "success")
        self._ctx.tasks.run(self, write, saved, self._ctx.show_error)
