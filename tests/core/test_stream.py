"""What flows through the blocks: levels, watched inputs, hidden states in memory and in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from core import stream
from core.skeleton import OUTER, Skeleton
from core.stream import Batches, Hidden, advance, carry, cut_batches, levels, start, uses
from core.weights import StagedModel, TensorWeights
from tests.models import (
    make_model,
    one_thread,  # noqa: F401 (takes effect by being here)
    save_model,
    tensors_of,
)

CPU = torch.device("cpu")
IDS = torch.randint(0, 260, (6, 10), generator=torch.Generator().manual_seed(1))


def staged(folder: Path, architecture: str, **changes: Any) -> tuple[StagedModel, TensorWeights]:
    save_model(folder / "m", make_model(architecture, **changes))
    tensors = tensors_of(folder / "m")
    skeleton = Skeleton(json.loads((folder / "m" / "config.json").read_text()))
    model = StagedModel(skeleton, skeleton.place({n: tuple(t.shape) for n, t in tensors.items()}))
    return model, TensorWeights(model, tensors.__getitem__, CPU)


LEVELS: dict[str, list[tuple[str, ...]]] = {
    "llama": [("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",)],
    "gemma2": [("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",)],
    "phi3": [("qkv_proj",), ("o_proj",), ("gate_up_proj",), ("down_proj",)],
    "gpt2": [("c_attn",), ("c_proj",), ("c_fc",), ("c_proj",)],
    "opt": [("q_proj", "k_proj", "v_proj"), ("out_proj",), ("fc1",), ("fc2",)],
    "neox": [("query_key_value",), ("dense",), ("dense_h_to_4h",), ("dense_4h_to_h",)],
    "mixtral": [("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate",), ("gate_up_proj",), ("down_proj",)]}


@pytest.mark.parametrize("architecture", LEVELS)
def test_levels_follow_the_data(tmp_path: Path, architecture: str) -> None:
    model, weights = staged(tmp_path, architecture)
    batches = cut_batches(IDS)
    hidden = start(model.skeleton, weights, batches, CPU)
    found = levels(model.skeleton, 1, weights.stage(1), hidden[0], batches.calls[0][1])
    names = [tuple(p.removesuffix(".weight").rpartition(".")[2] for p in level.parameters) for level in found]
    assert [tuple(sorted(n)) for n in names] == [tuple(sorted(n)) for n in LEVELS[architecture]]
    assert [level.experts for level in found] == [architecture == "mixtral" and i > 2 for i in range(len(found))]


def test_watched_inputs_are_those_of_the_layers(tmp_path: Path) -> None:
    model, weights = staged(tmp_path, "llama")
    batches = cut_batches(IDS)
    hidden = start(model.skeleton, weights, batches, CPU)
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32).eval()
    seen: dict[str, Tensor] = {}
    block = whole.model.layers[0]
    for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"):
        block.get_submodule(name).register_forward_hook(
            lambda m, args, out, key=f"{name}.weight": seen.__setitem__(key, args[0]))
    with torch.inference_mode():
        whole(IDS)
    found = {u.parameter: u.inputs for u in uses(model.skeleton, 0, weights.stage(0), hidden[0], batches.calls[0][0])}
    for name, inputs in seen.items():
        torch.testing.assert_close(found[name], inputs)
    only = list(uses(model.skeleton, 0, weights.stage(0), hidden[0], batches.calls[0][0], frozenset(["self_attn.o_proj.weight"])))
    assert [u.parameter for u in only] == ["self_attn.o_proj.weight"]


def test_experts_see_the_tokens_that_are_sent_to_them(tmp_path: Path) -> None:
    model, weights = staged(tmp_path, "mixtral")
    batches = cut_batches(IDS)
    hidden = start(model.skeleton, weights, batches, CPU)
    found = list(uses(model.skeleton, 0, weights.stage(0), hidden[0], batches.calls[0][0],
                      frozenset(["mlp.experts.gate_up_proj"]), whole=True))
    assert len({u.expert for u in found}) == len(found) and {u.expert for u in found} <= set(range(4))
    assert sum(u.inputs.shape[0] for u in found) == 2 * IDS.numel()


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
@pytest.mark.parametrize("at_once", [10, 25, 4096])
def test_batches_carry_the_same_states_whatever_their_size(tmp_path: Path, architecture: str, at_once: int) -> None:
    model, weights = staged(tmp_path, architecture)
    batches = cut_batches(IDS[:4], IDS[4:], at_once)
    assert batches.tokens == IDS.numel()
    assert batches.held_out == sorted(batches.held_out) and any(batches.held_out) and not all(batches.held_out)
    hidden = carry(model.skeleton, weights, batches, CPU)
    states = torch.cat([hidden[i] for i in range(len(batches.ids))])
    with torch.inference_mode():
        logits = model.skeleton.epilogue(weights.stage(OUTER), IDS, states)
        wanted = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32).eval()(IDS).logits
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-5)


def test_equal_calls_are_held_once(tmp_path: Path) -> None:
    model, weights = staged(tmp_path, "llama")
    batches = cut_batches(IDS, at_once=20)
    start(model.skeleton, weights, batches, CPU)
    assert len(batches.calls) == 3 and batches.calls[0] is batches.calls[1] is batches.calls[2]


def test_states_spill_to_a_file_and_stay_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, weights = staged(tmp_path, "llama")
    results = []
    for limit in (1 << 30, 0):
        monkeypatch.setattr(stream, "SPILL_FROM", limit)
        batches = cut_batches(IDS, at_once=20)
        hidden = start(model.skeleton, weights, batches, CPU, tmp_path, "states")
        assert (tmp_path / "states.bin").exists() == (limit == 0)
        for block in range(model.skeleton.depth):
            advance(model.skeleton, block, weights.stage(block), hidden, batches)
        results.append(torch.cat([hidden[i].clone() for i in range(len(batches.ids))]))
        hidden.drop()
        assert not (tmp_path / "states.bin").exists()
    assert torch.equal(*results)


def test_a_file_left_by_a_killed_job_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "SPILL_FROM", 0)
    (tmp_path / "states.bin").write_bytes(b"\xff" * 100_000)
    hidden = Hidden(Batches([IDS], [False]), 4, CPU, tmp_path, "states")
    hidden[0] = torch.ones(6, 10, 4)
    assert torch.equal(hidden[0], torch.ones(6, 10, 4))
