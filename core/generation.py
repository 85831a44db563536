"""How long a variant gives the answer that its fine-tune gives: greedy tokens until the first difference.

Up to their first difference two greedy answers are the same text, so only the fine-tune has to be decoded (batched, with
a cache of keys and values). Every other model then reads prompt and answer in one pass: its answer leaves the fine-tune's
where its likeliest token first differs. For the same reason of arithmetic, the fine-tune's likeliest tokens are those of
such a pass too: equal weights agree to the last token. All models run block by block in FP32, so that one block, the
hidden states and the cache are what is held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedTokenizerBase

from core.chat_template import render_chat
from core.errorbars import common_prefix, mean_error, quantiles
from core.fidelity import LOGITS_AT_ONCE
from core.skeleton import OUTER
from core.stream import Batches, carry
from core.weights import StagedModel, Weights
from resources.demo.chats import HELD_OUT_PROMPTS

PROMPT_TOKENS = 32
"""Length of a prompt that is cut from running text."""

TOKENS_AT_ONCE = 8192
"""Tokens of prompts and answers that are decoded together."""

Model = tuple[StagedModel, Weights]


@dataclass(frozen=True)
class Prompts:
    """Token ids (tokens,) int64 of each prompt; the first `chats` are questions in the fine-tune's chat template, the others
    beginnings of text."""

    ids: tuple[Tensor, ...]
    chats: int


@dataclass(frozen=True)
class Agreement:
    """Of one model with the fine-tune: tokens until the first difference (mean, median), and the share of prompts whose whole
    answer is the same; errors over prompts, the median's bootstrapped."""

    tokens_mean: float
    tokens_se: float
    tokens_median: float
    tokens_median_se: float
    whole: float
    whole_se: float
    first_differences: tuple[int, ...]
    """Per prompt; the answer's length where there is no difference."""


@dataclass(frozen=True)
class Generation:
    """Agreement by model. Answers have at most `answer_tokens` tokens and end with the fine-tune's stop token."""

    prompts: int
    chats: int
    answer_tokens: int
    answer_mean: float
    """Tokens in the fine-tune's answers: what full agreement would reach."""
    models: dict[str, Agreement]


def make_prompts(text: Tensor, tokenizer: PreTrainedTokenizerBase | None, count: int) -> Prompts:
    """`count` prompts: up to half of them shipped questions where the tokeniser has a chat template, else cut from `text`
    (sequences, tokens). Fewer where the text is too short."""
    chats = _chats(tokenizer, count // 2)
    length = min(PROMPT_TOKENS, max(1, text.shape[1] // 2))
    cuts = (text[row, at:at + length] for at in range(0, text.shape[1] - length + 1, 2 * length) for row in range(len(text)))
    pieces = [piece for piece, _ in zip(cuts, range(count - len(chats)), strict=False)]
    return Prompts((*chats, *pieces), len(chats))


def _chats(tokenizer: PreTrainedTokenizerBase | None, count: int) -> list[Tensor]:
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        return []
    found = []
    for question in HELD_OUT_PROMPTS[:count]:
        try:
            turn = [{"role": "user", "content": question}]
            text = render_chat(tokenizer, turn, ask=True)
        except ValueError:                             # the template refuses; running text does as well
            return []
        found.append(torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.int64))
    return [ids for ids in found if len(ids)]


def stop_ids(config: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase | None) -> frozenset[int]:
    """Token ids that end an answer, by config.json and tokeniser."""
    named = config.get("eos_token_id")
    ids = named if isinstance(named, list) else [named]
    own = getattr(tokenizer, "eos_token_id", None)
    return frozenset(i for i in (*ids, own) if isinstance(i, int) and 0 <= i < 1 << 31)


def agreement(target: Model, others: Mapping[str, Model], prompts: Prompts, device: torch.device, *, tokens: int,
              stops: frozenset[int] = frozenset(), tick: Callable[[], None] | None = None) -> Generation:
    """Greedy agreement of each of `others` with `target` over at most `tokens` tokens of answer."""
    models = {"": target, **others}
    vocabulary = min(model.skeleton.vocabulary for model, _ in models.values())
    same: dict[str, list[Tensor]] = {name: [] for name in others}
    lengths: list[Tensor] = []
    for part in _chunks([ids.clamp_max(vocabulary - 1) for ids in prompts.ids], tokens):
        rows, groups = _by_length(part)
        answers = decode(target, groups, device, tokens=tokens, vocabulary=vocabulary, stops=stops, tick=tick)
        ends = [_lengths(answer, stops) for answer in answers]
        texts = [torch.cat([ids, answer], 1) for ids, answer in zip(groups, answers, strict=True)]
        likeliest = {name: _greedy(model, texts, tokens, vocabulary, device, tick) for name, model in models.items()}
        back = torch.argsort(torch.tensor([row for group in rows for row in group]))     # to the prompts' own order
        lengths.append(torch.cat(ends)[back])
        for name in others:
            agreed = [torch.minimum(common_prefix(a, b), end)
                      for a, b, end in zip(likeliest[name], likeliest[""], ends, strict=True)]
            same[name].append(torch.cat(agreed)[back])
    length = torch.cat(lengths)
    return Generation(len(length), prompts.chats, tokens, float(length.double().mean()),
                      {name: _summary(torch.cat(found), length) for name, found in same.items()})


def steps(target: Model, others: Mapping[str, Model], prompts: Prompts, tokens: int) -> int:
    """How often `agreement` ticks at most: once per block and token decoded, once per block and group of equal lengths read."""
    parts = [_by_length(part)[1] for part in _chunks(prompts.ids, tokens)]
    depths = [model.skeleton.depth for model, _ in (target, *others.values())]
    return sum(tokens * depths[0] + len(groups) * sum(depths) for groups in parts)


def decode(target: Model, prompts: Sequence[Tensor], device: torch.device, *, tokens: int, vocabulary: int,
           stops: frozenset[int] = frozenset(), tick: Callable[[], None] | None = None) -> list[Tensor]:
    """Greedy answers (n, tokens) to groups of prompts (n, length). Each block's weights are read once per token, for all groups.

    What follows a stop token has no meaning. Where a model's blocks do not take a cache, whole texts are read again.
    """
    model, weights = target
    skeleton, outer = model.skeleton, weights.stage(OUTER)
    caches: list[Any] = [DynamicCache(config=skeleton.config) for _ in prompts]
    texts = [ids.to(device) for ids in prompts]
    with torch.inference_mode():
        for _ in range(tokens):
            fed = [text if cache is None else text[:, cache.get_seq_length():] for text, cache in zip(texts, caches, strict=True)]
            starts = [skeleton.prologue(outer, ids, cache) for ids, cache in zip(fed, caches, strict=True)]
            hidden = [start.hidden for start in starts]
            for block in range(skeleton.depth):
                parameters = weights.stage(block)
                hidden = [skeleton.run_block(block, parameters, h, start.calls[block])
                          for h, start in zip(hidden, starts, strict=True)]
                if tick:
                    tick()
            for i, (ids, h) in enumerate(zip(fed, hidden, strict=True)):
                logits = skeleton.epilogue(outer, ids[:, -1:], h[:, -1:])[..., :vocabulary]     # (n, 1, vocabulary)
                if caches[i] is not None and caches[i].get_seq_length() != texts[i].shape[1]:
                    caches[i] = None
                texts[i] = torch.cat([texts[i], logits.argmax(-1)], 1)
            answers = [text[:, ids.shape[1]:].cpu() for text, ids in zip(texts, prompts, strict=True)]
            if all(bool((_lengths(a, stops) < a.shape[1]).all()) for a in answers):
                break
    pad = [tokens - a.shape[1] for a in answers]
    return [torch.cat([a, a[:, -1:].expand(-1, p)], 1) for a, p in zip(answers, pad, strict=True)]


def _greedy(model: Model, texts: Sequence[Tensor], tokens: int, vocabulary: int, device: torch.device,
            tick: Callable[[], None] | None) -> list[Tensor]:
    """The likeliest token (n, tokens) at each of the last `tokens` places of texts (n, length), given what stands before it."""
    staged, weights = model
    states = carry(staged.skeleton, weights, Batches(list(texts), [False] * len(texts)), device, tick)
    outer = weights.stage(OUTER)
    rows = max(1, LOGITS_AT_ONCE // (tokens * vocabulary))
    found = []
    with torch.inference_mode():
        for i, text in enumerate(texts):
            ids, hidden = text[:, -tokens - 1:-1].to(device), states[i][:, -tokens - 1:-1]
            found.append(torch.cat([staged.skeleton.epilogue(outer, part, h)[..., :vocabulary].argmax(-1).cpu()
                                    for part, h in zip(ids.split(rows), hidden.split(rows), strict=True)]))
    return found


def _chunks(prompts: Sequence[Tensor], tokens: int) -> list[list[Tensor]]:
    chunks: list[list[Tensor]] = [[]]
    for ids in prompts:
        if chunks[-1] and sum(len(i) + tokens for i in (*chunks[-1], ids)) > TOKENS_AT_ONCE:
            chunks.append([])
        chunks[-1].append(ids)
    return chunks


def _by_length(prompts: Sequence[Tensor]) -> tuple[list[list[int]], list[Tensor]]:
    """Rows of equal length, and the prompts (n, length) in them: nothing is padded."""
    rows: dict[int, list[int]] = {}
    for i, ids in enumerate(prompts):
        rows.setdefault(len(ids), []).append(i)
    return list(rows.values()), [torch.stack([prompts[i] for i in members]) for members in rows.values()]


def _lengths(answers: Tensor, stops: frozenset[int]) -> Tensor:
    """Tokens of each answer (n, tokens) up to its first stop token, which counts; all where there is none. (n,)"""
    going = ~torch.isin(answers, torch.tensor(sorted(stops), dtype=answers.dtype))
    return (1 + going.long().cumprod(1).sum(1)).clamp_max(answers.shape[1])


def _summary(agreed: Tensor, length: Tensor) -> Agreement:
    (mean, error), (whole, whole_error) = mean_error(agreed), mean_error(agreed == length)
    median, median_error = quantiles(agreed[:, None], (0.5,))[0]
    return Agreement(mean, error, median, median_error, whole, whole_error, tuple(agreed.tolist()))
