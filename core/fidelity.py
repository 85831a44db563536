"""How close a variant is to its fine-tune on held-out text, with the base as the zero.

KL is KL(fine-tune || model) per token in nats; top-1 the share of tokens whose likeliest next token agrees; ppl the
perplexity of the text's own next tokens, and its gap that to the fine-tune's. Means and quantiles are over tokens; their
standard errors over sequences (see `core.errorbars`: medians and 99th percentiles are bootstrapped), since tokens of one
sequence are not independent. Models run block by block, in FP32, from the weights as they are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from core.errorbars import Estimate, mean_error, perplexity, perplexity_gap, quantiles, remaining
from core.skeleton import OUTER
from core.stream import carry, cut_batches
from core.weights import StagedModel, Weights

LOGITS_AT_ONCE = 1 << 26
"""Logits held at a time, per model."""


@dataclass(frozen=True)
class Fidelity:
    """Of one model against the fine-tune. KL in nats per token; `kl_p99` is the 99th percentile over tokens, `kl_max` the
    largest seen (which has no standard error). `ppl_gap` is ppl minus the fine-tune's, its error paired over sequences."""

    kl_mean: float
    kl_se: float
    kl_p99: float
    top1: float
    ppl: float
    ppl_se: float
    kl_median: float
    kl_median_se: float
    kl_p99_se: float
    kl_max: float
    top1_se: float
    ppl_gap: float
    ppl_gap_se: float


@dataclass(frozen=True)
class Report:
    """Fidelity of base and variant, the fine-tune's own perplexity, and recovery = 1 - KL(variant) / KL(base)."""

    tokens: int
    base: Fidelity
    variant: Fidelity
    fine_tuned_ppl: float
    fine_tuned_ppl_se: float
    recovery_se: float

    @property
    def recovery(self) -> float:
        """1 = the fine-tune, 0 = the base; 1 where both are the fine-tune."""
        return recovery(self.variant.kl_mean, self.base.kl_mean)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as the command prints it."""
        return {"tokens": self.tokens, "base": asdict(self.base), "variant": asdict(self.variant),
                "fine_tuned": {"ppl": self.fine_tuned_ppl, "ppl_se": self.fine_tuned_ppl_se}, "recovery": self.recovery,
                "recovery_se": self.recovery_se}


@dataclass(frozen=True)
class Comparison:
    """What `compare_tokens` measures: per model its fidelity and each token's KL (sequences, tokens - 1)."""

    fidelity: dict[str, Fidelity]
    kl: dict[str, Tensor]
    ppl: Estimate
    """The fine-tune's own perplexity."""

    def recovery_error(self, variant: str, base: str) -> float:
        """Standard error of 1 - KL(variant) / KL(base), paired over sequences."""
        return remaining(self.kl[variant], self.kl[base])[1]


def recovery(variant: float, base: float) -> float:
    """1 - variant / base of two losses."""
    return 1 - variant / base if base > 0 else 1.0


def summarise(kl: Tensor, agree: Tensor, losses: Tensor, own: Tensor) -> Fidelity:
    """Fidelity from what each token gave, (sequences, tokens - 1) each: KL in nats, whether the likeliest token agrees, and
    -log p of the text's next token by the model and by the fine-tune."""
    (mean, error), (top1, top1_error) = mean_error(kl), mean_error(agree)
    (median, median_error), (worst, worst_error) = quantiles(kl, (0.5, 0.99))
    (ppl, ppl_error), (gap, gap_error) = perplexity(losses), perplexity_gap(losses, own)
    return Fidelity(mean, error, worst, top1, ppl, ppl_error, kl_median=median, kl_median_se=median_error,
                    kl_p99_se=worst_error, kl_max=float(kl.max()), top1_se=top1_error, ppl_gap=gap, ppl_gap_se=gap_error)


@dataclass
class _Tokens:
    kl: list[Tensor]
    agree: list[Tensor]
    nll: list[Tensor]


def log_probabilities(model: StagedModel, outer: Mapping[str, Tensor], ids: Tensor, hidden: Tensor, vocabulary: int) -> Tensor:
    """log p (sequences, tokens, vocabulary) from the last hidden states, over the first `vocabulary` entries."""
    return model.skeleton.epilogue(outer, ids, hidden)[..., :vocabulary].float().log_softmax(-1)


def compare(target: tuple[StagedModel, Weights], others: Mapping[str, tuple[StagedModel, Weights]], ids: Tensor,
            device: torch.device, tick: Callable[[], None] | None = None) -> tuple[dict[str, Fidelity], Estimate]:
    """`compare_tokens` without what single tokens cost: fidelities and the target's own (ppl, error)."""
    found = compare_tokens(target, others, ids, device, tick)
    return found.fidelity, found.ppl


def compare_tokens(target: tuple[StagedModel, Weights], others: Mapping[str, tuple[StagedModel, Weights]], ids: Tensor,
                   device: torch.device, tick: Callable[[], None] | None = None) -> Comparison:
    """Fidelity of each of `others` to `target` on token sequences (sequences, tokens); and the target's own ppl and error.

    Vocabularies of different sizes are compared over the entries that all have.
    """
    models = {"": target, **others}
    batches = cut_batches(ids)
    vocabulary = min(m.skeleton.vocabulary for m, _ in models.values())
    states = {name: carry(m.skeleton, w, batches, device, tick) for name, (m, w) in models.items()}
    outers = {name: w.stage(OUTER) for name, (_, w) in models.items()}
    sums = {name: _Tokens([], [], []) for name in others}
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
    losses = torch.cat(own)
    kl = {name: torch.cat(total.kl) for name, total in sums.items()}
    return Comparison({name: summarise(kl[name], torch.cat(total.agree), torch.cat(total.nll), losses)
                       for name, total in sums.items()}, kl, perplexity(losses))
