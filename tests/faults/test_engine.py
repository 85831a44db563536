"""Faults in the middle of the engine's work: some of each kind. `python -m tests.benchmarks.bench_faults` goes through all."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from core import mapguard
from core.artifact import write_delta
from core.checkpoint import open_checkpoint
from core.devices import retry_smaller
from core.errors import BadSafetensors, DiskFull, OutOfMemory, OutputExists, StorageFailed, SwitchFailed
from core.job import Job
from core.stream import Hidden, cut_batches
from tests.conftest import byte_tokenizer
from tests.faults import inject
from tests.faults.scenes import (
    FILES,
    TENSORS,
    Begin,
    DeckCase,
    ExportCase,
    Fault,
    Pair,
    attempt,
    faults_of,
    job_request,
    job_scene,
    run_job,
)
from tests.faults.whole import check_library, digest, leftovers
from tests.models import make_pair, write_text


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Matrices this small gain nothing from a second thread."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    place = tmp_path_factory.mktemp("pair")
    torch.set_num_threads(1)
    base, tuned = make_pair(place, "llama", byte_tokenizer(), num_hidden_layers=1)
    unfinished = Pair(base, tuned, write_text(place), place / "made" / "delta")
    (place / "made").mkdir()
    run_job(unfinished, place / "made")
    return unfinished


def problems(begin: Begin, place: Path, kinds: tuple[str, ...], most: int) -> list[str]:
    faults = faults_of(begin, place, kinds, most)
    assert len(faults) >= len(kinds)
    return [problem for fault in faults if (problem := attempt(begin, place, fault))]


def test_a_job_survives_every_kind_of_fault(tmp_path: Path, pair: Pair) -> None:
    before = digest(pair.base), digest(pair.tuned)
    assert problems(job_scene(pair, tmp_path / "wanted"), tmp_path / "case", (*FILES[:5], *TENSORS), 2) == []
    assert (digest(pair.base), digest(pair.tuned)) == before


def test_a_job_by_size_survives_faults(tmp_path: Path, pair: Pair) -> None:
    begin = job_scene(pair, tmp_path / "wanted", budget="4x")
    assert attempt(begin, tmp_path / "case", Fault("allocate", 400, inject.no_host_memory, False)) == ""


def test_an_export_survives_every_kind_of_fault(tmp_path: Path, pair: Pair) -> None:
    assert problems(lambda place: ExportCase(place, pair), tmp_path / "case", FILES + TENSORS, 5) == []


def test_a_loaded_base_survives_faults(tmp_path: Path, pair: Pair) -> None:
    assert problems(lambda place: DeckCase(place, pair), tmp_path / "case", ("open",), 2) == []


@pytest.mark.parametrize("error", inject.KINDS["allocate"])
def test_smaller_chunks_are_tried_before_giving_up(error: type[BaseException]) -> None:
    tried: list[tuple[int, int]] = []
    ids = torch.zeros(64, 128, dtype=torch.long)

    def work(at_once: int) -> str:
        tried.append((at_once, max(i.numel() for i in cut_batches(ids).ids)))
        if at_once > 500:
            raise error()
        return "done"
    assert retry_smaller(work, torch.device("cpu")) == "done"
    assert tried == [(n, n) for n in (4096, 2048, 1024, 512, 256)]
    assert max(i.numel() for i in cut_batches(ids).ids) == 4096    # as before
    tried.clear()

    def never(at_once: int) -> None:
        tried.append((at_once, 0))
        raise error()
    with pytest.raises(OutOfMemory, match=r"64 tokens at a time: [\d,]+ MB were asked for, [\d,]+ MB are free"):
        retry_smaller(never, torch.device("cpu"))
    assert tried[-1][0] == 64


def test_another_error_is_not_tried_again() -> None:
    tried = []

    def work(at_once: int) -> None:
        tried.append(at_once)
        raise RuntimeError("shapes do not fit")
    with pytest.raises(RuntimeError, match="shapes"):
        retry_smaller(work, torch.device("cpu"))
    assert tried == [4096]


def test_a_full_disk_is_named_with_its_numbers(tmp_path: Path, pair: Pair) -> None:
    with inject.failing("write", 6, inject.full, tmp_path, lasts=True), pytest.raises(
            DiskFull, match=r"full: [\d,.]+ MB are free, up to [\d,.]+ MB are needed"):
        run_job(pair, tmp_path)
    with inject.failing("make", 0, inject.forbidden, tmp_path, lasts=True), pytest.raises(StorageFailed, match="Read-only"):
        run_job(pair, tmp_path / "sub")


def test_a_job_that_ended_between_rename_and_clearing_is_finished(tmp_path: Path, pair: Pair) -> None:
    with patch("core.job_folder.clear", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        run_job(pair, tmp_path)
    made = digest(tmp_path / "delta")
    assert leftovers(tmp_path) != []
    assert run_job(pair, tmp_path) == tmp_path / "delta"
    assert digest(tmp_path / "delta") == made and leftovers(tmp_path) == []
    with pytest.raises(OutputExists):
        run_job(pair, tmp_path)


def test_another_delta_in_the_place_of_the_job_s_is_left_alone(tmp_path: Path, pair: Pair) -> None:
    with patch("core.job.write_delta", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        Job(job_request(pair, tmp_path, seed=3), lambda event: None).run()
    os.rename(pair.delta, tmp_path / "delta")
    try:
        with pytest.raises(OutputExists, match="not what this job would write"):
            Job(job_request(pair, tmp_path, seed=3), lambda event: None).run()
        assert (tmp_path / "delta.job" / "tuned.step").is_file() and check_library(tmp_path) == ["delta"]
    finally:
        os.rename(tmp_path / "delta", pair.delta)


def test_hidden_states_have_their_room_on_the_disk_before_they_are_mapped(tmp_path: Path,
                                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.stream.SPILL_FROM", 0)
    batches = cut_batches(torch.zeros(2, 8, dtype=torch.long))
    hidden = Hidden(batches, 1024, torch.device("cpu"), tmp_path)
    assert hidden.path is not None and os.stat(hidden.path).st_blocks * 512 >= 2 * 8 * 1024 * 4
    full = OSError(errno.ENOSPC, "No space left on device")
    with patch("os.posix_fallocate", side_effect=full), pytest.raises(OSError, match="No space"):
        Hidden(batches, 1024, torch.device("cpu"), tmp_path)


# ------------------------------------------------------------------------------ files that change while they are mapped
def cut(folder: Path) -> None:
    file = next(folder.glob("*.safetensors"))
    os.truncate(file, 4096)


def copied(pair: Pair, place: Path) -> tuple[Path, Path]:
    return Path(shutil.copytree(pair.base, place / "base")), Path(shutil.copytree(pair.tuned, place / "tuned"))


CUT = """
import os, sys
from core.checkpoint import open_checkpoint
from core.errors import BadSafetensors
with open_checkpoint(sys.argv[1]) as opened:
    name = max(opened.tensors, key=lambda n: opened.tensors[n].nbytes)
    view = opened.view(name)
    os.truncate(opened.tensors[name].file, 4096)
    print(float(view.float().sum()))
    for use in (opened.check, lambda: opened.view(name)):
        try:
            use()
        except BadSafetensors as error:
            print("refused:", error.what, flush=True)
    os._exit(0)
"""


@pytest.mark.skipif(not mapguard.is_possible(), reason="SIGBUS is met on Linux with glibc only")
def test_a_mapped_file_that_is_cut_short_does_not_end_the_process(tmp_path: Path, pair: Pair) -> None:
    base, _ = copied(pair, tmp_path)
    ended = subprocess.run([sys.executable, "-c", CUT, str(base)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("refused:") == 2


@pytest.mark.skipif(not mapguard.is_possible(), reason="SIGBUS is met on Linux with glibc only")
def test_zeros_that_were_read_instead_are_known_when_a_checkpoint_is_closed(tmp_path: Path, pair: Pair) -> None:
    base, _ = copied(pair, tmp_path)
    with pytest.raises(BadSafetensors, match="could not be read to its end"), open_checkpoint(base) as opened:
        name = max(opened.tensors, key=lambda n: opened.tensors[n].nbytes)
        view = opened.view(name)
        cut(base)
        assert float(view.float().flatten()[-1]) == 0


def test_nothing_made_from_a_base_that_changed_is_kept(tmp_path: Path, pair: Pair) -> None:
    base, tuned = copied(pair, tmp_path)
    library = tmp_path / "library"
    library.mkdir()
    own = Pair(base, tuned, pair.text, pair.delta)

    def changing(*given: object, **named: object) -> object:
        cut(tuned)
        return write_delta(*given, **named)  # type: ignore[arg-type]
    with patch("core.job.write_delta", changing), pytest.raises(BadSafetensors, match="changed while it was in use"):
        run_job(own, library)
    assert check_library(library) == [] and [p.name for p in library.iterdir()] == ["delta.job"]


def test_a_base_that_vanishes_under_a_deck_is_said_so_and_the_loaded_one_stays(tmp_path: Path, pair: Pair) -> None:
    base, _ = copied(pair, tmp_path)
    case = DeckCase(tmp_path, Pair(base, pair.tuned, pair.text, pair.delta))
    case.deck.add(pair.delta, "delta")
    before, file = case.deck.fingerprint(), next(base.glob("*.safetensors"))
    kept = file.rename(tmp_path / "kept")
    with pytest.raises(SwitchFailed, match="is gone since") as caught:
        case.deck.switch("delta", "merged")
    assert "Nothing was touched" in caught.value.why and case.deck.fingerprint() == before
    assert case.deck.switch("base", "merged").tensors == 0
    kept.rename(file)
    case.deck.switch("delta", "merged")                # as soon as it is back
    assert case.deck.fingerprint() == case.deck.expected_fingerprint("delta")
    case.close()
