"""Log-likelihoods of continuations against transformers, however they are batched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from core import continuations
from core.checkpoint import open_checkpoint
from core.continuations import Continuation, score, steps
from tests.core.test_fidelity import CPU, staged
from tests.models import (
    VOCABULARY,
    make_model,
    one_thread,  # noqa: F401 (takes effect by being here)
    save_model,
)


def requests(count: int, longest: int = 12) -> list[Continuation]:
    generator = torch.Generator().manual_seed(0)

    def ids(most: int) -> tuple[int, ...]:
        length = int(torch.randint(1, most + 1, (1,), generator=generator))
        return tuple(torch.randint(2, 250, (length,), generator=generator).tolist())
    return [Continuation(ids(longest), ids(4)) for _ in range(count)]


def expected(folder: Path, request: Continuation) -> tuple[float, bool]:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    ids = torch.tensor([[*request.context, *request.scored]])
    with torch.inference_mode():
        logp = model(input_ids=ids).logits[0, len(request.context) - 1:-1].log_softmax(-1)
    scored = torch.tensor(request.scored)
    return float(logp.gather(1, scored[:, None]).sum()), bool((logp.argmax(-1) == scored).all())


@pytest.mark.parametrize("architecture", ["llama-tied", "gpt2"])
def test_scores_are_those_of_transformers_in_any_batches(
    tmp_path: Path, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_model(tmp_path / "model", make_model(architecture))
    asked = requests(7)
    # What the model itself would say is greedy.
    with open_checkpoint(folder) as opened:
        model, weights = staged(opened)
        likeliest = next(i for i in range(VOCABULARY)
                         if score(model, weights, [Continuation((5, 6), (i,))], VOCABULARY, CPU)[0].greedy)
        asked.append(Continuation((5, 6), (likeliest,)))
        ticks: list[None] = []
        found = score(model, weights, asked, VOCABULARY, CPU, lambda: ticks.append(None))
        assert len(ticks) == steps(model, asked)
        monkeypatch.setattr(continuations, "TOKENS_AT_ONCE", 20)        # several batches, and passes of one batch each
        monkeypatch.setattr(continuations, "HIDDEN_BYTES", 0)
        assert steps(model, asked) > len(ticks)
        apart = score(model, weights, asked, VOCABULARY, CPU)
    for mine, again, request in zip(found, apart, asked, strict=True):
        value, greedy = expected(folder, request)
        assert mine.log_likelihood == pytest.approx(value, abs=1e-4)
        assert again.log_likelihood == pytest.approx(value, abs=1e-4)
        assert mine.greedy == again.greedy == greedy
    assert found[-1].greedy
    assert not all(s.greedy for s in found)


def test_long_contexts_lose_their_beginning_and_empty_choices_are_certain(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", make_model("gpt2"))          # 64 positions
    tail = tuple(range(10, 10 + 62))
    with open_checkpoint(folder) as opened:
        model, weights = staged(opened)
        asked = [Continuation((9,) * 50 + (4,) + tail, (7, 8)), Continuation((4, *tail), (7, 8)), Continuation((4,), ())]
        cut, whole, empty = score(model, weights, asked, VOCABULARY, CPU)
    assert cut.log_likelihood == pytest.approx(whole.log_likelihood, abs=1e-4)
    assert (empty.log_likelihood, empty.greedy) == (0, True)
