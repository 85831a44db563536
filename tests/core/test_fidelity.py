"""Fidelity figures: known numbers in, known figures out; and models against transformers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from core.checkpoint import Checkpoint, open_checkpoint
from core.fidelity import compare, compare_tokens, summarise
from core.weights import StagedModel, TensorWeights, Weights
from tests.models import (
    make_pair,
    one_thread,  # noqa: F401 (takes effect by being here)
)

CPU = torch.device("cpu")


def staged(checkpoint: Checkpoint) -> tuple[StagedModel, Weights]:
    model = StagedModel.of(checkpoint)
    return model, TensorWeights(model, checkpoint.view, CPU)


def test_figures_of_known_tokens() -> None:
    kl = torch.arange(200.0).reshape(4, 50) / 100                       # rows' means .245, .745, 1.245, 1.745
    agree = torch.zeros(4, 50, dtype=torch.bool)
    agree[:2] = True
    own = torch.tensor([0.0, 1.0, 2.0, 3.0])[:, None].expand(4, 50)
    found = summarise(kl, agree, own + math.log(1.5), own)
    row_error = math.sqrt(5 / 3) / 2                                     # of 0, 1, 2, 3
    assert found.kl_mean == pytest.approx(0.995)
    assert found.kl_se == pytest.approx(row_error / 2)
    assert found.kl_median == pytest.approx(0.995)
    assert found.kl_p99 == pytest.approx(1.9701)
    assert found.kl_max == pytest.approx(1.99)
    assert found.kl_median_se > found.kl_p99_se > 0
    assert (found.top1, found.top1_se) == pytest.approx((0.5, math.sqrt(1 / 3) / 2))
    assert (found.ppl, found.ppl_se) == pytest.approx((1.5 * math.exp(1.5), 1.5 * math.exp(1.5) * row_error))
    assert (found.ppl_gap, found.ppl_gap_se) == pytest.approx((0.5 * math.exp(1.5), 0.5 * math.exp(1.5) * row_error))


def test_models_are_compared_as_transformers_runs_them(tmp_path: Path) -> None:
    base, tuned = make_pair(tmp_path, "llama", share=0.3)
    ids = torch.randint(2, 250, (5, 12), generator=torch.Generator().manual_seed(0))

    def logp(folder: Path) -> Tensor:
        model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
        with torch.inference_mode():
            logits: Tensor = model(input_ids=ids).logits
        return logits.log_softmax(-1)[:, :-1]
    p, q = logp(tuned), logp(base)
    expected = (p.exp() * (p - q)).sum(-1)                              # (sequences, tokens - 1)
    with open_checkpoint(base) as zero, open_checkpoint(tuned) as target:
        found = compare_tokens(staged(target), {"base": staged(zero), "same": staged(target)}, ids, CPU)
        again, ppl = compare(staged(target), {"base": staged(zero)}, ids, CPU)
    assert torch.allclose(found.kl["base"], expected, atol=1e-5)
    assert found.fidelity["base"].top1 == pytest.approx(float((p.argmax(-1) == q.argmax(-1)).double().mean()))
    same = found.fidelity["same"]
    assert (same.kl_mean, same.kl_max, same.top1, same.ppl_gap, same.ppl_gap_se) == (0, 0, 1, 0, 0)
    assert found.recovery_error("same", "base") == 0
    assert again["base"] == found.fidelity["base"]
    loss = -p.gather(2, ids[:, 1:, None])[..., 0].mean()
    assert ppl[0] == found.ppl[0] == pytest.approx(math.exp(loss), rel=1e-4)
