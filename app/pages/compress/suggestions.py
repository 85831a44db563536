"""A pair that does not fit: the refusal, and checkpoints at hand that may be the right base."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QObject

from app.checkpoints import CheckpointFacts, Choice, likely_bases
from app.context import Context
from app.pages.compress.outcome import Outcome
from app.tasks import Failure
from app.widgets.basics import button
from app.widgets.picker import CheckpointPicker
from app.widgets.picker_choose import Shelf


class Suggestions(QObject):
    """Shows refusals in `outcome`; a suggestion that is taken is chosen in the picker `base`."""

    def __init__(self, ctx: Context, outcome: Outcome, base: CheckpointPicker, shelf: Shelf, parent: QObject) -> None:
        super().__init__(parent)
        self._ctx, self._outcome, self._base, self._shelf = ctx, outcome, base, shelf
        self._failure: Failure | None = None
        self.found: tuple[Choice, ...] = ()

    def clear(self) -> None:
        """Another pair was chosen."""
        self._failure, self.found = None, ()

    def refuse(self, failure: Failure, base: CheckpointFacts | None, tuned: CheckpointFacts | None) -> None:
        """Say why there is no plan; where the base is the wrong one, look for another."""
        self._failure = failure
        self._show(failure)
        if base is not None and tuned is not None and failure.details.startswith(("ArchitectureMismatch", "TensorsMissing")):
            known = tuple(c for c in self._shelf.choices if c.source != base.source)
            self._ctx.tasks.run(self, lambda task: likely_bases(known, tuned), self._suggest, self._nothing_to_suggest)

    def _show(self, failure: Failure) -> None:
        named = {c.name: c for c in reversed(self.found)}           # the first of a name
        buttons = [button(f"Use {c.name} as the base", "primary" if i == 0 else "", tip=c.source, clicked=self._user_of(c))
                   for i, c in enumerate(list(reversed(named.values()))[:2])]
        self._outcome.refuse(failure, buttons or [button("Change the base...", clicked=self._base.open_chooser)])

    def _user_of(self, choice: Choice) -> Callable[[], object]:
        return lambda: self._base.choose(choice.source)

    def _suggest(self, found: tuple[Choice, ...]) -> None:
        self.found = found
        if found and self._failure is not None:
            self._show(self._failure)

    def _nothing_to_suggest(self, failure: Failure) -> None:
        self.found = ()
