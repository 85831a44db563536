"""Plans as plain data: exact bytes, kinds, expectations; another recipe reads no weights again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import core.plan
from app.planning import PlanCache, PlanFacts, disk_free, fit_words, plan_facts, stored_words
from core.demo import tiny_trio
from core.errors import ArchitectureMismatch, BadOption
from core.record import Slice, TensorRecord
from tests.models import make_model, perturb, save_beside, save_model, tensors_of


def asked(tmp_path: Path, **more: Any) -> dict[str, Any]:
    trio = tiny_trio()
    return {"base": str(trio.base), "fine_tuned": str(trio.pirate), "output": str(tmp_path / "out"), **more}


@pytest.fixture
def facts(tmp_path: Path) -> PlanFacts:
    return plan_facts(asked(tmp_path), PlanCache())


def test_the_parts_make_the_whole(facts: PlanFacts) -> None:
    assert facts.weights_bytes == facts.sign_bytes + facts.rest_bytes and 0 < facts.sign_bytes < facts.weights_bytes
    data = sum(k.bytes for k in facts.kinds)
    assert data < facts.weights_bytes < data + 20_000           # headers come on top
    assert sum(k.full_bytes for k in facts.kinds) == facts.full_bytes and facts.ratio > 5
    assert facts.tensors == sum(len(k.dots) for k in facts.kinds) == 38


def test_kinds_carry_a_dot_per_block(facts: PlanFacts) -> None:
    kinds = {k.kind: k for k in facts.kinds}
    assert [d.block for d in kinds["q"].dots] == [0, 1, 2, 3] and [d.block for d in kinds["embed"].dots] == [None]
    changes = sorted(d.change for d in kinds["q"].dots)
    assert kinds["q"].median == pytest.approx((changes[1] + changes[2]) / 2)
    assert kinds["q"].stored == "sign, axis by layer" and kinds["embed"].stored == "2 signs, by row"


def test_the_job_is_told_which_layers_it_will_fit(facts: PlanFacts) -> None:
    assert ("model.layers.2.mlp.up_proj.weight", 2, "up", (384, 128)) in [e[:4] for e in facts.expect]
    assert len(facts.expect) == 4 * 7 + 1


def test_another_recipe_measures_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = PlanCache()
    calls: list[tuple[int, int]] = []
    first = plan_facts(asked(tmp_path), cache, progress=lambda done, of: calls.append((done, of)))
    assert calls[-1] == (38, 38)
    monkeypatch.setattr(core.plan, "measure_change", None)
    sizes = {recipe: plan_facts(asked(tmp_path, **options), cache).weights_bytes for recipe, options in {
        "bitdelta": {"recipe": "bitdelta"}, "both": {"axis": "both"}, "paper": {"recipe": "paper"},
        "full": {"embeddings": "full"}}.items()}
    assert sizes["bitdelta"] < first.weights_bytes == sizes["paper"] < sizes["both"] < sizes["full"]


def test_a_changed_file_is_measured_again(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", make_model("llama"))
    tuned = save_beside(tmp_path / "tuned", base, perturb(tensors_of(base), 0.02))
    cache = PlanCache()
    request = {"base": str(base), "fine_tuned": str(tuned), "output": str(tmp_path / "out")}
    before = plan_facts(request, cache)
    for file in tuned.iterdir():
        file.unlink()
    tuned.rmdir()
    save_beside(tuned, base, perturb(tensors_of(base), 0.2))
    after = plan_facts(request, cache)
    assert max(k.median for k in before.kinds) < 0.05 < max(k.median for k in after.kinds)


def test_samples_cost_time_not_bytes(tmp_path: Path) -> None:
    cache = PlanCache()
    few, many = (plan_facts(asked(tmp_path, samples=n), cache) for n in (4, 4000))
    assert few.weights_bytes == many.weights_bytes and few.seconds < many.seconds


def test_two_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    other = save_model(tmp_path / "base", make_model("llama"))
    with pytest.raises(ArchitectureMismatch):
        plan_facts(asked(tmp_path, base=str(other)), PlanCache())
    with pytest.raises(BadOption):
        plan_facts(asked(tmp_path, samples=1), PlanCache())


def record(codec: str, axis: str = "row", planes: int = 1) -> TensorRecord:
    slices = (Slice(0, 64, axis, 64),) if codec == "sign" else ()
    return TensorRecord(name="x", codec=codec, shape=(64, 64), dtype="BF16", base="x", base_shape=(64, 64), base_dtype="BF16",
                        slices=slices, planes=planes, exponents=(0,) * planes, rank=2 if codec == "lowrank" else 0)


@pytest.mark.parametrize(("records", "words"), [
    ([record("sign")] * 3, "sign, by row"), ([record("sign", "auto")], "sign, axis by layer"),
    ([record("sign", planes=2)], "2 signs, by row"), ([record("same")], "same as base"),
    ([record("sign")] * 3 + [record("lowrank")] * 2, "3 sign, 2 low rank"), ([record("sign"), record("sign", "column")], "sign"),
    ([record("full")] * 19 + [record("same")], "whole, 1 otherwise")])
def test_ways_of_storing_are_said_in_words(records: list[TensorRecord], words: str) -> None:
    assert stored_words(records) == words


def test_the_verdict_says_what_travels(facts: PlanFacts) -> None:
    assert fit_words(facts, True, False) == ("Fits: same architecture, same tokenizer", "38 tensors pair up.")
    assert "own tokenizer" in fit_words(facts, False, False)[1] and "chat template" in fit_words(facts, None, True)[1]


def test_free_space_is_told_before_the_folder_exists(tmp_path: Path) -> None:
    assert disk_free(tmp_path / "not" / "yet") > 0
