"""The decode loop: one batch of prompts in, tokens out row by row, until each row has ended or somebody says stop."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.chat_prompt import Prompt
from core.chat_sampling import Sampler
from core.chat_text import Detokenizer
from core.chat_types import Ended

_CHUNK = 256
"""Prompt tokens per row that are read at a time: a stop waits for no more than these."""


@dataclass
class Said:
    """A row while it is answered. Times in seconds since the loop began; `ended` is None while it goes on."""

    prompt: Prompt
    sampler: Sampler
    text: Detokenizer
    tokens: int = 0
    first: float = 0.0
    seconds: float = 0.0
    ended: Ended | None = None


@torch.inference_mode()
def decode(model: Any, rows: Sequence[Said], tell: Callable[[int, str], None], stopped: Callable[[], bool],
           narrow: Callable[[Sequence[int]], object]) -> None:
    """Let `model` (a transformers model) answer all rows in one batch, padded on the left.

    `tell(row, text)` is called as text comes. `stopped` is asked before each of the model's steps; after it says yes there is
    none. Rows that have ended leave the batch: `narrow` is told which rows stay. What the rows hold is sound at any time, so
    that an exception of the model's leaves all that was said.
    """
    began = time.perf_counter()
    device = model.get_input_embeddings().weight.device
    length = max(len(r.prompt.ids) for r in rows)
    ids, mask = _padded(rows, length, device)
    batch = _Batch(model, mask, list(range(len(rows))))
    logits: Tensor | None = None
    for start in range(0, length, _CHUNK):
        if _stop(rows, stopped, began):
            return
        logits = batch.step(ids[:, start:start + _CHUNK])
    while logits is not None:
        chosen = [rows[i].sampler.next(logits[at]) for at, i in enumerate(batch.rows)]
        seconds = time.perf_counter() - began
        for i, token in zip(batch.rows, chosen, strict=True):
            _take(rows[i], i, token, seconds, tell)
        if _stop(rows, stopped, began):
            return
        left = [at for at, i in enumerate(batch.rows) if not rows[i].ended]
        if len(left) < len(batch.rows):
            with torch.inference_mode(False):          # what the deck keeps must stay writable
                narrow([batch.rows[at] for at in left])
            batch.keep(left)
            chosen = [chosen[at] for at in left]
        logits = batch.step(torch.tensor(chosen, device=device)[:, None])


def _take(row: Said, at: int, token: int, seconds: float, tell: Callable[[int, str], None]) -> None:
    """Note a row's next token."""
    row.seconds = seconds
    if not row.tokens:
        row.first = seconds
    if token in row.prompt.ends:
        end(row, "end", at, tell)
        return
    row.tokens += 1
    piece = row.text.add(token)
    if piece:
        tell(at, piece)
    if row.tokens >= row.prompt.room:
        end(row, "length", at, tell)


def end(row: Said, how: Ended, at: int, tell: Callable[[int, str], None]) -> None:
    """A row says no more; what waited is told."""
    row.ended = how
    piece = row.text.finish(more=how != "end")
    if piece:
        tell(at, piece)


def _stop(rows: Sequence[Said], stopped: Callable[[], bool], began: float) -> bool:
    """Whether all is said, or is to be."""
    if all(r.ended for r in rows):
        return True
    if not stopped():
        return False
    for row in rows:
        if not row.ended:
            row.seconds = time.perf_counter() - began
    return True


def _padded(rows: Sequence[Said], length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids (rows, length), and a mask (rows, length + longest room) of which rows' padding is 0."""
    longest = max(r.prompt.room for r in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask = torch.ones(len(rows), length + longest, dtype=torch.long)
    for at, row in enumerate(rows):
        gap = length - len(row.prompt.ids)
        ids[at, :gap], mask[at, :gap] = row.prompt.ids[0], 0       # any token that the row's vocabulary has
        ids[at, gap:] = torch.tensor(row.prompt.ids)
    return ids.to(device), mask.to(device)


class _Batch:
    """The rows that the model still answers, their mask, positions and cache."""

    def __init__(self, model: Any, mask: Tensor, rows: list[int]) -> None:
        known = inspect.signature(type(model).forward).parameters
        self.model, self.rows, self.mask = model, rows, mask
        self.options: dict[str, Any] = {"use_cache": True}
        if "logits_to_keep" in known:
            self.options["logits_to_keep"] = 1
        self.positions = (mask.cumsum(-1) - 1).clamp_min(0) if "position_ids" in known else None
        self.cache: Any = None
        self.done = 0

    def step(self, ids: Tensor) -> Tensor:
        """Read ids (rows, tokens) behind what was read; logits (rows, vocabulary) of what comes next."""
        stop = self.done + ids.shape[1]
        options = dict(self.options)
        if self.positions is not None:
            options["position_ids"] = self.positions[:, self.done:stop]
        out = self.model(input_ids=ids, attention_mask=self.mask[:, :stop], past_key_values=self.cache, **options)
        self.cache, self.done = out.past_key_values, stop
        logits: Tensor = out.logits[:, -1]
        return logits

    def keep(self, places: list[int]) -> None:
        """Go on with some of the rows only."""
        at = torch.tensor(places, device=self.mask.device)
        self.rows = [self.rows[p] for p in places]
        self.mask = self.mask[at]
        if self.positions is not None:
            self.positions = self.positions[at]
        self.cache.batch_select_indices(at)
