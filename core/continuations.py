"""Log-likelihoods of given continuations, block by block: how a model scores the choices of a question.

Requests are sorted by length and padded on the right, which causal attention keeps out of what is scored. As many as one
pass's hidden states hold go through the model together; weights are read once per pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.fidelity import LOGITS_AT_ONCE
from core.skeleton import OUTER
from core.stream import TOKENS_AT_ONCE, Batches, carry
from core.weights import StagedModel, Weights

HIDDEN_BYTES = 1 << 30
"""Of the hidden states of one pass."""


@dataclass(frozen=True)
class Continuation:
    """Token ids: `scored` follows `context`, which holds at least one."""

    context: tuple[int, ...]
    scored: tuple[int, ...]


@dataclass(frozen=True)
class Score:
    """Sum of log p over the scored tokens, in nats, and whether each of them was the likeliest."""

    log_likelihood: float
    greedy: bool


def score(model: StagedModel, weights: Weights, requests: Sequence[Continuation], vocabulary: int, device: torch.device,
          tick: Callable[[], None] | None = None) -> list[Score]:
    """Score of each request, in their order. Ids and probabilities are over the first `vocabulary` entries.

    A text that is longer than the model's positions loses the beginning of its context.
    """
    longest = _positions(model)
    texts = [[min(i, vocabulary - 1) for i in (*r.context, *r.scored)][-(longest + 1):][:-1] for r in requests]
    found: list[Score | None] = [None] * len(requests)
    for batches in _passes(texts, model):
        ids = [_padded([texts[i] for i in rows]) for rows in batches]
        states = carry(model.skeleton, weights, Batches(ids, [False] * len(ids)), device, tick)
        outer = weights.stage(OUTER)
        with torch.inference_mode():
            for number, rows in enumerate(batches):
                hidden = states[number]
                for row, i in enumerate(rows):
                    scored = torch.tensor(requests[i].scored[-len(texts[i]):]).clamp_max(vocabulary - 1)
                    stop = len(texts[i])
                    span = slice(stop - len(scored), stop)
                    found[i] = _score(model, outer, ids[number][row, span], hidden[row, span], scored, vocabulary, device)
    return [s for s in found if s is not None]


def steps(model: StagedModel, requests: Sequence[Continuation]) -> int:
    """How often `score` ticks: once per batch and block."""
    longest = _positions(model)
    texts = [[0] * min(longest, len(r.context) + len(r.scored) - 1) for r in requests]
    return sum(len(batches) for batches in _passes(texts, model)) * model.skeleton.depth


def _score(model: StagedModel, outer: dict[str, Tensor], ids: Tensor, hidden: Tensor, scored: Tensor, vocabulary: int,
           device: torch.device) -> Score:
    total, greedy = 0.0, True
    if not len(scored):                                # an empty choice: certain, whatever the model
        return Score(total, greedy)
    at_once = max(1, LOGITS_AT_ONCE // vocabulary)
    for part, h, wanted in zip(ids.split(at_once), hidden.split(at_once), scored.split(at_once), strict=True):
        # One sequence of one token each: the head does not look sideways.
        logits = model.skeleton.epilogue(outer, part[:, None].to(device), h[:, None])[:, 0, :vocabulary].float().cpu()
        total += float(logits.log_softmax(-1).double().gather(1, wanted[:, None]).sum())
        greedy = greedy and bool((logits.argmax(-1) == wanted).all())
    return Score(total, greedy)


def _positions(model: StagedModel) -> int:
    text = model.skeleton.config.get_text_config()
    return int(getattr(text, "max_position_embeddings", None) or 2048)


def _passes(texts: Sequence[Sequence[int]], model: StagedModel) -> list[list[list[int]]]:
    """Numbers of texts, longest first, in batches and those in passes."""
    width = int(getattr(model.skeleton.config.get_text_config(), "hidden_size", 4096))
    room = max(TOKENS_AT_ONCE, HIDDEN_BYTES // (4 * width))
    passes: list[list[list[int]]] = [[]]
    held = 0
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    at = 0
    while at < len(order):
        longest = max(1, len(texts[order[at]]))
        rows = order[at:at + max(1, math.floor(TOKENS_AT_ONCE / longest))]
        if passes[-1] and held + len(rows) * longest > room:
            passes.append([])
            held = 0
        passes[-1].append(rows)
        held += len(rows) * longest
        at += len(rows)
    return passes


def _padded(texts: Sequence[Sequence[int]]) -> Tensor:
    longest = max(len(text) for text in texts)
    return torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts], dtype=torch.int64)
