"""What a model has read stays read: keys and values of a row's tokens, kept from one answer for the next one.

The next turn's prompt begins with the tokens of the last prompt and answer, so only what comes behind has to be read. Keys
and values of a token depend on the tokens before it and on the weights alone; they are reused where both are the same, and
equal up to rounding what reading all of it again would give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_SPARE = 256
"""A batch may be so many tokens longer with reuse than without: rows with little to reuse leave gaps."""


@dataclass(frozen=True)
class Kept:
    """Tokens, and per layer their keys and values (1, heads, tokens, width)."""

    ids: list[int]
    layers: list[tuple[Tensor, Tensor]]


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences begin with in common."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def reusable(prompts: Sequence[Sequence[int]], kept: Sequence[Kept | None], *, gaps: bool) -> list[int]:
    """How many tokens of each prompt need not be read again; at least one is left, for there is something to be said then.

    All zero where rows would make the batch much longer than it is. Without `gaps` (a model that numbers its tokens by
    itself) only a row that is alone reuses anything.
    """
    found = [min(common(p, k.ids), len(p) - 1) if k is not None else 0 for p, k in zip(prompts, kept, strict=True)]
    whole = max(map(len, prompts))
    length = max(found) + max(len(p) - n for p, n in zip(prompts, found, strict=True))
    if length > whole + _SPARE or (len(found) > 1 and not gaps):
        return [0] * len(found)
    return found


def assemble(kept: Sequence[Kept | None], counts: Sequence[int]) -> Any:
    """A transformers cache (rows, heads, max(counts), width) of the first tokens of each row, at the right; None for none."""
    from transformers import DynamicCache

    length = max(counts)
    some = next((k for k, n in zip(kept, counts, strict=True) if k is not None and n), None)
    if some is None:
        return None
    cache = DynamicCache()
    for number, like in enumerate(some.layers):
        sides = [_stacked([None if k is None or not n else k.layers[number][side][:, :, :n]
                           for k, n in zip(kept, counts, strict=True)], like[side], length) for side in (0, 1)]
        cache.update(sides[0], sides[1], number)
    return cache


def _stacked(rows: Sequence[Tensor | None], like: Tensor, length: int) -> Tensor:
    if len(rows) == 1 and rows[0] is not None:
        return rows[0]
    made = like.new_zeros(len(rows), like.shape[1], length, like.shape[3])
    for at, row in enumerate(rows):
        if row is not None:
            made[at, :, length - row.shape[2]:] = row[0]
    return made


def row_of(cache: Any, at: int, mask: Tensor, ids: Sequence[int]) -> Kept | None:
    """Keep one row of a batch's cache.

    `mask` (length) is 0 at what is no token of its, `ids` are at least as many as it is 1 at. None for a cache that holds
    anything but all keys and values (windows, states).
    """
    from transformers.cache_utils import DynamicLayer

    layers = getattr(cache, "layers", None)
    if not layers or any(type(x) is not DynamicLayer or x.get_seq_length() != len(mask) for x in layers):
        return None
    places = mask.nonzero()[:, 0]
    alone = len(layers[0].keys) == 1 and len(places) == len(mask)

    def own(tensor: Tensor) -> Tensor:
        return tensor if alone else tensor[at:at + 1].index_select(2, places.to(tensor.device))
    with torch.inference_mode():
        return Kept(list(ids[:len(places)]), [(own(x.keys), own(x.values)) for x in layers])
