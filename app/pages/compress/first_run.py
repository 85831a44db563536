"""The Compress page before anything was ever chosen: what there is to do, and two ways to begin."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtWidgets import QFrame

from app.context import Context
from app.widgets.basics import Card, IconLabel, button, label, row
from app.widgets.states import EmptyState

STEPS = (("Pick two", "A base and a fine-tune of it, from a folder or the hub cache."),
         ("Compress", "See the size before you start, and watch each layer being fitted."),
         ("Compare", "Set size, load time and fidelity of your deltas side by side."))


def first_run(ctx: Context, open_demo: Callable[[], object], choose: Callable[[], object]) -> tuple[Card, QFrame]:
    """(the card, the part of it that is marked while a folder is dragged over the page)."""
    demo = button("Try the demo trio", "primary", icons=ctx.icons, icon="deltas", clicked=open_demo)
    chosen = button("Choose checkpoints...", icons=ctx.icons, icon="folder", clicked=choose)
    said = "A delta holds what a fine-tune changed, in a small part of its size."
    empty = EmptyState(ctx.theme, "Make your first delta", said, [demo, chosen],
                       "The demo trio is built in: 5.6 MB, no network, about a minute.", STEPS)
    drop = QFrame()
    drop.setProperty("look", "drop")
    drop.setMinimumHeight(ctx.theme.px(56))
    drop.setLayout(row(None, IconLabel(ctx.icons, "folder", size=18),
                       label("Or drop a checkpoint folder anywhere on this page", tone="faded"), None))
    card = Card(margins=(28, 16, 28, 24))
    card.setAccessibleName("Make your first delta")
    card.add(empty, row(drop, margins=(24, 0, 24, 0)))
    card.body.setStretch(0, 1)
    return card, drop
