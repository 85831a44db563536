"""Another name for a delta's folder, checked while it is typed."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QDialog, QLineEdit, QWidget

from app.context import Context
from app.library.entry import DeltaEntry
from app.library.files import name_problem
from app.widgets.basics import button, column, label, row, set_look
from core.errors import DeltadeckError


class RenameDialog(QDialog):
    """Renames when it is confirmed. `renamed` tells the folder's new path."""

    renamed = Signal(object)

    def __init__(self, ctx: Context, entry: DeltaEntry, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._ctx, self._entry = ctx, entry
        self.setWindowTitle("Rename the delta")
        self.setMinimumWidth(ctx.theme.px(420))
        self.name = QLineEdit(entry.name)
        self.name.setAccessibleName("New name")
        self.name.selectAll()
        self.name.textChanged.connect(self._check)
        self.problem = label(size="small", tone="danger", wrap=True)
        self.problem.setMinimumHeight(ctx.theme.px(18))
        self.confirm = button("Rename", "primary", clicked=self.accept)
        self.confirm.setDefault(True)
        title = label("Name of the folder", weight=600)
        title.setBuddy(self.name)
        self.setLayout(column(title, self.name, self.problem, row(None, button("Cancel", clicked=self.reject), self.confirm),
                              margins=(20, 16, 20, 16)))
        self._check(entry.name)

    def _check(self, text: str) -> None:
        problem = name_problem(text)
        if not problem and text != self._entry.name and text.lower() != self._entry.name.lower() \
                and self._entry.path.with_name(text).exists():
            problem = f"There is a '{text}' in the library already."
        self._show_problem(problem)
        self.confirm.setEnabled(not problem and text != self._entry.name)
        self.confirm.setToolTip(problem or ("" if text != self._entry.name else "It is called so already."))

    def _show_problem(self, problem: str) -> None:
        self.problem.setText(problem)
        set_look(self.name, wrong="true" if problem else "")

    def accept(self) -> None:
        """Rename, and stay open where that fails."""
        try:
            path = self._ctx.library.rename(self._entry, self.name.text())
        except (DeltadeckError, OSError) as e:
            self._show_problem(str(e))
            return
        super().accept()
        self.renamed.emit(path)
