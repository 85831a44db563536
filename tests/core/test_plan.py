"""The plan: which codec each change gets, how fused matrices are cut, what is warned of, and bytes known beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from core.checkpoint import open_checkpoint
from core.errors import ArchitectureMismatch, BadOption, NotFinite, TensorsMissing
from core.plan import Plan, PlanOptions, is_router, make_plan, plan_from, record_bytes, survey
from core.record import TensorRecord
from tests.models import (
    Tensors,
    make_model,
    make_pair,
    one_thread,  # noqa: F401 (takes effect by being here)
    perturb,
    save_beside,
    save_model,
    tensors_of,
)

BLOCK = "model.layers.0."


def plan(base: Path, tuned: Path, **options: Any) -> Plan:
    with open_checkpoint(base) as first, open_checkpoint(tuned) as second:
        return make_plan(first, second, PlanOptions(**options))


def plan_of(folder: Path, tensors: Tensors, base: Path, **options: Any) -> dict[str, TensorRecord]:
    tuned = save_beside(folder / "tuned", base, tensors)
    return {r.name: r for r in plan(base, tuned, **options).records}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_model(tmp_path / "base", make_model("llama"))


def test_kinds_blocks_and_changes_are_recorded(tmp_path: Path, base: Path) -> None:
    records = plan_of(tmp_path, perturb(tensors_of(base), 0.02), base)
    kinds = {n.removeprefix(BLOCK): r.kind for n, r in records.items() if n.startswith(BLOCK)}
    assert kinds == {"self_attn.q_proj.weight": "q", "self_attn.k_proj.weight": "k", "self_attn.v_proj.weight": "v",
                     "self_attn.o_proj.weight": "o", "mlp.gate_proj.weight": "gate", "mlp.up_proj.weight": "up",
                     "mlp.down_proj.weight": "down", "input_layernorm.weight": "norm", "post_attention_layernorm.weight": "norm"}
    assert records["model.embed_tokens.weight"].kind == "embed" and records["lm_head.weight"].kind == "head"
    assert records["model.norm.weight"].block is None and records["model.layers.1.mlp.up_proj.weight"].block == 1
    assert records[f"{BLOCK}mlp.up_proj.weight"].change == pytest.approx(0.02, rel=0.05)
    assert records[f"{BLOCK}mlp.up_proj.weight"].unchanged == 0.0


@pytest.mark.parametrize(("architecture", "wanted"), [
    ("gpt2", {"c_attn": "qkv", "c_fc": "up"}),
    ("neox", {"query_key_value": "qkv", "dense_h_to_4h": "up", "dense_4h_to_h": "down"}),
    ("opt", {"fc1": "up", "fc2": "down", "out_proj": "o"}), ("mixtral", {"w1": "gate", "w2": "down", "w3": "up"})])
def test_kinds_of_other_architectures(tmp_path: Path, architecture: str, wanted: dict[str, str]) -> None:
    first, second = make_pair(tmp_path, architecture)
    records = plan(first, second).records
    for leaf, kind in wanted.items():
        assert {r.kind for r in records if r.name.endswith(f"{leaf}.weight")} == {kind}
    assert all(r.output_dimension == (architecture == "gpt2") for r in records if r.codec == "sign")


def test_gpt2s_projections_are_told_apart(tmp_path: Path) -> None:
    records = plan(*make_pair(tmp_path, "gpt2")).records
    assert {r.name.split(".")[-3]: r.kind for r in records if r.name.endswith("c_proj.weight")} == {"attn": "o", "mlp": "down"}


def change_one(tensors: Tensors, how: str) -> Tensor:
    matrix = tensors[f"{BLOCK}mlp.up_proj.weight"]     # (48, 32)
    generator = torch.Generator().manual_seed(1)
    noise = 0.01 * torch.randn(matrix.shape, generator=generator)
    if how == "rows":
        matrix[[3, 40]] += noise[[3, 40]] + 0.1
    elif how == "sparse":
        matrix[torch.arange(9), torch.arange(9)] += 0.1
    elif how == "lowrank":
        matrix += torch.randn(48, 2, generator=generator) @ torch.randn(2, 32, generator=generator)
    elif how == "sign":
        matrix += noise
    return matrix


@pytest.mark.parametrize("how", ["same", "rows", "sparse", "lowrank", "sign"])
def test_each_change_gets_its_codec(tmp_path: Path, base: Path, how: str) -> None:
    tensors = tensors_of(base)
    change_one(tensors, how)
    options = {"axis": "both"} if how == "lowrank" else {}             # the smaller signs, the smaller factors must be
    record = plan_of(tmp_path, tensors, base, **options)[f"{BLOCK}mlp.up_proj.weight"]
    if how == "lowrank":
        assert (record.codec, record.rank) == ("lowrank", 2)
    else:
        assert record.codec == how
    assert record_bytes(record) <= 48 * 32 * 4


def test_small_and_one_dimensional_tensors_are_exact(tmp_path: Path, base: Path) -> None:
    moved = perturb(tensors_of(base), 0.01, only=lambda n, t: True)
    records = plan_of(tmp_path, moved, base)
    assert records[f"{BLOCK}self_attn.k_proj.weight"].codec == "full"  # 16 x 32 entries
    assert records["model.norm.weight"].codec in ("full", "sparse")


def test_routers_are_exact(tmp_path: Path) -> None:
    first, second = make_pair(tmp_path, "mixtral", hidden_size=48, num_local_experts=24, intermediate_size=32)
    records = plan(first, second).records
    routers = [r for r in records if is_router(r.name)]
    assert len(routers) == 2 and all(r.shape == (24, 48) and r.codec == "full" for r in routers)


def test_no_router_is_seen_in_a_dense_model(tmp_path: Path) -> None:
    assert not is_router(f"{BLOCK}mlp.gate_proj.weight")
    assert is_router(f"{BLOCK}mlp.gate.weight") and is_router(f"{BLOCK}block_sparse_moe.gate.weight")


@pytest.mark.parametrize(("options", "axis", "planes", "outer"), [
    ({}, "auto", 1, "row"), ({"axis": "both"}, "both", 1, "row"), ({"axis": "scalar"}, "scalar", 1, "row"),
    ({"axis": "column"}, "column", 1, "row"), ({"recipe": "bitdelta"}, "scalar", 1, "scalar")])
def test_axes_follow_the_options(tmp_path: Path, base: Path, options: dict[str, Any], axis: str, planes: int, outer: str) -> None:
    records = plan_of(tmp_path, perturb(tensors_of(base), 0.01), base, **options)
    up, embed = records[f"{BLOCK}mlp.up_proj.weight"], records["model.embed_tokens.weight"]
    assert [(s.axis, up.planes) for s in up.slices] == [(axis, planes)]
    assert [s.slots for s in up.slices] == [{"auto": 48, "both": 80, "scalar": 1, "column": 32}[axis]]
    assert [s.axis for s in embed.slices] == [outer]
    assert embed.planes == (1 if options.get("recipe") == "bitdelta" else 2)


def test_fused_projections_are_cut_where_their_parts_meet(tmp_path: Path) -> None:
    records = {r.name.split(".")[-2]: r for r in plan(*make_pair(tmp_path, "phi3")).records if r.block == 0}
    assert [(s.start, s.stop) for s in records["qkv_proj"].slices] == [(0, 32), (32, 48), (48, 64)]
    assert [(s.start, s.stop) for s in records["gate_up_proj"].slices] == [(0, 48), (48, 96)]
    assert len(records["o_proj"].slices) == 1


def test_embeddings_in_full(tmp_path: Path, base: Path) -> None:
    records = plan_of(tmp_path, perturb(tensors_of(base), 0.01), base, embeddings="full")
    assert {records[n].codec for n in ("model.embed_tokens.weight", "lm_head.weight")} == {"full"}


@pytest.mark.parametrize("options", [{"recipe": "r"}, {"axis": ""}, {"embeddings": "half"}])
def test_unknown_options_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(BadOption, match="Choose one of"):
        PlanOptions(**options)


def test_progress_counts_all_tensors(base: Path) -> None:
    seen: list[tuple[int, int]] = []
    with open_checkpoint(base) as opened:
        found = make_plan(opened, opened, PlanOptions(), lambda i, n: seen.append((i, n)))
    assert seen == [(i, len(found.records)) for i in range(len(found.records) + 1)]
    assert found.full_bytes == sum(t.numel() * 4 for t in tensors_of(base).values())


def test_what_is_no_fine_tune_is_warned_of(tmp_path: Path, base: Path) -> None:
    tuned = save_model(tmp_path / "tuned", make_model("llama", seed=7))
    assert any("more than half" in w for w in plan(base, tuned).warnings)
    assert plan(base, save_beside(tmp_path / "near", base, perturb(tensors_of(base)))).warnings == ()


def test_a_config_that_leaves_the_default_out_is_no_other_way_of_tying(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", make_model("gpt2"))
    silent = save_beside(tmp_path / "tuned", base, perturb(tensors_of(base)), tie_word_embeddings=None)
    assert not any("tied" in w for w in plan(base, silent).warnings)


def test_refusals(tmp_path: Path, base: Path) -> None:
    with pytest.raises(ArchitectureMismatch, match="'mistral'"):
        plan(base, save_model(tmp_path / "a", make_model("mistral")))
    with pytest.raises(ArchitectureMismatch, match="num_key_value_heads"):
        plan(base, save_model(tmp_path / "b", make_model("llama", num_key_value_heads=4)))
    tensors = tensors_of(base)
    tensors[f"{BLOCK}mlp.up_proj.weight"][5, 5] = float("nan")
    with pytest.raises(NotFinite, match="up_proj"):
        plan(base, save_beside(tmp_path / "c", base, tensors))
    del tensors[f"{BLOCK}mlp.up_proj.weight"]
    with pytest.raises(TensorsMissing, match="up_proj"):
        plan(base, save_beside(tmp_path / "d", base, tensors))


def test_huge_but_finite_weights_are_no_infinities(tmp_path: Path, base: Path) -> None:
    tensors = tensors_of(base)
    tensors["model.norm.weight"][:] = 3e38
    record = plan_of(tmp_path, tensors, base)["model.norm.weight"]
    assert record.codec == "full" and 1e37 < record.change < 1e39


@pytest.mark.parametrize("options", [{}, {"recipe": "bitdelta"}, {"recipe": "paper", "axis": "both"}, {"embeddings": "full"},
                                     {"axis": "column"}, {"axis": "scalar", "embeddings": "full"}])
def test_a_survey_gives_the_plan_of_every_option_without_weights(tmp_path: Path, base: Path, options: dict[str, str]) -> None:
    tensors = perturb(tensors_of(base), 0.02)
    name = f"{BLOCK}mlp.gate_proj.weight"
    left, right = torch.randn(tensors[name].shape[0], 2), torch.randn(2, tensors[name].shape[1])
    tensors[name] = tensors_of(base)[name] + 0.01 * left @ right
    tuned = save_beside(tmp_path / "tuned", base, tensors)
    with open_checkpoint(base) as first, open_checkpoint(tuned) as second:
        found = survey(first, second)
        wanted = make_plan(first, second, PlanOptions(**options))
    assert plan_from(found, PlanOptions(**options)) == wanted
