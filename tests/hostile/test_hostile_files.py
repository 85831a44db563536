"""Everything else that is opened, changed by chance: the program's own files, texts to calibrate on, what is dropped on it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pyarrow  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]
import pytest
import torch
from PySide6.QtCore import QMimeData, QUrl

from app.chat.conversations import Answers, Conversation, Turn, Version, as_json, as_markdown, encode
from app.chat.store import read_all
from app.checkpoints import cleaned, source_of
from app.compressing import read_request
from app.jobs.queue import QueueItem, encode_queue, read_queue
from app.jobs.runfile import encode_tunes, read_run, read_tunes, snapshot
from app.jobs.runstate import RunState, TuneCurve
from app.library.memory import Memory
from app.library.reading import read_card, read_delta
from app.paths import expanded
from app.settings import Options, Settings
from app.widgets.picker import dropped_folder
from core.calibration_sources import documents, parse_source
from core.checkpoint import open_checkpoint
from core.errors import (
    BadIndex,
    BadSafetensors,
    CalibrationUnusable,
    CheckpointNotFound,
    DeltadeckError,
    EmptyFolder,
    WeightsMissing,
)
from core.journal import Journal, read_job_note
from core.record import TensorRecord
from tests.hostile.mutate import join_weights, spoil_bytes, spoil_json, spoil_text

TIMES = 60
RECORD = TensorRecord(name="a.weight", codec="sign", shape=(4, 6), dtype="BF16", base="a.weight", base_shape=(4, 6),
                      base_dtype="BF16", exponents=(-21,))


def variants(seed: str, raw: bytes, times: int = TIMES) -> list[bytes]:
    """Mutations of a JSON file."""
    rng, made = Random(seed), []
    for _ in range(times):
        kind = rng.randrange(4)
        made.append(spoil_bytes(rng, raw) if kind == 0 else spoil_text(rng, raw) if kind == 1
                    else json.dumps(spoil_json(rng, json.loads(raw)), indent=1).encode())
    return made


# ------------------------------------------------------------------------------------------------- the program's own
def test_settings(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    made = Settings(path)
    made.set(zoom=1.1, recent=("/a", "b/c"), splitters={"x": [1, 2]}, columns={"t": "AAAA"}, chat_presets={"p": {"top_p": 0.5}})
    for content in variants("settings", path.read_bytes()):
        path.write_bytes(content)
        found = Settings(path)
        assert 0.8 <= found.options.zoom <= 1.5 and found.library.is_absolute()
        assert found.message or msgspec.json.decode(content, type=Options)


def test_the_queue(tmp_path: Path) -> None:
    item = QueueItem(id="a", name="n", request={"output": str(tmp_path / "d"), "base": "b"}, fraction=0.5, blocks=3)
    raw = encode_queue([item, msgspec.structs.replace(item, id="b", name="m")])
    for content in variants("queue", raw):
        (tmp_path / "queue.json").write_bytes(content)
        items, message = read_queue(tmp_path / "queue.json")
        assert message or all(0 <= i.fraction <= 1 for i in items)
        assert (tmp_path / "queue.json").exists() != bool(message), "what can't be read is put aside"
        for i in items:
            assert i.job_folder.name.endswith(".job") or not i.output.name


def test_notes_of_the_library(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "library.json")
    memory.change("ab" * 32, note="x", base="/base")
    memory.learn_base("cd" * 32, "/base")
    assert not memory.flush()
    for content in variants("memory", (tmp_path / "library.json").read_bytes()):
        (tmp_path / "library.json").write_bytes(content)
        Memory(tmp_path / "library.json").all()


def test_kept_runs(tmp_path: Path) -> None:
    state, rng = RunState("a", "n", "b", "f"), Random("runs")
    raw, tunes = snapshot(state)(), encode_tunes([TuneCurve("a", "n", "kl", 3, *state.curves.tune_columns())])
    for _ in range(TIMES):
        for content, read in ((raw, read_run), (tunes, read_tunes)):
            (tmp_path / "run").write_bytes(spoil_bytes(rng, content))
            read(tmp_path / "run")


def test_conversations(tmp_path: Path) -> None:
    answers = Answers((Version(text="hi", variant="base", tokens=3, seconds=1.5),))
    talk = Conversation(id="a", created=1.7e9, changed=1.7e9, turns=(Turn(prompt="p", answers={"A": answers}),))
    for content in variants("talk", encode(talk), 120):
        for path in tmp_path.iterdir():
            path.unlink()
        (tmp_path / "a.json").write_bytes(content)
        read = read_all(tmp_path)
        assert len(read.found) + len(read.problems) == 1
        for found in read.found:
            assert as_markdown(found) and as_json(found).encode("utf-8", "replace") and found.title
            assert found.messages("A", 5) is not None and not found.has_words(["no such word"])
    (tmp_path / "a.json").write_bytes(encode(msgspec.structs.replace(talk, created=1e300)))
    assert read_all(tmp_path).problems


# -------------------------------------------------------------------------------------------------------------- jobs
def sealed(folder: Path, key: str, spoil: Callable[[Any], None]) -> None:
    """Change what an entry holds and make its hash right again."""
    body = msgspec.msgpack.decode((folder / f"{key}.step").read_bytes()[32:])
    spoil(body)
    raw = msgspec.msgpack.encode(body)
    (folder / f"{key}.step").write_bytes(hashlib.sha256(raw).digest() + raw)


@pytest.mark.parametrize(("field", "value"), [
    ("dtype", "F64"), ("dtype", "x"), ("shape", [3]), ("shape", [2**40, 2**40]), ("shape", [-2, -3]), ("shape", [1] * 65),
    ("shape", [0, 2**62]), ("data", b""), ("data", b"123"), ("data", "x"), ("shape", "x")])
def test_journal_entries_that_contradict_themselves_are_absent(tmp_path: Path, field: str, value: object) -> None:
    journal = Journal(tmp_path)
    journal.write("k", [RECORD], {"a.weight": {"scale": torch.arange(6.0).reshape(2, 3)}})
    assert journal.read("k") is not None
    sealed(tmp_path, "k", lambda body: body["tensors"]["a.weight"]["scale"].update({field: value}))
    assert journal.read("k") is None


def test_journals_changed_by_chance(tmp_path: Path) -> None:
    journal, rng = Journal(tmp_path), Random("journal")
    journal.write("k", [RECORD], {"a.weight": {"scale": torch.arange(6.0)}}, {"x": 1})
    raw = (tmp_path / "k.step").read_bytes()
    for _ in range(TIMES):
        (tmp_path / "k.step").write_bytes(changed := spoil_bytes(rng, raw))
        assert (journal.read("k") is None) == (changed != raw)
        body = spoil_bytes(rng, raw[32:])
        (tmp_path / "k.step").write_bytes(hashlib.sha256(body).digest() + body)
        journal.read("k")                              # whole by its hash: anything but another error


@pytest.mark.parametrize("name", ["../../out", "/etc/x", "a/b", "x" * 400, "", "..", "\0", "\ud800", "ü"])
def test_no_tensor_s_name_leads_out_of_a_journal(tmp_path: Path, name: str) -> None:
    (tmp_path / "job").mkdir()
    journal = Journal(tmp_path / "job")
    for key in (name, f"outer-{name}"):
        journal.write(key, [], {}, {"key": 1})
        assert journal.read(key) is not None
        journal.forget(key)
        assert journal.read(key) is None
    assert [p.name for p in tmp_path.iterdir()] == ["job"]


def test_a_journal_s_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "k.step")
    os.mkfifo(tmp_path / "job.json")
    assert Journal(tmp_path).read("k") is None and read_job_note(tmp_path / "job.json") == {}


def test_what_a_job_says_of_itself(tmp_path: Path) -> None:
    folder = tmp_path / "d.job"
    folder.mkdir()
    raw = json.dumps({"threads": 2, "request": {}, "full_request": {"base": "b"}, "base": [["x", 1, 2, 3]]}).encode()
    for content in [*variants("job", raw), b"[" * 100_000, b'{"a": "\xff"}', b'{"threads": 1e9}', b'{"threads": 0}']:
        (folder / "job.json").write_bytes(content)
        note = read_job_note(folder / "job.json")
        assert not note or 0 < note["threads"] <= 4096
        try:
            assert read_request(folder)["output"] == str(tmp_path / "d")
        except DeltadeckError as error:
            assert error.remedy


# ------------------------------------------------------------------------------------------------------- calibration
def all_of(path: Path) -> int:
    return sum(1 for _ in documents(parse_source(str(path)), 0, offline=True))


def table(path: Path) -> bytes:
    rows = [{"text": f"sentence {i} of some length", "messages": [{"role": "user", "content": f"q{i}"}]} for i in range(20)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path.read_bytes()


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.parquet"])
def test_texts_to_calibrate_on(tmp_path: Path, name: str) -> None:
    rng, path = Random(name), tmp_path / name
    rows = [{"text": "one two"}, {"messages": [{"role": "user", "content": "hi"}, {"from": "gpt", "value": "ho"}]},
            {"prompt": "p", "response": ["x"]}, {"instruction": "i", "input": "j", "output": "k"}]
    raw = {"a.txt": b"One text.\n%%\nAnother.\n", "a.json": json.dumps(rows).encode(), "a.parquet": table(tmp_path / "a.parquet"),
           "a.jsonl": b"\n".join(json.dumps(r).encode() for r in rows)}[name]
    path.write_bytes(raw)
    assert all_of(path) >= 2
    for _ in range(TIMES):
        if name.startswith("a.json") and rng.random() < 0.6:
            spoilt = spoil_json(rng, rows)
            lines = spoilt if isinstance(spoilt, list) else [spoilt]
            content = json.dumps(spoilt).encode() if name == "a.json" else b"\n".join(json.dumps(r).encode() for r in lines)
        else:
            content = spoil_bytes(rng, raw)
        path.write_bytes(content)
        try:
            assert all_of(path) > 0
        except CalibrationUnusable as error:
            assert error.remedy.endswith(".") and len(str(error)) < 1500


def test_halves_of_characters_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a \\ud800 b"}\n{"messages": [{"role": "user", "content": "\\udfff"}]}\n')
    for document in documents(parse_source(str(tmp_path / "a.jsonl")), 0, offline=True):
        json.dumps(document, ensure_ascii=False).encode("utf-8")


def test_an_endless_line_is_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.calibration_sources.LONGEST_LINE", 1000)
    monkeypatch.setattr("core.calibration_sources.READ_AT_MOST", 1000)
    for content in ('{"text": "' + "x" * 5000 + '"}', "[" + '{"text": "x"},' * 500 + '{"text": "x"}]'):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(CalibrationUnusable, match="more than 1,000 characters"):
            all_of(tmp_path / "a.json")
    (tmp_path / "a.txt").write_text("word " * 5000)
    assert all_of(tmp_path / "a.txt") == 1, "of a long text the first part is read"


# -------------------------------------------------------------------------------------------------- folders and drops
def test_a_card_or_config_that_is_a_pipe_or_leads_out_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f'"sha256": "{"a" * 64}"\n}}\n')
    folder = tmp_path / "delta"
    folder.mkdir()
    os.mkfifo(folder / "README.md")
    (folder / "delta_config.json").symlink_to(tmp_path / "secret")
    assert read_card(folder) == "" and read_delta(folder).sha256 == ""
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to("../secret")
    assert read_card(folder) == ""


def test_an_index_may_name_no_file_that_no_disk_or_message_can_hold(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    for name in ("x" * 300 + ".safetensors", "a\nb.safetensors", "a/" * 600 + "x.safetensors", "é" * 200 + ".safetensors"):
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(BadIndex) as caught:
            open_checkpoint(tmp_path)
        assert len(str(caught.value)) < 1500 and "\n" not in str(caught.value)


@pytest.mark.parametrize(("key", "value"), [("num_hidden_layers", 10**9), ("n_layer", 300), ("num_experts", 10**8),
                                            ("encoder_layers", 10**7), ("num_hidden_layers", 10**3000)])
def test_no_config_asks_for_more_layers_than_there_can_be(tmp_path: Path, key: str, value: int) -> None:
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    (tmp_path / "model.safetensors").write_bytes(join_weights({"x": entry}, b"1234"))
    for config in ({key: value}, {"text_config": {key: value}}):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
        with pytest.raises(WeightsMissing, match="asks for") as caught:
            open_checkpoint(tmp_path)
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("offsets", [[10**4000, 10**4000 + 4], [-4, 0], [0, 2**63]])
def test_no_number_of_a_header_fills_the_message(tmp_path: Path, offsets: list[int]) -> None:
    (tmp_path / "config.json").write_text("{}")
    entry = {"dtype": "F32", "shape": [1], "data_offsets": offsets}
    (tmp_path / "model.safetensors").write_bytes(join_weights({"x": entry}, b"1234"))
    with pytest.raises(BadSafetensors) as caught:
        open_checkpoint(tmp_path)
    assert len(str(caught.value)) < 1000


def test_half_a_character_anywhere_in_a_header_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for text in (b'{"__metadata__": {"a": "\\ud800"}}', b'{"x": {"dtype": "\\uDC00", "shape": [], "data_offsets": [0, 4]}}'):
        (tmp_path / "model.safetensors").write_bytes(join_weights(text, b"1234"))
        with pytest.raises(BadSafetensors, match="not valid Unicode"):
            open_checkpoint(tmp_path)


DROPS = ["", "\0", "~nobody/x", "file:///etc", "http://example.org/x", "org/name", "-x", "\ud800", "a" * 10_000, "../..",
         "//host/share", "file:///" + "a" * 5000, "javascript:alert(1)", "data:text/html,x", "file://host/x", "file:///a%00b",
         "%2e%2e/%2e%2e", "\u202e"]


@pytest.mark.parametrize("text", DROPS, ids=lambda text: repr(text)[:20])
def test_what_is_dropped_or_pasted(text: str) -> None:
    data = QMimeData()
    data.setUrls([QUrl(text.encode("utf-8", "replace").decode()), QUrl.fromLocalFile(text.encode("utf-8", "replace").decode())])
    folder = dropped_folder(data)
    assert folder is None or folder.is_dir()
    assert isinstance(source_of(cleaned(text)), str) and isinstance(expanded(text), Path)
    if text not in ("", "../..", "-x"):
        with pytest.raises((CheckpointNotFound, EmptyFolder)) as refused:
            open_checkpoint(text, offline=True)
        with pytest.raises(CalibrationUnusable) as unusable:
            parse_source(f"{text}.txt")
        assert len(str(refused.value)) < 1500 and len(str(unusable.value)) < 1500
