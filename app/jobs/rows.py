"""A layer's row from what a job tells, or does not tell, of it."""

from __future__ import annotations

import math
from dataclasses import replace

from app.codings import LEFT_OUT
from app.models.layers import LayerRow, codec_winner, margin_of
from core.events import LayerFitted

KEPT = "Keeps its mean change: nothing was fitted for it"
"""The note of a layer that a job left at its guess."""


def kept_row(row: LayerRow) -> LayerRow:
    """The row of a layer that stays at the mean of its change, one scale and a bit per weight, without having been fitted."""
    stored = row.shape[0] * -(-row.shape[1] // 8) + 2 if len(row.shape) == 2 else 0
    return replace(row, codec="sign", axes=("scalar",), winner="scalar", bytes=stored, note=KEPT, state="done", method="")


def fitted_row(event: LayerFitted, old: LayerRow | None, seconds: float | None) -> LayerRow:
    """The row of a fitted layer; what events don't tell (shape, change) is kept from what the plan said."""
    held_out = None if event.recovery is None else 1 - event.recovery
    axes = event.axes if event.codec == "sign" else ()
    margin = margin_of(event.losses) if {"row", "column"} & set(axes) else None
    kept = old if old is not None else LayerRow(event.tensor)
    # Only a budget that drops a change tells of a layer that is the base's.
    note = f"{LEFT_OUT}: its bytes are worth more elsewhere" if event.codec == "same" else ""
    weights = math.prod(kept.shape) if kept.shape else 0
    planes = max(1, int(8 * event.bytes / weights)) if weights and event.codec == "sign" else 1
    return replace(kept, block=event.block, kind=event.kind, codec=event.codec, axes=axes, losses=event.losses,
                   recovery=event.recovery, held_out=held_out, bytes=event.bytes, seconds=seconds, margin=margin,
                   winner=codec_winner(event.codec, axes, note), state="done", note=note, method=event.method, planes=planes)
