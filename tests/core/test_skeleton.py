"""Stage by stage, a skeleton computes what the whole transformers model computes, for every architecture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from core.errors import TensorsMissing, UnsupportedModel
from core.skeleton import OUTER, Placement, Skeleton
from tests.models import (
    CONFIGS,
    VOCABULARY,
    make_model,
    one_thread,  # noqa: F401 (takes effect by being here)
    save_model,
    tensors_of,
)


def saved(folder: Path, architecture: str, **changes: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json and tensors of a random model with every parameter moved off its initial zeros and ones."""
    model = make_model(architecture, **changes)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    save_model(folder, model)
    return json.loads((folder / "config.json").read_text()), tensors_of(folder)


def shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {n: tuple(t.shape) for n, t in tensors.items()}


def staged_logits(skeleton: Skeleton, placements: dict[str, Placement], tensors: dict[str, Tensor], ids: Tensor) -> Tensor:
    stages: dict[int, list[Placement]] = {}
    for placement in placements.values():
        stages.setdefault(placement.stage, []).append(placement)
    outer = skeleton.assemble(stages[OUTER], tensors)
    with torch.inference_mode():
        prologue = skeleton.prologue(outer, ids)
        hidden = prologue.hidden
        for block in range(skeleton.depth):
            hidden = skeleton.run_block(block, skeleton.assemble(stages[block], tensors), hidden, prologue.calls[block])
        return skeleton.epilogue(outer, ids, hidden)


UNTIED = [(a, {"tie_word_embeddings": False}) for a in ("gemma", "gpt2", "opt", "gemma3")]
TIED = [(a, {"tie_word_embeddings": True}) for a in ("qwen3", "mistral", "neox", "mixtral")]
MORE: list[tuple[str, dict[str, Any]]] = [
    ("opt", {"do_layer_norm_before": False}), ("neox", {"use_parallel_residual": False}), ("phi3", {"sliding_window": 4}),
    ("qwen3moe", {"mlp_only_layers": [0]}), ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("llama", {"hidden_size": 60, "intermediate_size": 173, "num_attention_heads": 6}),
    ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}})]


@pytest.mark.parametrize(("architecture", "changes"), [*((a, {}) for a in CONFIGS), *UNTIED, *TIED, *MORE])
def test_stages_make_the_logits_of_the_whole_model(tmp_path: Path, architecture: str, changes: dict[str, Any]) -> None:
    config, tensors = saved(tmp_path / "m", architecture, **changes)
    skeleton = Skeleton(config)
    placements = skeleton.place(shapes(tensors))
    ids = torch.randint(0, VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(1))
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32).eval()
    with torch.inference_mode():
        wanted = whole(ids).logits
    assert wanted.std() > 1e-3
    found = staged_logits(skeleton, placements, tensors, ids)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert set(placements) == set(tensors)


@pytest.mark.parametrize("architecture", ["mixtral", "qwen3moe"])
def test_experts_are_stacked_as_transformers_loads_them(tmp_path: Path, architecture: str) -> None:
    config, tensors = saved(tmp_path / "m", architecture)
    assert any(".experts.3." in name for name in tensors)
    skeleton = Skeleton(config)
    placements = skeleton.place(shapes(tensors))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32).state_dict()
    for block in range(skeleton.depth):
        own = [p for p in placements.values() if p.stage == block]
        for path, value in skeleton.assemble(own, tensors).items():
            assert torch.equal(value, loaded[skeleton.prefix(block) + path]), path


def test_expert_numbers_above_nine_are_put_in_order(tmp_path: Path) -> None:
    config, tensors = saved(tmp_path / "m", "mixtral", num_local_experts=12, num_hidden_layers=1)
    skeleton = Skeleton(config)
    placements = skeleton.place(shapes(tensors))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32).state_dict()
    stacked = skeleton.assemble([p for p in placements.values() if p.stage == 0], tensors)
    assert torch.equal(stacked["mlp.experts.gate_up_proj"], loaded["model.layers.0.mlp.experts.gate_up_proj"])


def test_blocks_and_weights_of_the_ends_are_named(tmp_path: Path) -> None:
    config, _ = saved(tmp_path / "m", "gpt2")
    skeleton = Skeleton(config)
    assert (skeleton.depth, skeleton.tied, skeleton.vocabulary) == (2, True, VOCABULARY)
    assert skeleton.input_name == "transformer.wte.weight"
    assert skeleton.stage_of("transformer.h.1.mlp.c_fc.weight") == 1
    assert skeleton.stage_of("transformer.ln_f.weight") == OUTER


@pytest.mark.parametrize("equal", [True, False])
def test_a_tied_head_that_is_stored_too_is_used_as_transformers_uses_it(tmp_path: Path, equal: bool) -> None:
    config, tensors = saved(tmp_path / "m", "llama-tied")
    assert config["tie_word_embeddings"] and "lm_head.weight" not in tensors
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * (1.0 if equal else 2.0)
    save_file(tensors, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32).eval()
    skeleton = Skeleton(config)
    ids = torch.arange(2, 14).reshape(2, 6)
    with torch.inference_mode():
        wanted = whole(ids).logits
    torch.testing.assert_close(staged_logits(skeleton, skeleton.place(shapes(tensors)), tensors, ids), wanted)


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_names_with_and_without_the_backbones_prefix_are_placed(tmp_path: Path, prefix: str) -> None:
    config, tensors = saved(tmp_path / "m", "gpt2")
    renamed = {prefix + n.removeprefix("transformer."): t for n, t in tensors.items()}
    placements = Skeleton(config).place(shapes(renamed))
    assert {p.parameter for p in placements.values()} == set(tensors)


def test_a_missing_tensor_is_refused_by_name(tmp_path: Path) -> None:
    config, tensors = saved(tmp_path / "m", "llama")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(TensorsMissing, match="up_proj"):
        Skeleton(config).place(shapes(tensors))


def test_a_missing_expert_is_refused(tmp_path: Path) -> None:
    config, tensors = saved(tmp_path / "m", "mixtral")
    for gone in [n for n in tensors if "layers.1" in n and "experts.2.w1" in n]:
        del tensors[gone]
    with pytest.raises(TensorsMissing, match="experts"):
        Skeleton(config).place(shapes(tensors))


def test_a_tensor_without_a_place_is_refused_by_name(tmp_path: Path) -> None:
    config, tensors = saved(tmp_path / "m", "llama")
    with pytest.raises(UnsupportedModel, match="lora_A"):
        Skeleton(config).place(shapes(tensors) | {"model.layers.0.self_attn.q_proj.lora_A.weight": (4, 32)})


def test_a_shape_that_contradicts_the_config_is_refused(tmp_path: Path) -> None:
    config, tensors = saved(tmp_path / "m", "llama")
    with pytest.raises(UnsupportedModel, match="asks for"):
        Skeleton({**config, "intermediate_size": 50}).place(shapes(tensors))


@pytest.mark.parametrize("config", [
    {}, {"model_type": "no_such_model"},
    {"model_type": "bert", "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 5},
    {"model_type": "llama", "hidden_size": "wide"}, {"model_type": "vit"}, {"model_type": "t5", "num_layers": 2},
    {"model_type": "llama", "num_hidden_layers": 0}, {"model_type": "llama", "num_attention_heads": 0}])
def test_what_is_no_causal_language_model_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModel):
        Skeleton(config)
