"""What the pickers list, and the facts of one checkpoint."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from app.checkpoints import (
    Choice,
    big_count,
    cleaned,
    demo_choices,
    folder_of,
    hub_choices,
    is_hub_id,
    likely_bases,
    list_choices,
    name_of,
    read_facts,
    real_pair,
    shown_place,
    shown_source,
    source_of,
    weight_bytes,
)
from core.demo import tiny_trio
from core.errors import CheckpointNotFound


def test_importing_it_loads_no_engine() -> None:
    code = "import sys, app.checkpoints, app.planning; sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0


def test_facts_of_the_tiny_base() -> None:
    facts = read_facts(str(tiny_trio().base))
    assert (facts.name, facts.place, facts.model_type, facts.blocks, facts.width) == ("tiny-base", "demo", "llama", 4, 128)
    assert facts.bytes == weight_bytes(tiny_trio().base) and facts.files == 1 and facts.vocabulary == 1024
    assert dict(facts.lines())["Architecture"] == "Llama, 4 blocks, 128 wide"
    assert dict(facts.lines())["Chat template"] == "ChatML"
    assert shown_place(facts) == "built in"


def test_two_of_one_family_have_one_tokenizer() -> None:
    base, tuned = read_facts(str(tiny_trio().base)), read_facts(str(tiny_trio().pirate))
    assert base.tokenizer == tuned.tokenizer != ""


def test_a_folder_without_tokenizer_says_so(write_checkpoint: Callable[..., Path]) -> None:
    facts = read_facts(str(write_checkpoint({"a.weight": torch.zeros(4, 4)})))
    lines = dict(facts.lines())
    assert (facts.place, facts.has_tokenizer, facts.template) == ("folder", False, "")
    assert lines["Tokenizer"] == "none in the folder" and lines["Chat template"] == "none" and lines["Parameters"] == "16, fp32"


def test_an_unknown_template_is_its_own(write_checkpoint: Callable[..., Path]) -> None:
    folder = write_checkpoint({"a.weight": torch.zeros(4, 4)})
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    facts = read_facts(str(folder))
    assert facts.template == "own" and len(facts.template_digest) == 64


def test_a_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFound):
        read_facts(str(tmp_path / "nothing"))


@pytest.mark.parametrize(("given", "wanted"), [
    ('  "/tmp/a b" \n', "/tmp/a b"), ("org/name", "org/name"), ("https://huggingface.co/org/name", "org/name"),
    ("https://huggingface.co/org/name/tree/v2", "org/name@v2"), ("https://huggingface.co/org/name/tree/main", "org/name"),
    ("file:///tmp/a%20b", "/tmp/a b")])
def test_pasted_texts_are_understood(given: str, wanted: str) -> None:
    assert cleaned(given) == wanted


def test_names_and_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "models" / "clinic").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("org/name@main") and not is_hub_id("/tmp/name") and not is_hub_id("name")
    assert source_of("models/clinic") == str(tmp_path / "models" / "clinic") == source_of("~/models/clinic")
    assert source_of("org/name") == "org/name"
    assert name_of("org/name@v1") == "name" and name_of(str(tmp_path / "models" / "clinic")) == "clinic"
    assert shown_source(str(tmp_path / "models")) == "~/models" and shown_source("/elsewhere") == "/elsewhere"
    file = tmp_path / "models" / "clinic" / "model.safetensors"
    file.write_bytes(b"x" * 7)
    assert folder_of(file) == file.parent and weight_bytes(file.parent) == 7 and weight_bytes(tmp_path) is None


def test_counts_are_said_as_people_do() -> None:
    assert [big_count(n) for n in (8_030_261_248, 134_515_008, 918_656)] == ["8.03 billion", "134.5 million", "918,656"]


def cached_model(cache: Path, repo: str, files: dict[str, bytes]) -> None:
    """A model as the hub's cache keeps it."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("a" * 40)
    (folder / "refs").mkdir(parents=True)
    (folder / "blobs").mkdir()
    snapshot.mkdir(parents=True)
    (folder / "refs" / "main").write_text("a" * 40)
    for i, (name, content) in enumerate(files.items()):
        blob = folder / "blobs" / f"{i:040d}"
        blob.write_bytes(content)
        (snapshot / name).symlink_to(blob)


def test_the_hub_cache_lists_whole_models_only(tmp_path: Path) -> None:
    assert hub_choices(tmp_path / "none") == ()
    cached_model(tmp_path, "org/whole", {"config.json": b"{}", "model.safetensors": b"x" * 10, "README.md": b"long text"})
    cached_model(tmp_path, "org/tokenizer-only", {"config.json": b"{}", "tokenizer.json": b"{}"})
    cached_model(tmp_path, "org/pickles", {"config.json": b"{}", "pytorch_model.bin": b"x"})
    assert [(c.source, c.bytes) for c in hub_choices(tmp_path)] == [("org/whole", 10)]


def test_recent_ones_are_listed_where_they_still_exist(tmp_path: Path) -> None:
    cached_model(tmp_path / "hub", "org/whole", {"config.json": b"{}", "model.safetensors": b"x" * 10})
    (tmp_path / "mine").mkdir()
    recent = [str(tmp_path / "gone"), str(tmp_path / "mine"), "org/whole", "org/gone"]
    found = list_choices(recent, tmp_path / "demo", tmp_path / "hub")
    assert [(c.name, c.group) for c in found] == [("mine", "Recent"), ("whole", "Recent"), ("whole", "Hub cache"),
                                                  *((c.name, "Demo") for c in demo_choices(tmp_path / "demo"))]


def test_the_real_pair_counts_once_both_are_there(tmp_path: Path) -> None:
    shutil.copytree(tiny_trio().base, tmp_path / "base")
    assert real_pair(tmp_path) is None and len(demo_choices(tmp_path)) == 3
    shutil.copytree(tiny_trio().pirate, tmp_path / "pirate")
    assert real_pair(tmp_path) == (tmp_path / "base", tmp_path / "pirate") and len(demo_choices(tmp_path)) == 5


def test_likely_bases_have_the_fine_tunes_sizes(tmp_path: Path, write_checkpoint: Callable[..., Path]) -> None:
    other = write_checkpoint({"a.weight": torch.zeros(4, 4)}, {"model_type": "llama", "hidden_size": 7})
    trio = tiny_trio()
    choices = [Choice(str(p), p.name, "Recent", None) for p in (other, trio.pirate, trio.base, tmp_path / "gone")]
    assert [c.name for c in likely_bases(choices, read_facts(str(trio.pirate)))] == ["tiny-base"]
