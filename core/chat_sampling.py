"""Which token comes next: penalty on repetition, temperature, the k likeliest, the likeliest that make up p."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from core.chat_types import Sampling
from core.errors import DeltadeckError


class Sampler:
    """Draws one row's tokens.

    The random numbers depend on the seed alone, one per token, and pick from the choices in order of likelihood; so rows
    with the same seed and (up to rounding) the same logits say the same, whatever stands beside them.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int], ends: Collection[int], seed: int) -> None:
        """`prompt` counts as said for the penalty; `ends` are never penalised, or prompts of many turns would never end."""
        self.sampling, self.ends = sampling, frozenset(ends)
        self._random = torch.Generator().manual_seed(seed)
        self._said = set(prompt) - self.ends if sampling.repetition_penalty != 1 else set()
        self._index: Tensor | None = None              # of what was said, on the logits' device

    def next(self, logits: Tensor) -> int:
        """The next token for logits (vocabulary). Raises `DeltadeckError` for logits that are not finite."""
        s = self.sampling
        logits = self._penalised(logits)
        token = int(logits.argmax())
        if not math.isfinite(float(logits[token])):
            raise DeltadeckError("The model answers with values that are no numbers.", "No token can be chosen from them.",
                                 "Check its files (deltadeck verify), or load it on another device.")
        if s.temperature > 0:
            token = self._draw(logits)
        if s.repetition_penalty != 1 and token not in self._said and token not in self.ends:
            self._said.add(token)
            if self._index is not None:
                self._index = torch.cat([self._index, self._index.new_tensor([token])])
        return token

    def _penalised(self, logits: Tensor) -> Tensor:
        if self.sampling.repetition_penalty == 1:
            return logits
        if self._index is None:
            known = [t for t in self._said if t < len(logits)]
            self._index = torch.tensor(sorted(known), dtype=torch.long, device=logits.device)
        logits = logits.to(torch.float32, copy=True)
        seen = logits[self._index]
        logits[self._index] = torch.where(seen < 0, seen * self.sampling.repetition_penalty,
                                          seen / self.sampling.repetition_penalty)
        return logits

    def _draw(self, logits: Tensor) -> int:
        values, tokens = choices(logits, self.sampling)
        at = torch.rand((), generator=self._random, dtype=torch.float64)
        summed = values.double().cumsum(0).cpu()
        place = int(torch.searchsorted(summed, at * summed[-1], right=True))
        return int(tokens[min(place, len(tokens) - 1)])


def choices(logits: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """(probabilities, tokens) to draw from, likeliest first: logits (vocabulary) over temperature, cut to top-k, then top-p.

    Probabilities sum to one. Of top-p, the likeliest tokens that together reach p stay, at least one.
    """
    wide = (logits - logits.max()).float() / sampling.temperature      # at most 0, however low the temperature
    k = min(sampling.top_k or len(wide), len(wide))
    values, tokens = wide.topk(k)
    probabilities = values.softmax(0)
    if sampling.top_p < 1:
        before = probabilities.cumsum(0) - probabilities
        keep = max(1, int((before < sampling.top_p).sum()))
        probabilities, tokens = probabilities[:keep], tokens[:keep]
        probabilities = probabilities / probabilities.sum()
    return probabilities, tokens
