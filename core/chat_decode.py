"""The decode loop: one batch of prompts in, tokens out row by row, until each row has ended or somebody says stop."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.chat_cache import Kept, assemble, reusable, row_of
from core.chat_prompt import Prompt
from core.chat_sampling import Sampler
from core.chat_text import Detokenizer
from core.chat_types import Ended

_CHUNK = 256
"""Prompt tokens per row that are read at a time: a stop waits for no more than these."""


@dataclass
class Said:
    """A row while it is answered. Times in seconds since the loop began; `ended` is None while it goes on.

    `kept` is what an answer before it left, and, once this one has ended, what it leaves; `reused` tokens were taken from it.
    """

    prompt: Prompt
    sampler: Sampler
    text: Detokenizer
    tokens: int = 0
    first: float = 0.0
    seconds: float = 0.0
    ended: Ended | None = None
    kept: Kept | None = None
    reused: int = 0


@torch.inference_mode()
def decode(model: Any, rows: Sequence[Said], tell: Callable[[int, str], None], stopped: Callable[[], bool],
           narrow: Callable[[Sequence[int]], object]) -> None:
    """Let `model` (a transformers model) answer all rows in one batch, padded on the left.

    `tell(row, text)` is called as text comes. `stopped` is asked before each of the model's steps; after it says yes there is
    none. Rows that have ended leave the batch: `narrow` is told which rows stay. What the rows hold is sound at any time, so
    that an exception of the model's leaves all that was said.
    """
    began = time.perf_counter()
    batch = _Batch(model, rows)
    logits: Tensor | None = None
    for ids in batch.prompt.split(_CHUNK, dim=1):
        if _stop(rows, stopped, began):
            break
        logits = batch.step(ids)
    else:
        while logits is not None:
            logits = _next(rows, batch, logits, tell, stopped, narrow, began)
    batch.leave(range(len(batch.rows)))


def _next(rows: Sequence[Said], batch: _Batch, logits: Tensor, tell: Callable[[int, str], None], stopped: Callable[[], bool],
          narrow: Callable[[Sequence[int]], object], began: float) -> Tensor | None:
    """Draw a token for each row of the batch; what comes next, None when nothing does."""
    chosen = [rows[i].sampler.next(logits[at]) for at, i in enumerate(batch.rows)]
    seconds = time.perf_counter() - began
    for i, token in zip(batch.rows, chosen, strict=True):
        _take(rows[i], i, token, seconds, tell)
    if _stop(rows, stopped, began):
        return None
    left = [at for at, i in enumerate(batch.rows) if not rows[i].ended]
    if len(left) < len(batch.rows):
        with torch.inference_mode(False):              # what the deck keeps must stay writable
            narrow([batch.rows[at] for at in left])
        batch.keep(left)
        chosen = [chosen[at] for at in left]
    return batch.step(torch.tensor(chosen, device=logits.device)[:, None])


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


class _Batch:
    """The rows that the model still answers, their mask, positions and cache.

    A row's line in the batch: what it reuses, then what is new of its prompt, each at the right of its share, then its
    answer. What is left free in between is masked.
    """

    def __init__(self, model: Any, rows: Sequence[Said]) -> None:
        known = inspect.signature(type(model).forward).parameters
        device = model.get_input_embeddings().weight.device
        self.model, self.said, self.rows = model, rows, list(range(len(rows)))
        self.options: dict[str, Any] = {"use_cache": True}
        if "logits_to_keep" in known:
            self.options["logits_to_keep"] = 1
        kept = [r.kept for r in rows]
        counts = reusable([r.prompt.ids for r in rows], kept, gaps="position_ids" in known)
        self.cache: Any = assemble(kept, counts)
        self.done = max(counts)
        for row, count in zip(rows, counts, strict=True):
            row.kept, row.reused = None, count         # what it was is in the cache, or of no use
        prompt, mask = _laid_out(rows, self.done)
        self.prompt, self.mask = prompt.to(device), mask.to(device)
        self.positions = (self.mask.cumsum(-1) - 1).clamp_min(0) if "position_ids" in known else None

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

    def leave(self, places: Iterable[int]) -> None:
        """Let rows have what was read of them."""
        for at in places:
            row = self.said[self.rows[at]]
            row.kept = row_of(self.cache, at, self.mask[at, :self.done], [*row.prompt.ids, *row.text.ids])

    def keep(self, places: list[int]) -> None:
        """Go on with some of the rows only."""
        self.leave(set(range(len(self.rows))) - set(places))
        at = torch.tensor(places)                      # on the CPU: any layer's device takes it
        self.rows = [self.rows[p] for p in places]
        self.mask = self.mask[at]
        if self.positions is not None:
            self.positions = self.positions[at]
        self.cache.batch_select_indices(at)


def _laid_out(rows: Sequence[Said], reused: int) -> tuple[Tensor, Tensor]:
    """Ids (rows, new tokens), and a mask (rows, `reused` + new tokens + longest room) that is 0 at gaps."""
    new = [row.prompt.ids[row.reused:] for row in rows]
    length, longest = max(map(len, new)), max(row.prompt.room for row in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask = torch.ones(len(rows), reused + length + longest, dtype=torch.long)
    for at, row in enumerate(rows):
        gap = length - len(new[at])
        ids[at, :gap] = row.prompt.ids[0]              # any token that the row's vocabulary has
        ids[at, gap:] = torch.tensor(new[at])
        mask[at, :reused - row.reused] = 0
        mask[at, reused:reused + gap] = 0
    return ids, mask
