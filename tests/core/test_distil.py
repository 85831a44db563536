"""Divergence from differences of logits: against plain FP32 logits and autograd."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from core import distil as module
from core.distil import distil, head_inputs
from core.skeleton import OUTER, Skeleton
from core.weights import StagedModel, TensorWeights
from tests.models import make_model, save_model, tensors_of

CPU = torch.device("cpu")


def data(drift: float, tokens: int = 37, width: int = 16, vocabulary: int = 101) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    target, noise = (torch.randn(tokens, width, generator=generator) for _ in range(2))
    return target + drift * noise, target, torch.randn(vocabulary, width, generator=generator)


def plain(x: Tensor, target: Tensor, weight: Tensor, objective: str) -> tuple[float, Tensor]:
    """Loss and gradient from whole logits in FP64."""
    x = x.double().requires_grad_(True)
    logits, wanted = x @ weight.double().T, target.double() @ weight.double().T
    if objective == "mse":
        loss = (logits - wanted).square().mean(-1).sum()
    else:
        p = wanted.log_softmax(-1)
        loss = (p.exp() * (p - logits.log_softmax(-1))).sum()
    loss.backward()
    assert x.grad is not None
    return float(loss.detach()), x.grad.float()


@pytest.mark.parametrize("objective", ["kl", "mse"])
@pytest.mark.parametrize("drift", [0.001, 0.1, 3.0])
@pytest.mark.parametrize("at_once", [1 << 25, 1000])
def test_loss_and_gradient_are_those_of_whole_logits(monkeypatch: pytest.MonkeyPatch, objective: str, drift: float,
                                                     at_once: int) -> None:
    monkeypatch.setattr(module, "LOGITS_AT_ONCE", at_once)
    x, target, weight = data(drift)
    wanted, slope = plain(x, target, weight, objective)
    total, gradient = distil(x, target, weight, objective, True)
    assert float(total) == pytest.approx(wanted, rel=1e-5, abs=2e-6)      # FP32 logarithms near 0, one per token
    assert gradient is not None
    assert float((gradient - slope).norm() / slope.norm()) < 2e-4
    assert distil(x, target, weight, objective, False)[1] is None
    narrow, gradient = distil(x, target, weight.bfloat16(), objective, True)
    assert gradient is not None and gradient.dtype == torch.float32
    assert float(narrow) == pytest.approx(wanted, rel=0.02)
    assert float((gradient - slope).norm() / slope.norm()) < 0.03


def test_equal_states_are_no_loss_and_far_ones_a_finite_one() -> None:
    _, target, weight = data(0.0)
    total, gradient = distil(target, target, weight, "kl", True)
    assert float(total) == pytest.approx(0, abs=1e-5)
    assert gradient is not None and float(gradient.abs().max()) < 1e-6
    total, gradient = distil(-30 * target, target, weight, "kl", True)
    assert gradient is not None and bool(gradient.isfinite().all())
    assert float(total) > 100


@pytest.mark.parametrize(("architecture", "found"), [("llama", True), ("llama-tied", True), ("gemma2", False)])
def test_inputs_of_a_head_that_is_one_product(tmp_path: Path, architecture: str, found: bool) -> None:
    save_model(tmp_path / "m", make_model(architecture))
    tensors = tensors_of(tmp_path / "m")
    skeleton = Skeleton(json.loads((tmp_path / "m" / "config.json").read_text()))
    model = StagedModel(skeleton, skeleton.place({n: tuple(t.shape) for n, t in tensors.items()}))
    outer = TensorWeights(model, tensors.__getitem__, CPU).stage(OUTER)
    ids = torch.randint(0, 260, (2, 5))
    hidden = torch.randn(2, 5, outer[skeleton.output_name or ""].shape[1])
    x = head_inputs(skeleton, outer, ids, hidden)
    assert (x is not None) == found                    # Gemma 2 caps its logits
    if x is not None:
        torch.testing.assert_close(x @ outer[skeleton.output_name or ""].T, skeleton.epilogue(outer, ids, hidden))
