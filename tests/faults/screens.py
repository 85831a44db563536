"""Each fault as a user meets it: what is done, on which page, and what must be read there afterwards."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from app.chat.session import Source
from tests.faults import inject
from tests.faults.studio import CHILD, Studio, at_stage, cuda_stand_in, failing, flip, full_disk, little_disk, settle, wait

RETRY = "(try again|Try again|Retry|again)"


@dataclass(frozen=True)
class Screen:
    """A fault: how it comes about, and patterns that the window's texts must match."""

    make: Callable[[Studio], None]
    says: tuple[str, ...]


SCREENS: dict[str, Screen] = {}


def screen(*says: str) -> Callable[[Callable[[Studio], None]], Callable[[Studio], None]]:
    """A scene by its function's name."""
    def keep(make: Callable[[Studio], None]) -> Callable[[Studio], None]:
        SCREENS[make.__name__.replace("_", "-")] = Screen(make, says)
        return make
    return keep


# ------------------------------------------------------------------------------------------------------- a job fails
@screen("disk of .* is full", r"0\.4 MB are free, up to [\d,.]+ MB are needed", "Free some space", "Retry")
def disk_full_while_journalling(studio: Studio) -> None:
    studio.run_job(at_stage("fit", lambda stack: stack.enter_context(full_disk(studio.library, at=9))))


@screen("disk of .* is full", r"0\.4 MB are free, up to [\d,.]+ MB are needed", "Free some space", "Retry")
def disk_full_while_writing(studio: Studio) -> None:
    studio.run_job(at_stage("write", lambda stack: stack.enter_context(full_disk(studio.library, at=2))))


@screen(r"job needs [\d,]+ MB", r"[\d,.]+ MB are free", "Free some space")
def disk_too_small(studio: Studio) -> None:
    studio.run_job(at_stage("", lambda stack: stack.enter_context(little_disk())))


@screen("Read-only file system", "permissions", "Retry")
def read_only_output_folder(studio: Studio) -> None:
    studio.run_job(at_stage("", failing("make", inject.forbidden, studio.library)))


@screen("base", "changed while it was in use", RETRY)
def base_changed_while_mapped(studio: Studio) -> None:
    studio.run_job(at_stage("tune", lambda stack: flip(next(studio.base.glob("*.safetensors")))))


@screen("base", "(gone|not there|No such file|vanished)", RETRY)
def base_vanished(studio: Studio) -> None:
    studio.run_job(at_stage("tune", lambda stack: studio.base.rename(studio.place / "moved")))


@screen("base", "(cut short|changed|end)", RETRY)
def base_cut_short_while_mapped(studio: Studio) -> None:
    studio.run_job(at_stage("fit", lambda stack: os.truncate(next(studio.base.glob("*.safetensors")), 4096)))


@screen("This computer's memory ran out", r"4,000 MB were asked for, [\d,]+ MB are free", "fewer samples", "Retry")
def host_out_of_memory(studio: Studio) -> None:
    studio.run_job(at_stage("fit", failing("allocate", inject.no_host_memory)))


@screen("memory of 'cuda:0' ran out", r"2,1\d\d MB were asked for, 325 MB are free", "fewer samples", "Retry")
def cuda_out_of_memory(studio: Studio) -> None:
    studio.hold(cuda_stand_in())
    studio.run_job(at_stage("fit", failing("allocate", inject.no_cuda_memory)))


@screen("device .* failed", "illegal memory access", "Start the program again")
def device_gives_up(studio: Studio) -> None:
    studio.run_job(at_stage("tune", failing("device", inject.no_device)))


@screen("pirate is ready", "Show delta")
def map_fails_and_the_file_is_read_instead(studio: Studio) -> None:
    studio.run_job(at_stage("", failing("map", inject.no_map, studio.base)))


@screen("Input/output error", "disk", "Retry")
def sync_fails(studio: Studio) -> None:
    studio.run_job(at_stage("write", failing("sync", inject.broken, studio.library)))


@screen("Input/output error", "disk", "Retry")
def rename_fails(studio: Studio) -> None:
    studio.run_job(at_stage("write", failing("rename", inject.broken, studio.library)))


@screen(r"line 3|Line 3", "calibration|text", RETRY)
def calibration_file_malformed(studio: Studio) -> None:
    path = studio.place / "texts.jsonl"
    path.write_text('{"text": "A cat sat."}\n{"text": "A dog ran."}\n{"text": "A bird\n', encoding="utf-8")
    studio.run_job(calibration=str(path))


@screen("not .*finite|NaN|infinite")
def fine_tune_holds_nan(studio: Studio) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    path = next(studio.tuned.glob("*.safetensors"))
    tensors = load_file(path)
    name = next(n for n, t in tensors.items() if t.dim() == 2)
    tensors[name][0, 0] = torch.nan
    save_file(tensors, path, {"format": "pt"})
    studio.run_job()


@screen("Interrupted", "Finished layers are kept", "Resume")
def worker_killed(studio: Studio) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, *map(str, (studio.data, studio.library, studio.base, studio.tuned))],
                             stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    assert child.stdout is not None
    for line in child.stdout:
        if line.strip().isdigit() and int(line) >= 1:
            break
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    studio.open("run")
    settle()


@screen("ended", "signal 9|killed", "Retry")
def worker_process_of_a_gpu_killed(studio: Studio) -> None:
    import psutil

    from app.jobs.worker import run_apart
    from core.events import LayerFitted

    def kill(event: Any) -> None:
        if isinstance(event, LayerFitted):
            for child in psutil.Process().children(recursive=True):
                if "spawn_main" in " ".join(child.cmdline()):
                    child.kill()

    def run(request: dict[str, Any], tell: Callable[[Any], None], cancelled: Callable[[], bool]) -> Any:
        def heard(event: Any) -> None:
            tell(event)
            kill(event)
        return run_apart("")(request, heard, cancelled)
    studio.run_job(run)


# --------------------------------------------------------------------------------------------------------- the library
def _deltas(studio: Studio) -> None:
    window = studio.open("deltas")
    wait(lambda: bool(window.ctx.library.entries()) and not window.ctx.library.loading)
    window.ctx.settings.remember(str(studio.base))
    settle()


@screen("pirate: damaged", "(changed|damaged|hash|written)", "(again|copy|Import|Export)")
def delta_damaged_on_disk(studio: Studio) -> None:
    flip(studio.delta() / "delta_model.safetensors")
    studio.delta("bard")
    _deltas(studio)
    page: Any = studio.window.page("deltas")
    page.desk.verify(studio.window.ctx.library.entries()[-1:] if studio.window.ctx.library.entries()[-1].name == "pirate" else
                     [e for e in studio.window.ctx.library.entries() if e.name == "pirate"])
    wait(lambda: not page.desk.busy)
    page.select(studio.library / "pirate")
    settle()


@screen("truncated|cut|shorter|bytes|read to its end", "(again|copy)")
def delta_cut_short_on_disk(studio: Studio) -> None:
    path = studio.delta() / "delta_model.safetensors"
    os.truncate(path, path.stat().st_size // 2)
    _deltas(studio)


@screen("pirate", "(can't be read|not JSON|damaged|config)", "(again|copy)")
def delta_config_garbled(studio: Studio) -> None:
    path = studio.delta() / "delta_config.json"
    path.write_bytes(path.read_bytes()[:700])
    _deltas(studio)


@screen("disk of .* is full", r"0\.4 MB are free, up to [\d,.]+ MB are needed", "Free some space")
def export_on_a_full_disk(studio: Studio) -> None:
    studio.delta()
    _deltas(studio)
    page: Any = studio.window.page("deltas")
    (entry,) = studio.window.ctx.library.entries()
    out = studio.place / "out"
    out.mkdir()
    studio.window.ctx.library.set_places(entry, base=str(studio.base))
    settle(0.2)
    (entry,) = studio.window.ctx.library.entries()
    studio.hold(full_disk(out, at=1))
    with patch("app.pages.deltas.desk.QFileDialog.getExistingDirectory", return_value=str(out)):
        page.desk.export_merged(entry)
    wait(lambda: not page.desk.busy)
    settle()


@screen("Not imported", "(damaged|changed|bytes|hash)")
def import_of_a_damaged_delta(studio: Studio) -> None:
    own = studio.delta("own")
    strange = Path(shutil.copytree(own, studio.place / "from-a-friend"))
    flip(strange / "delta_model.safetensors")
    _deltas(studio)
    page: Any = studio.window.page("deltas")
    page.take(strange)
    wait(lambda: not page.desk.busy)
    settle()


@screen("library could not be read", "Input/output error", "Try again")
def library_can_not_be_read(studio: Studio) -> None:
    studio.delta()
    with _unreadable(studio.library):
        window = studio.open("deltas")
        wait(lambda: window.ctx.library.failure is not None)
        settle()


@screen("library could not be read again", "Input/output error", "as it was read before")
def library_can_not_be_read_again(studio: Studio) -> None:
    studio.delta()
    _deltas(studio)
    with _unreadable(studio.library):
        studio.window.ctx.library.refresh()
        wait(lambda: studio.window.ctx.library.failure is not None)
    settle()


@contextmanager
def _unreadable(folder: Path) -> Iterator[None]:
    right = os.listdir

    def listed(path: Any = ".") -> list[str]:
        if str(path) == str(folder):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(folder))
        return right(path)
    with patch("os.listdir", listed):
        yield


# ------------------------------------------------------------------------------------------------------------- the chat
def _chat(studio: Studio, wanted: str = "ready") -> Any:
    window = studio.window if studio.shell is not None else studio.open("chat")
    window.go("chat")
    page: Any = window.page("chat")
    settle(0.3)
    page.loading.open_deck(str(studio.base), (Source(studio.library / "pirate", "pirate"),))
    wait(lambda: page.session.state == wanted and not page.session.doing)
    settle()
    return page


@screen("could not be loaded", "does not exist", "Check the path", "Try again", "Choose another base")
def chat_base_vanished_before_loading(studio: Studio) -> None:
    studio.delta()
    studio.base.rename(studio.place / "moved")
    _chat(studio, "failed")


@screen("memory is too small for", r"4,000 MB were asked for, [\d,]+ MB are free", "Close other programs", "Try again")
def chat_base_does_not_fit_into_memory(studio: Studio) -> None:
    studio.delta()
    studio.open("chat")
    studio.hold(patch("transformers.AutoModelForCausalLM.from_pretrained", side_effect=inject.no_host_memory()))
    _chat(studio, "failed")


@screen("damaged|changed|hash|bytes")
def chat_delta_damaged(studio: Studio) -> None:
    flip(studio.delta() / "delta_model.safetensors")
    _chat(studio)


@screen("gone", "Nothing was touched|nothing was touched")
def chat_base_vanished_under_a_loaded_deck(studio: Studio) -> None:
    studio.delta()
    page = _chat(studio)
    page.columns.pick("base")
    wait(lambda: not page.session.doing)
    next(studio.base.glob("*.safetensors")).rename(studio.place / "moved")
    page.session.switch(("pirate",))
    wait(lambda: not page.session.doing)
    settle()


@screen("too little memory to go on", r"2,147 MB were asked for, 325 MB are free", "Close other programs")
def chat_cuda_out_of_memory_in_an_answer(studio: Studio) -> None:
    studio.delta()
    page = _chat(studio)
    studio.hold(cuda_stand_in())
    from core import chat

    right = chat.answer

    def answer(*given: Any) -> Any:
        with inject.failing("allocate", 40, inject.no_cuda_memory, lasts=True):
            return right(*given)
    studio.hold(patch("core.chat.answer", answer))
    page.composer.edit.setPlainText("Where does the cat live?")
    page.send()
    wait(lambda: not page.session.doing)
    settle()


@screen("memory ran out", r"[\d,]+ MB are free", "loaded base stays as it was", "Close other programs")
def chat_map_of_a_delta_fails(studio: Studio) -> None:
    studio.delta()
    studio.open("chat")
    studio.hold(inject.failing("map", 0, inject.no_map, studio.library, lasts=True))
    _chat(studio)


@screen("conversation in .* is damaged", "kept as")
def conversation_file_damaged(studio: Studio) -> None:
    chats = studio.data / "chats"
    chats.mkdir()
    (chats / "20260101-120000-abcd.json").write_bytes(b'{"id": "20260101-1200')
    studio.open("chat")
    settle(1)


# --------------------------------------------------------------------------------------------------- the program's own files
@screen("settings", "could not be read", "(kept|usual|default)")
def settings_file_damaged(studio: Studio) -> None:
    (studio.data / "settings.json").write_bytes(b'{"theme": "dark", "zo\xff\xfe')
    studio.open("compress")
    settle()


@screen("settings", "could not be saved", "(No space|full|disk)")
def settings_can_not_be_saved(studio: Studio) -> None:
    studio.open("settings")
    studio.hold(inject.failing("write", 0, inject.full, studio.data, lasts=True))
    studio.window.ctx.settings.set(offline=True)
    settle()


@screen("job queue was damaged", "kept as")
def queue_file_damaged(studio: Studio) -> None:
    (studio.data / "queue.json").write_bytes(b'{"version": 1, "items": [{"id"')
    studio.open("run")
    settle()


@screen("out of memory|unexpected", "Copy details")
def something_nobody_foresaw(studio: Studio) -> None:
    window = studio.open("compress")
    from app.crash import CrashGuard

    guard = CrashGuard(window.ctx.icons, window)
    guard.install()
    try:
        sys.excepthook(ValueError, ValueError("shapes (3, 4) and (5,) do not fit"), None)
        settle()
    finally:
        guard.remove()


@screen("too little room", r"[\d,.]+ .?B")
def compress_disk_too_small(studio: Studio) -> None:
    studio.hold(little_disk())
    _compress(studio)


@screen("can't be used", "(base|pirate)", "truncated|cut|shorter|bytes|end")
def compress_fine_tune_cut_short(studio: Studio) -> None:
    path = next(studio.tuned.glob("*.safetensors"))
    os.truncate(path, path.stat().st_size // 2)
    _compress(studio, planned=False)


def _compress(studio: Studio, planned: bool = True) -> None:
    window = studio.open("compress")
    page: Any = window.page("compress")
    page.open_pair(str(studio.base), str(studio.tuned))
    if planned:
        wait(lambda: page.planner.facts is not None)
    settle(1.5)
