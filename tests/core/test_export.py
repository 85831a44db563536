"""Exported checkpoints: that transformers loads them, bit for bit the variant, whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from core.artifact import Delta
from core.checkpoint import open_checkpoint
from core.errors import Cancelled, DeltaCorrupt, NoSpace, OutputExists, WrongBase
from core.export import checkpoint_shards, export_checkpoint
from core.job import Job
from core.merge import merge_into, variant_model
from core.record import StoredTensor
from core.request import Request
from tests.models import make_pair, perturb, save_beside, tensors_of, write_text


def make_delta(folder: Path, base: Path, tuned: Path) -> Delta:
    """A delta fitted on next to nothing."""
    request = Request(base=str(base), fine_tuned=str(tuned), output=str(folder / "delta"), samples=3, tune_samples=0,
                      sequence_length=16, calibration=str(write_text(folder)), device="cpu")
    return Job(request, lambda event: None).run().delta


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True)


@pytest.mark.parametrize("architecture", ["llama", "llama-tied", "gpt2", "phi3", "mixtral"])
def test_an_exported_folder_loads_and_is_the_variant(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, architecture: str
) -> None:
    base, tuned = make_pair(tmp_path, architecture, tokenizer, dtype=torch.bfloat16)
    delta = make_delta(tmp_path, base, tuned)
    with open_checkpoint(base) as opened:
        made = export_checkpoint(delta, opened, tmp_path / "out")
        written = tensors_of(tmp_path / "out")
        assert written.keys() == delta.records.keys()
        for name, tensor in written.items():
            assert tensor.dtype == torch.bfloat16
            assert torch.equal(tensor, delta.variant(opened, name))
        merged = load(base)
        merge_into(merged, delta, opened, variant_model(delta, opened).placements)
    expected = {p.name for p in tuned.iterdir()}
    assert set(made.files) == expected == {p.name for p in (tmp_path / "out").iterdir()}
    loaded = load(tmp_path / "out")
    for name, parameter in merged.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], parameter), name
    assert not any(torch.equal(v, tensors_of(base)[k]) for k, v in written.items() if delta.records[k].codec == "sign")
    if architecture == "llama-tied":
        assert loaded.lm_head.weight.data_ptr() == loaded.get_input_embeddings().weight.data_ptr()


def test_a_grown_vocabulary_is_exported_whole(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    base, _ = make_pair(tmp_path, "llama-tied", tokenizer)
    tensors = perturb(tensors_of(base))
    name = "model.embed_tokens.weight"
    tensors[name] = torch.cat([tensors[name], torch.full((5, 32), 0.25)])
    tuned = save_beside(tmp_path / "grown", base, tensors, vocab_size=265)
    delta = make_delta(tmp_path, base, tuned)
    with open_checkpoint(base) as opened:
        export_checkpoint(delta, opened, tmp_path / "out")
        wanted = delta.variant(opened, name)
    loaded = load(tmp_path / "out")
    assert loaded.config.vocab_size == 265
    assert torch.equal(loaded.state_dict()[name], wanted)
    assert torch.equal(wanted[260:], torch.full((5, 32), 0.25))


def test_large_checkpoints_are_cut_into_files_with_an_index(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    base, tuned = make_pair(tmp_path, "llama", tokenizer)
    delta = make_delta(tmp_path, base, tuned)
    with open_checkpoint(base) as opened:
        made = export_checkpoint(delta, opened, tmp_path / "out", limit=40_000)
        whole = {name: delta.variant(opened, name) for name in delta.records}
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == whole.keys()
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in whole.values())
    assert len([f for f in made.files if f.endswith(".safetensors")]) == len(set(index["weight_map"].values())) > 2
    with open_checkpoint(tmp_path / "out") as written:
        assert all(torch.equal(written.view(name), tensor) for name, tensor in whole.items())
    loaded = load(tmp_path / "out").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in whole.items())


def test_shards_keep_order_and_limit() -> None:
    tensors = [StoredTensor(str(i), "F32", (size,)) for i, size in enumerate((10, 10, 30, 5, 5))]
    shards = checkpoint_shards(tensors, 80)
    assert [[t.name for t in s] for s in shards.values()] == [["0", "1"], ["2"], ["3", "4"]]
    assert list(shards) == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert list(checkpoint_shards(tensors)) == ["model.safetensors"]


def test_refusals_and_stops_leave_nothing_behind(tmp_path: Path, tokenizer: PreTrainedTokenizerFast,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned = make_pair(tmp_path, "llama", tokenizer)
    delta = make_delta(tmp_path, base, tuned)
    there = sorted(tmp_path.iterdir())

    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise Cancelled("Stop.")

    with open_checkpoint(base) as right, open_checkpoint(tuned) as wrong:
        with pytest.raises(OutputExists, match="exists already"):
            export_checkpoint(delta, right, base)
        with pytest.raises(WrongBase, match="not this delta's base"):
            export_checkpoint(delta, wrong, tmp_path / "out")
        with pytest.raises(Cancelled):
            export_checkpoint(delta, right, tmp_path / "out", progress=stop)
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        with pytest.raises(NoSpace, match="needs"):
            export_checkpoint(delta, right, tmp_path / "new" / "out")
    assert sorted(tmp_path.iterdir()) == there


def test_a_damaged_delta_is_not_exported(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    base, tuned = make_pair(tmp_path, "llama", tokenizer)
    delta = make_delta(tmp_path, base, tuned)
    weights = delta.folder / "delta_model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    weights.write_bytes(raw)
    with open_checkpoint(base) as opened, pytest.raises(DeltaCorrupt, match="damaged"):
        export_checkpoint(delta, opened, tmp_path / "out")
    assert not (tmp_path / "out").exists()
