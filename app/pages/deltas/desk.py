"""What the page does to deltas: asks where to, runs one operation at a time, says how it went."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PySide6.QtCore import QObject, QStandardPaths, QUrl, Signal
from PySide6.QtGui import QDesktopServices
from PySide6.QtWidgets import QFileDialog, QFrame, QProgressBar, QPushButton, QWidget

from app.context import Context
from app.library.entry import DeltaEntry
from app.library.operations import Checked, Step
from app.models.layers import LayerRow
from app.pages.deltas.rename import RenameDialog
from app.pages.deltas.trouble import NoticeBar
from app.tasks import Failure, Task
from app.widgets.basics import Tone, button, label, row
from app.widgets.charts.exporting import ask_path, file_name
from app.words import count, size

REPEATS = 5


class ActivityBar(QFrame):
    """What is under way: a sentence, how far it is, and Cancel."""

    cancelled = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("look", "strip")
        self.setProperty("tone", "faded")
        self._text = label(weight=500, elide=True)
        self._bar = QProgressBar()
        self._bar.setProperty("look", "thin")
        self._bar.setTextVisible(False)
        self._bar.setFixedWidth(140)
        self._bar.setAccessibleName("Progress")
        cancel = button("Cancel", dense=True, clicked=self.cancelled.emit)
        line = row(self._text, self._bar, cancel, gap=12, margins=(14, 6, 8, 6))
        line.setStretch(0, 1)
        self.setLayout(line)
        self.hide()

    def show_step(self, step: Step) -> None:
        """Show how far it is."""
        self._text.setText(step.text)
        self.setAccessibleName(step.text)
        self._bar.setMaximum(1000 if step.total else 0)
        self._bar.setValue(round(1000 * min(1.0, step.done / step.total)) if step.total else 0)
        self.show()


class Desk(QObject):
    """Operations of the page. While one runs, `busy` says which; another is refused with that reason."""

    changed = Signal()
    """`busy` is another."""
    select = Signal(object)
    """A Path: show this delta."""

    def __init__(self, ctx: Context, page: QWidget) -> None:
        super().__init__(page)
        self._ctx, self._page = ctx, page
        self._task: Task | None = None
        self._unread: Failure | None = None
        self.busy = ""
        self.activity = ActivityBar()
        self.activity.cancelled.connect(self.cancel)
        self.notice = NoticeBar(ctx.icons)
        self.undo_bar = NoticeBar(ctx.icons)
        ctx.library.trash.changed.connect(self._show_undo)

    # --------------------------------------------------------------------------------------------- one at a time
    def _begin(self, busy: str, start: Callable[[Callable[[Any], object]], Task], done: Callable[[Any], object]) -> None:
        """Run an operation: `start` gets what to call with its result."""
        if self.busy:
            self._ctx.notify(f"{self.busy} is under way. Wait for it, or cancel it.", "warning")
            return
        self.busy = busy
        self.notice.hide()
        self.activity.show_step(Step(busy))
        self.changed.emit()

        def ended(result: Any) -> None:
            self._end()
            done(result)
        self._task = start(ended)

    def _end(self) -> None:
        self._task, self.busy = None, ""
        self.activity.hide()
        self.changed.emit()

    def _failed(self, failure: Failure) -> None:
        self._end()
        details = button("Details...", dense=True, clicked=partial(self._ctx.show_error, failure))
        self._say("danger", failure.what, " ".join(x for x in (failure.why, failure.remedy) if x), details)

    def warn_unread(self, failure: Failure) -> None:
        """Say once that the folder could not be read again: what is listed may no longer be so."""
        if failure is not self._unread:
            self._unread = failure
            self._say("danger", "The library could not be read again", f"{failure.what} {failure.remedy} What is listed is as it "
                      "was read before.")

    def cancel(self) -> None:
        """End what is under way; nothing half-written stays."""
        if self._task is not None:
            what = self.busy
            self._task.cancel()
            self._end()
            self._ctx.notify(f"{what} was cancelled. Nothing was left half-written.", "faded")

    def _say(self, tone: Tone, title: str, text: str = "", *buttons: QPushButton) -> None:
        dismiss = button("Dismiss", "ghost", dense=True, clicked=self.notice.hide)
        self.notice.show_words(tone, title, text, (*buttons, dismiss))
        self.notice.show()

    # ------------------------------------------------------------------------------------------------- operations
    def verify(self, entries: Sequence[DeltaEntry]) -> None:
        """Read every byte of these, and of their bases where they are known."""
        if entries:
            library = self._ctx.library
            what = f"Verifying {entries[0].name}" if len(entries) == 1 else f"Verifying {count(len(entries), 'delta')}"
            self._begin(what, lambda done: library.verify(self, entries, done, self._failed, self.activity.show_step),
                        self._verified)

    def _verified(self, found: tuple[Checked, ...]) -> None:
        bad = [c for c in found if c.problem]
        wrong = [c for c in found if c.base_problem and not c.problem]
        without = [c for c in found if not c.base and not c.problem and not c.base_problem]
        if bad:
            names = ", ".join(c.entry.name for c in bad[:3]) + (" and others" if len(bad) > 3 else "")
            title = f"{names}: damaged" if len(found) == 1 else f"{len(bad)} of {count(len(found), 'delta')} damaged: {names}"
            self._say("danger", title, bad[0].problem if len(bad) == 1 else "Select one to see what is wrong with it.")
        elif wrong:
            self._say("warning", f"{wrong[0].entry.name}: not its base", wrong[0].base_problem)
        else:
            name = found[0].entry.name if len(found) == 1 else count(len(found), "delta")
            text = f"Of {len(without)} the base was not found, so it was not read." if without else "Their bases were read too."
            if len(found) == 1:
                text = "Its base was not found and not read." if without else "Its base was read too, and is the right one."
            self._say("success", f"{name}: every byte is as it was written", text)

    def export_merged(self, entry: DeltaEntry) -> None:
        """Ask for a folder and write the whole fine-tune into it; asks for the base first where it is not known."""
        if entry.base_path is None:
            self.choose_base(entry, then=self.export_merged)
            return
        parent = QFileDialog.getExistingDirectory(self._page, "Write the checkpoint into a new folder in", str(Path.home()))
        if parent:
            target = _free(Path(parent), entry.fine_tuned or entry.name)
            library = self._ctx.library
            self._begin(f"Exporting {target.name}", lambda done: library.export_merged(
                self, entry, target, done, self._failed, self.activity.show_step), self._written)

    def export_folder(self, entry: DeltaEntry) -> None:
        """Ask for a folder and copy the delta into it."""
        parent = QFileDialog.getExistingDirectory(self._page, "Copy the delta into", str(Path.home()))
        if parent:
            target = _free(Path(parent), entry.name)
            library = self._ctx.library
            self._begin(f"Copying {entry.name}", lambda done: library.export_copy(
                self, entry, target, done, self._failed, self.activity.show_step), self._written)

    def _written(self, path: Path) -> None:
        show = button("Open folder", dense=True, clicked=partial(open_place, path))
        total = sum(p.stat().st_size for p in path.iterdir() if p.is_file())
        self._say("success", f"{path.name} is written", f"{size(total)} in {path.parent}", show)

    def import_from(self, sources: Sequence[Path]) -> None:
        """Copy folders into the library."""
        if sources:
            what = f"Importing {sources[0].name}" if len(sources) == 1 else f"Importing {count(len(sources), 'folder')}"
            library = self._ctx.library
            self._begin(what, lambda done: library.import_from(self, sources, done, self._failed, self.activity.show_step),
                        self._imported)

    def _imported(self, result: tuple[tuple[Path, ...], tuple[str, ...]]) -> None:
        made, refused = result
        if made:
            self.select.emit(made[-1])
        if refused:
            title = "Not imported" if not made else f"{len(made)} imported, {len(refused)} not"
            every = Failure(f"{count(len(refused), 'folder')} could not be imported.", refused[0], "", "\n\n".join(refused))
            details = [button(f"Show all {len(refused)}...", dense=True, clicked=partial(self._ctx.show_error, every))]
            self._say("warning", title, refused[0] + (f" And {len(refused) - 1} more." if len(refused) > 1 else ""),
                      *(details if len(refused) > 1 else ()))
        elif made:
            names = made[0].name if len(made) == 1 else count(len(made), "delta")
            self._ctx.notify(f"{names} imported into {made[0].parent}", "success")

    def ask_import(self) -> None:
        """Ask for a folder to import."""
        folder = QFileDialog.getExistingDirectory(self._page, "Import a delta folder", str(Path.home()))
        if folder:
            self.import_from((Path(folder),))

    def measure(self, entry: DeltaEntry) -> None:
        """Time loading, warm and cold."""
        if entry.base_path is None or entry.fine_tuned_path is None:
            return
        if self._ctx.jobs.is_busy:
            self._ctx.notify("A job is running: times measured now would be wrong. Wait for it, or pause it.", "warning")
            return
        library = self._ctx.library
        self._begin("Measuring load times", lambda done: library.measure(
            self, entry, REPEATS, done, self._failed, self.activity.show_step), lambda times: None)

    # -------------------------------------------------------------------------------------------------- places
    def choose_base(self, entry: DeltaEntry, then: Callable[[DeltaEntry], object] | None = None) -> None:
        """Ask where a delta's base is."""
        folder = QFileDialog.getExistingDirectory(self._page, f"Where is the base '{entry.base_name}'?", str(Path.home()))
        if not folder:
            return

        def done(problem: str) -> None:
            if problem:
                self._say("warning", "Not its base", problem)
                return
            self._ctx.notify(f"The base of {entry.name} is {folder}", "success")
            found = self._ctx.library.entry(entry.path)
            if then is not None and found is not None:
                then(found)
        self._ctx.library.try_base(self, entry, folder, done, self._failed)

    def choose_fine_tune(self, entry: DeltaEntry) -> None:
        """Ask where the full fine-tune is."""
        folder = QFileDialog.getExistingDirectory(self._page, f"Where is the fine-tune '{entry.fine_tuned}'?", str(Path.home()))
        if folder:
            if not (Path(folder) / "config.json").is_file():
                self._say("warning", "No checkpoint", f"There is no config.json in '{folder}'.")
                return
            self._ctx.library.set_places(entry, fine_tuned=folder)

    # -------------------------------------------------------------------------------------------------- the rest
    def rename(self, entry: DeltaEntry) -> None:
        """Ask for another name."""
        dialog = RenameDialog(self._ctx, entry, self._page)
        dialog.renamed.connect(self.select)
        dialog.finished.connect(dialog.deleteLater)
        dialog.open()

    def reveal(self, entry: DeltaEntry) -> None:
        """Open the delta's folder in the file manager."""
        open_place(entry.path)

    def remove(self, entries: Sequence[DeltaEntry]) -> None:
        """Move deltas to the trash, with a way back for some seconds."""
        if not entries:
            return
        for problem in self._ctx.library.remove(entries):
            self._say("danger", "Not removed", problem)

    def undo(self) -> None:
        """Bring back what was removed last."""
        back = self._ctx.library.trash.undo()
        if back:
            self._ctx.library.refresh()
            self.select.emit(back[-1])

    def _show_undo(self) -> None:
        pending = self._ctx.library.trash.pending()
        if pending:
            names = f"{pending[0].name} moved" if len(pending) == 1 else f"{count(len(pending), 'delta')} moved"
            back = button("Undo", dense=True, icons=self._ctx.icons, icon="undo", tip="Ctrl+Z", clicked=self.undo)
            self.undo_bar.show_words("faded", f"{names} to the trash", "", (back,))
        self.undo_bar.setVisible(bool(pending))

    def report(self, entry: DeltaEntry) -> None:
        """Ask where to, and write a report of a delta."""
        documents = QStandardPaths.writableLocation(QStandardPaths.StandardLocation.DocumentsLocation)
        suggested = Path(documents or Path.home()) / f"{file_name(entry.name)}-report.html"
        path = ask_path(self._page, "Save the report", suggested, (("Web page", "html"), ("PDF", "pdf")))
        if path is not None:
            self._ctx.library.load_rows(self, entry.path, partial(self._write_report, entry, path), self._failed)

    def _write_report(self, entry: DeltaEntry, path: Path, rows: tuple[LayerRow, ...]) -> None:
        def start(done: Callable[[Any], object]) -> Task:
            def work(task: Task) -> Path:
                from app.report import write_report

                write_report(entry, rows, path)
                return path
            return self._ctx.tasks.run(self, work, done, self._failed)
        self._begin(f"Writing {path.name}", start, self._reported)

    def _reported(self, path: Path) -> None:
        show = button("Open", dense=True, name="Open the report", clicked=partial(open_place, path))
        self._say("success", f"{path.name} is written", f"in {path.parent}", show)


def open_place(path: Path) -> None:
    """Open a file or folder with the system's program for it."""
    QDesktopServices.openUrl(QUrl.fromLocalFile(str(path)))


def _free(parent: Path, name: str) -> Path:
    from app.library.files import free_name

    return parent / free_name(parent, name)
