"""How close a variant is to its fine-tune on held-out text, with the base as the zero.

KL is KL(fine-tune || model) per token in nats; top-1 the share of tokens whose likeliest next token agrees; ppl the
perplexity of the text's own next tokens. All are means over tokens; standard errors come from sequence means, since
tokens of one sequence are not independent. Models run block by block, in FP32, from the weights as they are stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from core.skeleton import OUTER
from core.stream import carry, cut_batches
from core.weights import StagedModel, Weights

LOGITS_AT_ONCE = 1 << 26
"""Logits held at a time, per model."""


@dataclass(frozen=True)
class Fidelity:
    """Of one model against the fine-tune. KL in nats per token; `kl_p99` is the 99th percentile over tokens."""

    kl_mean: float
    kl_se: float
    kl_p99: float
    top1: float
    ppl: float
    ppl_se: float


@dataclass(frozen=True)
class Report:
    """Fidelity of base and variant, the fine-tune's own perplexity, and recovery = 1 - KL(variant) / KL(base)."""

    tokens: int
    base: Fidelity
    variant: Fidelity
    fine_tuned_ppl: float
    fine_tuned_ppl_se: float

    @property
    def recovery(self) -> float:
        """1 = the fine-tune, 0 = the base; 1 where both are the fine-tune."""
        return recovery(self.variant.kl_mean, self.base.kl_mean)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as the command prints it."""
        return {"tokens": self.tokens, "base": asdict(self.base), "variant": asdict(self.variant),
                "fine_tuned": {"ppl": self.fine_tuned_ppl, "ppl_se": self.fine_tuned_ppl_se}, "recovery": self.recovery}


def recovery(variant: float, base: float) -> float:
    """1 - variant / base of two losses."""
    return 1 - variant / base if base > 0 else 1.0


@dataclass
class _Sums:
    kl: list[Tensor]
    agree: list[Tensor]
    nll: list[Tensor]

    def fidelity(self) -> Fidelity:
        kl, nll = torch.cat(self.kl), torch.cat(self.nll)             # (sequences, tokens - 1)
        mean, error = _mean_se(kl)
        loss, loss_error = _mean_se(nll)
        worst = float(torch.quantile(kl.flatten()[:1 << 24].double(), 0.99))
        agreement, perplexity = float(torch.cat(self.agree).double().mean()), math.exp(min(loss, 700))
        return Fidelity(mean, error, worst, agreement, perplexity, perplexity * loss_error)


def _mean_se(values: Tensor) -> tuple[float, float]:
    """Mean over all, and its standard error from the rows' means (nan for a single row)."""
    rows = values.double().mean(1)
    return float(rows.mean()), float(rows.std() / math.sqrt(len(rows))) if len(rows) > 1 else math.nan


def log_probabilities(model: StagedModel, outer: Mapping[str, Tensor], ids: Tensor, hidden: Tensor, vocabulary: int) -> Tensor:
    """log p (sequences, tokens, vocabulary) from the last hidden states, over the first `vocabulary` entries."""
    return model.skeleton.epilogue(outer, ids, hidden)[..., :vocabulary].float().log_softmax(-1)


def compare(target: tuple[StagedModel, Weights], others: Mapping[str, tuple[StagedModel, Weights]], ids: Tensor,
            device: torch.device, tick: Callable[[], None] | None = None) -> tuple[dict[str, Fidelity], tuple[float, float]]:
    """Fidelity of each of `others` to `target` on token sequences (sequences, tokens); and the target's own ppl and error.

    Vocabularies of different sizes are compared over the entries that all have.
    """
    models = {"": target, **others}
    batches = cut_batches(ids)
    vocabulary = min(m.skeleton.vocabulary for m, _ in models.values())
    states = {name: carry(m.skeleton, w, batches, device, tick) for name, (m, w) in models.items()}
    outers = {name: w.stage(OUTER) for name, (_, w) in models.items()}
    sums = {name: _Sums([], [], []) for name in others}
    own: list[Tensor] = []
    rows = max(1, LOGITS_AT_ONCE // (ids.shape[1] * vocabulary))
    with torch.inference_mode():
        for i, batch in enumerate(batches.ids):
            for at in range(0, len(batch), rows):
                part = batch[at:at + rows].to(device)
                next_ids = part[:, 1:].clamp_max(vocabulary - 1).unsqueeze(-1)

                def logp(name: str, i: int = i, at: int = at, part: Tensor = part) -> Tensor:
                    hidden = states[name][i][at:at + rows]
                    return log_probabilities(models[name][0], outers[name], part, hidden, vocabulary)[:, :-1]
                p = logp("")
                own.append(-p.gather(2, next_ids)[..., 0].cpu())
                top, exp = p.argmax(-1), p.exp()
                for name, total in sums.items():
                    q = logp(name)
                    total.nll.append(-q.gather(2, next_ids)[..., 0].cpu())
                    total.agree.append((q.argmax(-1) == top).cpu())
                    # Rounding can leave a KL of equal distributions a hair below zero.
                    total.kl.append(torch.sum(exp * (p - q), -1).clamp_min(0).cpu())
                if tick:
                    tick()
    loss, error = _mean_se(torch.cat(own))
    return {name: total.fidelity() for name, total in sums.items()}, (math.exp(loss), math.exp(loss) * error)
