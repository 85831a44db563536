"""Gradients of tuning: against the whole model at once, in FP32 and with products in bf16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from core.checkpoint import open_checkpoint
from core.codecs.sign import plane_scales
from core.errors import Cancelled
from core.events import TunePoint
from core.fit import keep_guess
from core.job import Job
from core.journal import Journal
from core.plan import PlanOptions, make_plan
from core.request import Request
from core.signs import pack_change, unpack_signs
from core.tune import Tuner
from core.variant import Variant
from core.weights import StagedModel, TensorWeights
from tests.models import (
    make_pair,
    one_thread,  # noqa: F401 (takes effect by being here)
    write_text,
)

CPU = torch.device("cpu")
IDS = torch.randint(2, 260, (3, 12), generator=torch.Generator().manual_seed(1))


def prepared(base: Path, tuned: Path, objective: str = "kl", narrow: bool = False) -> Tuner:
    a, b = open_checkpoint(base), open_checkpoint(tuned)
    plan = make_plan(a, b, PlanOptions(axis="row"))
    variant = Variant(a, b, plan.records)
    for record in plan.records:
        if record.codec == "sign":
            keep_guess(variant, record.name, CPU)
    model = StagedModel.of(b)
    tuner = Tuner(model, variant, TensorWeights(model, b.view, CPU), IDS, CPU, objective=objective)
    tuner.narrow = narrow
    tuner.prepare(IDS)
    return tuner


def whole_model(tuner: Tuner, base: Path, tuned: Path) -> dict[str, Tensor]:
    """Loss gradient into each row scale, from dense weights of the whole model."""
    student, teacher = (AutoModelForCausalLM.from_pretrained(p, dtype=torch.float32).eval() for p in (base, tuned))
    records, learnt = tuner.variant.records, tuner.variant.learnt
    scales = {n: torch.cat(plane_scales(records[n], learnt[n])).requires_grad_(True) for n in tuner.names}
    parameters = {**dict(student.named_parameters()),  # what is coded otherwise is the fine-tune's
                  **{n: tuner.variant.read(n) for n, r in records.items() if r.codec not in ("sign", "same")}}
    for name, scale in scales.items():
        record = records[name]
        before, after = tuner.variant.base_view(record), tuner.variant.tuned.view(name)
        assert before is not None
        signs = unpack_signs(pack_change(before, after), before.shape[1], torch.float32)
        rows = scale[:record.outputs]
        parameters[name] = before + signs * (rows if record.output_dimension else rows[:, None])
    logits = torch.func.functional_call(student, parameters, (IDS,)).logits
    with torch.no_grad():
        wanted = teacher(IDS).logits
    p = wanted.log_softmax(-1)
    divergence = (p.exp() * (p - logits.log_softmax(-1))).sum(-1).mean()
    loss = divergence if tuner.objective == "kl" else (logits - wanted).square().mean()
    loss.backward()
    return {"": loss.detach(), **{n: s.grad for n, s in scales.items() if s.grad is not None}}


def gradient(tuner: Tuner) -> tuple[float, Tensor]:
    return tuner._forward_backward(IDS, 0, tuner.scales(torch.zeros(tuner.size)), None)


@pytest.mark.parametrize(("architecture", "objective"), [
    ("llama", "kl"), ("llama", "mse"), ("llama-tied", "kl"), ("gemma2", "kl"), ("gpt2", "kl"), ("neox", "kl"), ("phi3", "mse")])
def test_gradients_are_those_of_the_whole_model(tmp_path: Path, architecture: str, objective: str) -> None:
    pair = make_pair(tmp_path, architecture, share=0.05)
    tuner = prepared(*pair, objective)
    wanted = whole_model(tuner, *pair)
    loss, found = gradient(tuner)
    assert loss == pytest.approx(float(wanted.pop("")), rel=0.02)      # scales are FP16 here
    assert set(wanted) == set(tuner.names)
    for name, slope in wanted.items():
        own = found[tuner.offsets[name]]
        assert float((own - slope).norm() / slope.norm()) < 0.05, name
    assert not tuner.unread


@pytest.mark.skipif(not torch.cpu._is_avx512_bf16_supported(), reason="this processor has no bf16 products")
@pytest.mark.parametrize(("architecture", "leaves_out"), [
    ("llama", True), ("qwen2", True), ("neox", True), ("gemma2", False), ("gpt2", False), ("mixtral", False)])
def test_narrow_gradients_agree_and_leave_out_what_is_only_added(tmp_path: Path, architecture: str, leaves_out: bool) -> None:
    pair = make_pair(tmp_path, architecture, share=0.05)
    exact = gradient(prepared(*pair))[1]
    tuner = prepared(*pair, narrow=True)
    first = gradient(tuner)[1]
    assert float(torch.cosine_similarity(first, exact, 0)) > 0.97
    assert (set(tuner.unread) == set(range(tuner.model.skeleton.depth))) == leaves_out
    assert torch.equal(gradient(tuner)[1], first)      # with the products left out


@pytest.mark.skipif(not torch.cpu._is_avx512_bf16_supported(), reason="this processor has no bf16 products")
def test_a_product_wrongly_left_out_is_made_after_all(tmp_path: Path) -> None:
    tuner = prepared(*make_pair(tmp_path, "gemma2", share=0.05), narrow=True)      # which has a norm behind it
    wanted = gradient(tuner)[1]
    tuner.unread = {0: "mlp.down_proj.weight"}
    assert torch.equal(gradient(tuner)[1], wanted)
    assert tuner.unread[0] == ""


@pytest.mark.parametrize(("recipe", "damaged"), [("deltamix-h", False), ("coded", False), ("coded", True)])
def test_killed_tuning_of_any_codec_goes_on_to_the_same_bytes(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, recipe: str,
                                                              damaged: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.tune_stage.SAVE_EVERY", -1.0)
    base, tuned = make_pair(tmp_path, "llama", tokenizer, num_hidden_layers=1)
    text = str(write_text(tmp_path))

    def job(name: str, points: list[TunePoint], stop: int) -> Job:
        request = Request(base=str(base), fine_tuned=str(tuned), output=str(tmp_path / name), calibration=text, samples=4,
                          tune_samples=100, sequence_length=24, recipe=recipe, embeddings="full")
        return Job(request, lambda event: points.append(event) if isinstance(event, TunePoint) else None,
                   lambda: len(points) > stop)
    whole: list[TunePoint] = []
    job("whole", whole, 99).run()
    with pytest.raises(Cancelled):
        job("stopped", [], 2).run()
    journal = Journal(tmp_path / "stopped.job")
    entry = journal.read("tune-state")
    assert entry is not None and entry.extra["step"] >= 1
    if damaged:                                        # as of a version that tuned fewer scales
        journal.write("tune-state", [], {"state": {k: v[1:] for k, v in entry.tensors["state"].items()}}, entry.extra)
    rest: list[TunePoint] = []
    monkeypatch.setattr("core.tune.OPENED_AT_MOST", 0)   # with less memory, so that each step unpacks anew
    job("stopped", rest, 99).run()
    assert (len(rest) == len(whole)) == damaged
    file = "delta_model.safetensors"
    assert (tmp_path / "stopped" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@pytest.mark.parametrize("step", ["block-0000-level-0", "block-0000-done", "tuned"])
@pytest.mark.parametrize("recipe", ["chosen", "coded"])
def test_an_attempt_that_ran_out_of_memory_leaves_nothing_in_the_next(tmp_path: Path, tokenizer: PreTrainedTokenizerFast,
                                                                     recipe: str, step: str,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned = make_pair(tmp_path, "llama", tokenizer, num_hidden_layers=1)
    text = str(write_text(tmp_path))

    def made(name: str) -> bytes:
        asked = Request(base=str(base), fine_tuned=str(tuned), output=str(tmp_path / name), calibration=text, samples=4,
                        tune_samples=8, sequence_length=24, recipe=recipe, embeddings="full")
        Job(asked, lambda event: None).run()
        return (tmp_path / name / "delta_model.safetensors").read_bytes()
    whole = made("whole")
    write = Journal.write
    failed: list[str] = []

    def failing(self: Journal, key: str, *rest: Any, **more: Any) -> None:
        if key == step and not failed:
            failed.append(key)
            raise MemoryError
        write(self, key, *rest, **more)
    monkeypatch.setattr(Journal, "write", failing)
    assert made("again") == whole and failed
