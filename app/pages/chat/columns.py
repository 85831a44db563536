"""Which variant answers in which column: picked by chip or key, one column or several."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import QObject

from app.chat.conversations import SIDES
from app.chat.engine import BASE, Switch
from app.pages.chat import facts
from app.pages.chat.chips import shown_name

if TYPE_CHECKING:
    from app.pages.chat.page import ChatPage


class Columns(QObject):
    """The columns of a `ChatPage`. A switch that is asked for during another one is made after it."""

    def __init__(self, page: ChatPage) -> None:
        super().__init__(page)
        self._page, self._session, self._talk = page, page.session, page.talk
        self.is_behind = False
        """Whether other variants are wanted than the switch under way will bring."""
        page.session.switched.connect(self._switched)
        page.session.failed.connect(self._failed)
        page.header.mode_chosen.connect(self._mode_chosen)
        page.bar.picked.connect(self.pick)
        page.bar.removed.connect(self._remove)
        page.sides.selected.connect(self._select)
        page.sides.close_asked.connect(self._close)
        page.sides.add_asked.connect(self._add)

    def pick_number(self, number: int) -> None:
        """Let a variant answer by its place on the deck, from 0; there may be none."""
        if self._page.isVisible() and number < len(self._session.variants):
            self.pick(self._session.variants[number].name)

    def pick(self, name: str) -> None:
        """Let a variant answer in the selected column."""
        if self._session.doing not in ("", "switch"):
            self._page.refuse(f"{shown_name(name)} can't be switched on now")
            self._page.refresh()
            return
        self.set_side(self._talk.now.selected, name)

    def set_side(self, index: int, name: str) -> None:
        """Let a variant answer in a column."""
        sides = list(self._talk.now.sides)
        if sides[index] != name:
            sides[index] = name
            self._talk.set_sides(sides, index)
        self.switch()

    def switch(self) -> None:
        """Switch on what the columns say."""
        if self._session.state != "ready":
            return
        if self._session.doing == "switch":
            self.is_behind = True
        elif not self._session.in_the_way:
            known = {v.name for v in self._session.variants}
            self._session.switch([s if s in known else BASE for s in self._talk.now.sides])

    def _switched(self, switch: Switch) -> None:
        if self.is_behind:
            self.is_behind = False
            self.switch()
            return
        name = self._talk.side_of(SIDES[self._talk.now.selected])
        title, what, took = facts.switch_words(shown_name(name), self._session.variant(name), switch)
        self._page.note.say(title, what, short=took, more=switch.reason)
        self._page.count_soon()

    def _failed(self, failure: object) -> None:
        if self.is_behind:                             # the one after it may do better
            self.is_behind = False
            self.switch()

    def _remove(self, name: str) -> None:
        if not self._session.remove(name):
            self._page.refuse(f"{name} can't be taken off now")
            return
        sides = [BASE if s == name else s for s in self._talk.now.sides]
        self._talk.set_sides(sides, self._talk.now.selected)

    def _mode_chosen(self, mode: str) -> None:
        now = self._talk.now
        if self._are_fixed():
            return
        if mode == "one":
            self._talk.set_sides((now.sides[now.selected],), 0)
        elif len(now.sides) == 1:
            mine = now.sides[0]
            other = next((v.name for v in self._session.variants if v.name not in (mine, BASE)), BASE)
            if mine != BASE and now.turns:             # its answers stand in the first column: they stay under its name
                self._talk.set_sides((mine, BASE), 0)
            else:
                self._talk.set_sides((BASE, other if mine == BASE else mine), 1)
        self.switch()

    def _are_fixed(self) -> bool:
        """Whether columns have to stay as they are, which is said."""
        if self._session.doing in ("", "switch"):
            return False
        self._page.refuse("The columns stay as they are for now")
        self._page.refresh()
        return True

    def _select(self, index: int) -> None:
        self._talk.set_sides(self._talk.now.sides, index)

    def _close(self, index: int) -> None:
        now = self._talk.now
        if len(now.sides) > 1 and not self._are_fixed():
            self._talk.set_sides([s for i, s in enumerate(now.sides) if i != index], now.selected - (index <= now.selected))
            self.switch()

    def _add(self) -> None:
        now = self._talk.now
        if len(now.sides) < len(SIDES) and not self._are_fixed():
            new = next((v.name for v in self._session.variants if v.name not in now.sides), BASE)
            self._talk.set_sides((*now.sides, new), len(now.sides))
            self.switch()
