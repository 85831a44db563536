"""The conversation on screen: sends, stops, regenerates, continues, edits; knows which answer is being written where."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
from PySide6.QtCore import QObject, Signal

from app.chat.conversations import SIDES, Answers, Choice, Conversation, Turn, Version, new_conversation, touched
from app.chat.engine import BASE, Ask, Messages, Spoken
from app.chat.session import Answered, ChatSession
from app.chat.store import Conversations
from app.chat.worker import Piece


@dataclass
class Live:
    """An answer that is being written. `before` is what is being continued."""

    side: str
    variant: str
    before: Version | None
    seed: int | None
    text: str = ""
    tokens: int = 0
    began: float = field(default_factory=time.perf_counter)
    first: float | None = None
    """Seconds from the question to the first token."""
    latest: float = 0.0

    @property
    def whole(self) -> str:
        """All of its text so far."""
        return (self.before.text if self.before is not None else "") + self.text

    @property
    def rate(self) -> float:
        """Tokens a second since the first one."""
        span = self.latest - (self.first or 0.0)
        return (self.tokens - 1) / span if self.tokens > 1 and span > 0 else 0.0


class Talk(QObject):
    """Holds the conversation. Letters name columns; `live` has what is being written in turn `live_turn`."""

    opened = Signal()
    """Another conversation, or another set of turns."""
    turn_changed = Signal(int)
    """A turn is new or has other answers."""
    streamed = Signal(int)
    """There is more text in the answers of this turn."""
    sides_changed = Signal()
    """Other variants in the columns, another number of them, or another one selected."""
    changed = Signal()
    """Anything that is kept."""

    def __init__(self, session: ChatSession, store: Conversations, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.session, self.store = session, store
        self.now: Conversation = new_conversation()
        self.live: dict[str, Live] = {}
        self.live_turn = -1
        session.streamed.connect(self._streamed)
        session.answered.connect(self._answered)

    # ------------------------------------------------------------------------------------------- conversation
    @property
    def letters(self) -> tuple[str, ...]:
        """Of the columns in use."""
        return SIDES[:len(self.now.sides)]

    def side_of(self, letter: str) -> str:
        """The variant in a column."""
        return self.now.sides[SIDES.index(letter)]

    def start(self) -> None:
        """A new conversation, with the columns, the system prompt and the sampling of this one."""
        old = self.now
        self.now = msgspec.structs.replace(new_conversation(old.sampling, old.system), sides=old.sides, selected=old.selected,
                                           base=old.base, base_name=old.base_name, variants=old.variants)
        self.opened.emit()

    def open(self, conversation: Conversation) -> None:
        """Go on with a conversation."""
        self.now = conversation
        self.opened.emit()

    def _keep(self, **values: object) -> None:
        self.now = touched(self.now, **values)
        if self.now.turns:
            self.store.keep(self.now)
        self.changed.emit()

    def choose_sampling(self, sampling: Choice, system: str) -> None:
        """Other sampling, another system prompt, from the next answer on."""
        if (sampling, system) != (self.now.sampling, self.now.system):
            self._keep(sampling=sampling, system=system)

    def take_deck(self) -> None:
        """Fit the columns to the variants that are loaded: one that is not there becomes the base.

        That is kept once something is said: who only reads an old conversation finds it as it was.
        """
        session = self.session
        names = {v.name for v in session.variants}
        sides = tuple(name if name in names else BASE for name in self.now.sides)
        variants = tuple((v.name, str(v.path)) for v in session.variants if v.path is not None)
        changed = sides != self.now.sides
        self.now = msgspec.structs.replace(self.now, base=session.base, base_name=session.base_name, variants=variants,
                                           sides=sides)
        if changed:
            self.sides_changed.emit()

    def set_sides(self, sides: Sequence[str], selected: int) -> None:
        """Other variants in the columns."""
        found = tuple(sides)[:len(SIDES)]
        chosen = max(0, min(selected, len(found) - 1))
        if (found, chosen) != (self.now.sides, self.now.selected):
            self._keep(sides=found, selected=chosen)
            self.sides_changed.emit()

    # ------------------------------------------------------------------------------------------------ asking
    @property
    def next_seed(self) -> int:
        """The seed of the next answer."""
        sampling = self.now.sampling
        return sampling.seed if sampling.locked else random.randrange(2**31)

    def send(self, prompt: str) -> bool:
        """Ask all columns; False while the model is used otherwise."""
        text = prompt.strip()
        if not text or self.session.why_silent:
            return False
        self._keep(turns=(*self.now.turns, Turn(prompt=text)))
        return self._ask(len(self.now.turns) - 1, self.letters)

    def edit(self, index: int, prompt: str) -> bool:
        """Ask something else in a turn's place; later turns go."""
        text = prompt.strip()
        if not text or self.session.why_silent:
            return False
        self._keep(turns=(*self.now.turns[:index], Turn(prompt=text)))
        self.opened.emit()
        return self._ask(index, self.letters)

    def regenerate(self, index: int, letters: Sequence[str]) -> bool:
        """Another version of a turn's answers."""
        return not self.session.why_silent and self._ask(index, letters)

    def carry_on(self, index: int, letter: str) -> bool:
        """Go on with an answer where it was cut."""
        answers = self.now.turns[index].answers.get(letter)
        before = answers.current if answers is not None else None
        return before is not None and not self.session.why_silent and self._ask(index, (letter,), before)

    def _ask(self, index: int, letters: Sequence[str], before: Version | None = None) -> bool:
        turn, sampling = self.now.turns[index], self.now.sampling
        free = not sampling.locked and not sampling.same_seed
        rows: list[tuple[int, Ask]] = []
        live: dict[str, Live] = {}
        seed = self.next_seed
        for number, letter in enumerate(letters):
            messages: Messages = (*self.now.messages(letter, index), ("user", turn.prompt))
            variant = before.variant if before is not None and self.session.variant(before.variant) else self.side_of(letter)
            if before is not None:
                messages = (*messages, ("assistant", before.text))
            rows.append((number, Ask(variant, messages, before is not None, SIDES.index(letter))))
            versions = len(turn.answers[letter].versions) if letter in turn.answers else 0
            own = seed + versions + (0 if sampling.same_seed else SIDES.index(letter) * 7919)
            live[letter] = Live(letter, variant, before, None if free else own % 2**31)
        # One batch has one seed, or leaves it to the engine: columns with other seeds are asked one after another.
        groups: dict[int | None, list[tuple[int, Ask]]] = {}
        for pair, one in zip(rows, live.values(), strict=True):
            groups.setdefault(one.seed, []).append(pair)
        if not self.session.answer([tuple(g) for g in groups.values()], sampling, list(groups)):
            return False
        self.live, self.live_turn = live, index
        self.turn_changed.emit(index)
        return True

    def _streamed(self, pieces: tuple[Piece, ...]) -> None:
        now = time.perf_counter()
        rows = list(self.live.values())
        for piece in pieces:
            if piece.row < len(rows):
                live = rows[piece.row]
                live.text += piece.text
                live.tokens += piece.tokens
                live.latest = now - live.began
                live.first = live.latest if live.first is None else live.first
        if rows:
            self.streamed.emit(self.live_turn)

    def _answered(self, answered: Answered) -> None:
        spoken: dict[int, Spoken] = dict(answered.spoken)
        live, index = self.live, self.live_turn
        self.live, self.live_turn = {}, -1
        if not live or index >= len(self.now.turns):
            return
        turn = self.now.turns[index]
        for number, (letter, one) in enumerate(live.items()):
            found = spoken.get(number)
            if found is None and not one.text and answered.failure is None:
                continue                               # stopped before it began
            failure = answered.failure
            problem = " ".join(filter(None, (failure.what, failure.why, failure.remedy))) if failure is not None else ""
            version = _version(one, found, problem)
            answers = turn.answers.get(letter, Answers())
            turn = turn.with_answers(letter, answers.changed(version) if one.before is not None else answers.plus(version))
        self._replace(index, turn)

    # ---------------------------------------------------------------------------------------------- changing
    def _replace(self, index: int, turn: Turn) -> None:
        turns = list(self.now.turns)
        turns[index] = turn
        self._keep(turns=tuple(turns))
        self.turn_changed.emit(index)

    def cycle(self, index: int, letter: str, step: int) -> None:
        """Show another version of an answer; it is the one that counts then."""
        turn = self.now.turns[index]
        if letter in turn.answers:
            self._replace(index, turn.with_answers(letter, turn.answers[letter].turned(step)))

    def lead(self, index: int, letter: str) -> None:
        """Let all columns go on with one's answer; again to let each go on with its own."""
        turn = self.now.turns[index]
        self._replace(index, msgspec.structs.replace(turn, lead="" if turn.lead == letter else letter))

    def delete_answer(self, index: int, letter: str) -> None:
        """Delete the version of an answer that is shown; the turn with its last answer."""
        turn = self.now.turns[index]
        left = turn.with_answers(letter, turn.answers[letter].less())
        if left.answers:
            self._replace(index, left)
        else:
            self.delete_turn(index)

    def delete_turn(self, index: int) -> None:
        """Delete a prompt with its answers."""
        self._keep(turns=self.now.turns[:index] + self.now.turns[index + 1:])
        self.opened.emit()

    def restore(self, turns: tuple[Turn, ...]) -> None:
        """Bring back turns as they were."""
        self._keep(turns=turns)
        self.opened.emit()


def _version(live: Live, spoken: Spoken | None, problem: str) -> Version:
    """What is kept of an answer that has ended, whole or not."""
    before = live.before
    tokens, seconds = (before.tokens, before.seconds) if before is not None else (0, 0.0)
    if spoken is None:
        return Version(text=live.whole, variant=live.variant, tokens=tokens + live.tokens, seconds=seconds + live.latest,
                       first_token_seconds=live.first or 0.0, tokens_per_second=live.rate, seed=live.seed or 0,
                       ended="failed" if problem else "stopped", problem=problem)
    text = (before.text if before is not None else "") + spoken.text
    return Version(text=text, variant=spoken.variant, tokens=tokens + spoken.tokens, seconds=seconds + spoken.seconds,
                   first_token_seconds=before.first_token_seconds if before is not None else spoken.first_token_seconds,
                   tokens_per_second=spoken.tokens_per_second, how=spoken.how, switch_seconds=spoken.switch_seconds,
                   ended=spoken.ended, prompt_tokens=before.prompt_tokens if before is not None else spoken.prompt_tokens,
                   context=spoken.context, seed=spoken.seed if live.seed is None else live.seed, reason=spoken.reason,
                   dropped=spoken.dropped, reused=spoken.reused, problem=spoken.problem)
