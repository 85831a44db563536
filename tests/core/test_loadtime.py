"""Load times: what is reported, and that a merge makes the loaded base the variant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from core.checkpoint import open_checkpoint
from core.errors import BadOption, Cancelled, WrongBase
from core.loadtime import WAYS, cached_share, drop_pages, measure_load_times
from core.merge import merge_into, variant_model
from tests.core.test_export import make_delta
from tests.models import make_pair, perturb, save_beside, tensors_of


def test_all_ways_are_timed_warm_and_cold(tmp_path: Path, tokenizer: PreTrainedTokenizerFast,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned = make_pair(tmp_path, "llama", tokenizer)
    delta = make_delta(tmp_path, base, tuned)
    told: list[tuple[int, int]] = []
    with open_checkpoint(base) as zero, open_checkpoint(tuned) as target:
        times = measure_load_times(delta.folder, zero, target, repeats=2, progress=lambda done, of: told.append((done, of)))
        assert set(times.warm) == set(WAYS)
        for timing in (*times.warm.values(), *times.cold.values()):
            assert len(timing.runs) == 2
            assert 0 < timing.lowest <= timing.median <= timing.highest
        assert set(times.cold) == set(WAYS) or times.note
        assert told[-1] == (12, 12)
        assert times.delta_bytes == delta.weights_bytes < times.full_bytes == (tuned / "model.safetensors").stat().st_size
        assert times.written == sum(r.codec != "same" for r in delta.records.values()) < times.tensors == len(delta.records)

        monkeypatch.delattr(os, "posix_fadvise", raising=False)
        times = measure_load_times(delta.folder, zero, target, repeats=1)
        assert not times.cold
        assert "can't drop" in times.note
        with pytest.raises(BadOption):
            measure_load_times(delta.folder, zero, target, repeats=0)

        def stop(done: int, total: int) -> None:
            raise Cancelled("Stop.")
        with pytest.raises(Cancelled):
            measure_load_times(delta.folder, zero, target, repeats=1, progress=stop)


def test_a_base_of_another_vocabulary_is_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    base, _ = make_pair(tmp_path, "llama-tied", tokenizer)
    tensors = perturb(tensors_of(base))
    name = "model.embed_tokens.weight"
    tensors[name] = torch.cat([tensors[name], tensors[name][:4]])
    tuned = save_beside(tmp_path / "grown", base, tensors, vocab_size=264)
    delta = make_delta(tmp_path, base, tuned)
    with open_checkpoint(base) as zero, open_checkpoint(tuned) as target:
        with pytest.raises(WrongBase, match="in the variant"):
            measure_load_times(delta.folder, zero, target, repeats=1)
        model = AutoModelForCausalLM.from_pretrained(base)
        with pytest.raises(ValueError, match="the model has shape"):
            merge_into(model, delta, zero, variant_model(delta, zero).placements)


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="pages can't be dropped here")
def test_dropped_pages_are_gone_or_it_says_so(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(os.urandom(1 << 20))
    share = cached_share([path])
    assert share is None or share == 1
    problem = drop_pages([path])
    share = cached_share([path])
    assert share is None or (share <= 0.1) == (problem == "")
