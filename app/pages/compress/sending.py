"""Planned jobs on their way to the queue: one, or one for each of several fine-tunes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.checkpoints import CheckpointFacts
from app.context import Context
from app.pages.compress.recipe import jobs_words
from app.pages.compress.start_bar import when_words
from app.planning import PlanFacts
from app.tasks import Failure
from core.errors import DeltadeckError


@dataclass(frozen=True)
class Order:
    """A job to be: its delta's name, its request, what was planned, and the fine-tune that it compresses."""

    name: str
    request: Mapping[str, Any]
    plan: PlanFacts
    facts: CheckpointFacts


def send(ctx: Context, base: CheckpointFacts, orders: Sequence[Order]) -> dict[str, Failure]:
    """Queue each; returns why some were refused, by name. Goes to the Run page with a lone job that starts at once, else says
    what was added and when it starts. A lone refusal is shown as an error."""
    refused: dict[str, Failure] = {}
    added: list[Order] = []
    when, first = when_words(ctx), ""
    for order in orders:
        try:
            item = ctx.jobs.add(order.name, order.request, order.plan.expect, base.name, order.facts.name, order.plan.seconds,
                                ctx.settings.where)
        except DeltadeckError as e:
            refused[order.name] = Failure.of(e)
            continue
        if not added:
            first = item.id
            ctx.settings.remember(base.source)
        added.append(order)
        ctx.settings.remember(order.facts.source)
    if refused:
        failure = next(iter(refused.values()))
        if not added or len(refused) == 1:
            ctx.show_error(failure)
        else:
            ctx.notify(f"{jobs_words(len(refused)).capitalize()} could not be added. {failure.what}", "warning")
    current = ctx.jobs.current()
    if len(added) == 1 and len(orders) == 1 and current is not None and current.id == first:
        ctx.go("run")
    elif len(added) == 1:
        ctx.notify(f"'{added[0].name}' was added to the queue. {when}.", "success")
    elif added:
        ctx.notify(f"{jobs_words(len(added)).capitalize()} were added to the queue. The first: {when[0].lower()}{when[1:]}.",
                   "success")
    return refused
