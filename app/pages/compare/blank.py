"""What the Compare page shows while nothing is chosen: why, and the next step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PySide6.QtWidgets import QPushButton, QWidget

from app.actions import Act
from app.context import Context
from app.library.entry import DeltaEntry
from app.pages.compare import facts
from app.pages.compare.add_popup import MOST
from app.tasks import Failure
from app.widgets.basics import Card, boxed, button, column
from app.widgets.states import EmptyState, ErrorCard, Skeleton


@dataclass(frozen=True)
class BlankState:
    """What the library has: it is being read, could not be read, or offers its largest group of deltas of one fine-tune."""

    loading: bool
    failure: Failure | None
    largest: tuple[DeltaEntry, ...]
    others: int = 0


def blank_state(ctx: Context) -> BlankState:
    """As the library is now."""
    library = ctx.library
    entries = library.entries()
    groups = sorted(facts.pairs(e for e in entries if e.usable), key=len, reverse=True)
    newest = sorted(groups[0], key=lambda e: e.created.timestamp() if e.created else 0.0, reverse=True) if groups else []
    return BlankState(library.loading and not entries, library.failure, tuple(newest[:MOST]), max(0, len(newest) - MOST))


def blank_view(ctx: Context, add: Callable[[Iterable[Path]], object], open_add: Callable[[], object]) -> QWidget:
    """`add` takes the paths to compare; `open_add` opens the list of the library."""
    state, icons = blank_state(ctx), ctx.icons
    if state.loading:
        reading = Card("Reading the library", str(ctx.settings.options.library))
        reading.add(Skeleton(ctx.theme, 5), None)
        return reading
    if state.failure is not None:
        again = button("Try again", "primary", icons=icons, icon="reload", clicked=ctx.library.refresh)
        return boxed(column(ErrorCard(icons, state.failure, [again], title="The library could not be read"), None))
    if not state.largest:
        start = button("Compress a fine-tune", "primary", icons=icons, icon="compress", clicked=lambda: ctx.go("compress"))
        other = button("Import a delta...", icons=icons, icon="import", clicked=ctx.actions[Act.IMPORT].trigger)
        return _card(ctx, "Nothing to compare yet", "Deltas stand side by side here, against the full checkpoint.",
                     [start, other], "Size, load time as measured on this machine, and fidelity to the fine-tune.")
    first, paths = state.largest[0], [e.path for e in state.largest]
    if len(paths) > 1:
        text = f"Compare {'the newest' if state.others else 'all'} {len(paths)} of {first.fine_tuned or first.base_name}"
    else:
        text = f"Show {first.name}"
    suggested = button(text, "primary", icons=icons, icon="compare", clicked=lambda: add(paths))
    choose = button("Add deltas...", icons=icons, icon="plus", clicked=open_add)
    return _card(ctx, "Choose what to compare", f"Up to {MOST} deltas side by side, against the full checkpoint.",
                 [suggested, choose], "Fidelity compares best within one fine-tune.")


def _card(ctx: Context, title: str, text: str, buttons: Sequence[QPushButton], footnote: str) -> Card:
    card = Card()
    card.setAccessibleName(title)
    card.add(EmptyState(ctx.theme, title, text, buttons, footnote))
    return card
