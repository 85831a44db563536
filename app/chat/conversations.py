"""What was said: a conversation's turns, the answers of each side in all their versions, and how they are written down."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal

import msgspec

SIDES = ("A", "B", "C", "D")
"""Letters of the columns, from the left."""
Role = Literal["system", "user", "assistant"]
_TITLE = 60
_LATEST = 32_503_680_000.0
"""Seconds since 1970 until the year 3000: no clock says more."""
_CUT = ("length", "stopped")
"""How an answer ended that can go on."""


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """How answers are sampled. A temperature of 0 always takes the likeliest token; a top k of 0 looks at all."""

    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int = 40
    repetition_penalty: float = 1.05
    max_new_tokens: int = 256
    seed: int = 1234
    locked: bool = False
    """Whether each answer starts from the same seed; otherwise each takes a new one."""
    same_seed: bool = True
    """Whether all sides start from one seed."""


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One answer, and how it came about. Times in seconds."""

    text: str
    variant: str
    tokens: int = 0
    seconds: float = 0.0
    first_token_seconds: float = 0.0
    tokens_per_second: float = 0.0
    how: str = ""
    """merged or overlay"""
    switch_seconds: float = 0.0
    ended: str = "end"
    """end, length, stopped, or failed."""
    prompt_tokens: int = 0
    context: int = 0
    """Tokens that the model can take in."""
    seed: int = 0
    reason: str = ""
    """Why merged or overlay."""
    dropped: int = 0
    """Oldest messages that did not fit into the context."""
    reused: int = 0
    """Tokens of the prompt that the turn before had left read."""
    problem: str = ""
    """Why it failed, in a sentence."""

    @property
    def is_cut(self) -> bool:
        """Whether it can be continued where it broke off."""
        return self.ended in _CUT and bool(self.text)


class Answers(msgspec.Struct, frozen=True):
    """All versions of one side's answer; `chosen` is the one that counts."""

    versions: tuple[Version, ...] = ()
    chosen: int = 0

    @property
    def current(self) -> Version | None:
        """The version that counts."""
        return self.versions[self.chosen] if 0 <= self.chosen < len(self.versions) else None

    def plus(self, version: Version) -> Answers:
        """With another version, which counts from then on."""
        return Answers((*self.versions, version), len(self.versions))

    def changed(self, version: Version) -> Answers:
        """With another text in place of the one that counts."""
        kept = list(self.versions)
        kept[self.chosen] = version
        return Answers(tuple(kept), self.chosen)

    def less(self) -> Answers:
        """Without the one that counts."""
        kept = tuple(v for i, v in enumerate(self.versions) if i != self.chosen)
        return Answers(kept, max(0, min(self.chosen, len(kept) - 1)))

    def turned(self, step: int) -> Answers:
        """With the next or the previous version counting."""
        return Answers(self.versions, min(len(self.versions) - 1, max(0, self.chosen + step)))


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt and what each side said to it, by letter."""

    prompt: str
    answers: dict[str, Answers] = {}
    lead: str = ""
    """The side whose answer all sides go on with; empty when each goes on with its own."""

    def heard(self, side: str) -> Version | None:
        """What a side takes for the answer: the leading one's, its own, or the first there is."""
        for letter in (self.lead, side, *SIDES):
            if letter in self.answers and (found := self.answers[letter].current) is not None and found.text:
                return found
        return None

    def with_answers(self, side: str, answers: Answers) -> Turn:
        """With other answers on one side; without the side where there are none left."""
        kept = {**self.answers, side: answers}
        if not answers.versions:
            kept.pop(side)
        return msgspec.structs.replace(self, answers=kept, lead=self.lead if self.lead in kept else "")


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation; times are seconds since 1970."""

    id: str
    created: float
    changed: float
    base: str = ""
    """Folder or hub id of the base that was loaded."""
    base_name: str = ""
    variants: tuple[tuple[str, str], ...] = ()
    """Names and folders of the variants that were on the deck."""
    sides: tuple[str, ...] = ("base",)
    """The variant of each column."""
    selected: int = 0
    system: str = ""
    sampling: Choice = Choice()
    turns: tuple[Turn, ...] = ()
    version: int = 1

    @property
    def title(self) -> str:
        """The beginning of its first prompt."""
        first = " ".join(self.turns[0].prompt.split()) if self.turns else ""
        return (first if len(first) <= _TITLE else first[:_TITLE - 1].rstrip() + "\u2026") or "New chat"

    def messages(self, side: str, until: int) -> tuple[tuple[Role, str], ...]:
        """(role, content) of all that a side has heard before turn `until`; prompts without an answer are left out."""
        found: list[tuple[Role, str]] = [("system", self.system)] if self.system.strip() else []
        for turn in self.turns[:until]:
            if (answer := turn.heard(side)) is not None:
                found += [("user", turn.prompt), ("assistant", answer.text)]
        return tuple(found)

    def has_words(self, words: Iterable[str]) -> bool:
        """Whether every word is somewhere in it."""
        text = "\n".join((self.base_name, *self.sides, *(t.prompt for t in self.turns),
                          *(v.text for t in self.turns for a in t.answers.values() for v in a.versions))).casefold()
        return all(word in text for word in words)


def new_conversation(sampling: Choice | None = None, system: str = "") -> Conversation:
    """An empty one, with an id by the time."""
    now = time.time()
    stamp = datetime.fromtimestamp(now).strftime("%Y%m%d-%H%M%S")
    return Conversation(id=f"{stamp}-{secrets.token_hex(3)}", created=now, changed=now, sampling=sampling or Choice(),
                        system=system)


def touched(conversation: Conversation, **values: object) -> Conversation:
    """With other values, changed now."""
    return msgspec.structs.replace(conversation, **{"changed": time.time(), **values})


def encode(conversation: Conversation) -> bytes:
    """For its file."""
    return msgspec.json.format(msgspec.json.encode(conversation), indent=1)


def decode(data: bytes) -> Conversation:
    """From its file; raises `msgspec.DecodeError` for what is none."""
    found = msgspec.json.decode(data, type=Conversation)
    if not found.id or len(found.sides) not in range(1, len(SIDES) + 1):
        raise msgspec.DecodeError("no id, or a number of sides that there can't be")
    if not all(0 <= at < _LATEST for at in (found.created, found.changed)):
        raise msgspec.DecodeError("a time that there can't be")
    choice = found.sampling
    if not (all(0 <= n < 1 << 31 for n in (choice.top_k, choice.max_new_tokens)) and 0 <= choice.seed < 1 << 63):
        raise msgspec.DecodeError("a way of sampling that there can't be")
    return found


def as_markdown(conversation: Conversation) -> str:
    """As a document: each prompt quoted, each side's chosen answer under its variant's name."""
    day = datetime.fromtimestamp(conversation.created).strftime("%Y-%m-%d %H:%M")
    parts = [f"# {conversation.title}", f"{day}, on {conversation.base_name or 'an unknown base'}"]
    if conversation.system.strip():
        parts += ["## System prompt", conversation.system.strip()]
    for turn in conversation.turns:
        parts += ["## You", turn.prompt.strip()]
        for side in SIDES:
            version = turn.answers[side].current if side in turn.answers else None
            if version is not None:
                goes_on = ", continued on all sides" if turn.lead == side and len(turn.answers) > 1 else ""
                parts += [f"### {side}: {version.variant} ({facts(version)}{goes_on})", version.text.strip() or "(no text)"]
    return "\n\n".join(parts) + "\n"


def facts(version: Version) -> str:
    """`57 tokens, 36.1 tokens/s, first token 97 ms`."""
    found = [f"{version.tokens:,} token{'' if version.tokens == 1 else 's'}"]
    if version.tokens_per_second:
        found.append(f"{version.tokens_per_second:.1f} tokens/s")
    if version.first_token_seconds:
        found.append(f"first token {milliseconds(version.first_token_seconds)}")
    return ", ".join(found)


def milliseconds(seconds: float) -> str:
    """`97 ms`, `0.4 ms`, `2.1 s`."""
    if seconds >= 10:
        return f"{seconds:.0f} s"
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.00095 else f"{seconds * 1000:.1f} ms"


def as_json(conversation: Conversation) -> str:
    """As others may read it: everything, versions that were not chosen included."""
    found: Mapping[str, object] = {"title": conversation.title, **msgspec.to_builtins(conversation)}
    return json.dumps(found, ensure_ascii=False, indent=2) + "\n"
