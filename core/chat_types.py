"""What travels between a chat and whoever shows it: messages in, pieces of text and answers out."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from core.errors import BadOption

Role = Literal["system", "user", "assistant"]
Mode = Literal["chat", "completion"]
Ended = Literal["end", "length", "stopped", "failed"]


class Sampling(msgspec.Struct, frozen=True):
    """How the next token is drawn. Temperature 0 takes the likeliest; top_p 1, top_k 0 and repetition_penalty 1 are off.

    Without a seed each row draws its own; a seed holds for every row, so that a row beside others says what it says alone.
    """

    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int = 40
    repetition_penalty: float = 1.05
    max_new_tokens: int = 256
    seed: int | None = None

    def check(self) -> None:
        """Raise `BadOption` for a value that can't be used."""
        def number(x: float, low: float, high: float = math.inf) -> bool:
            return math.isfinite(x) and low <= x <= high
        for name, fits, rule in (
                ("temperature", number(self.temperature, 0), "It must be 0 or more"),
                ("top_p", number(self.top_p, 0, 1) and self.top_p > 0, "It must be above 0 and at most 1"),
                ("top_k", self.top_k >= 0, "It must be 0 (off) or more"),
                ("repetition_penalty", number(self.repetition_penalty, 0) and self.repetition_penalty > 0,
                 "It must be above 0; 1 is off"),
                ("max_new_tokens", self.max_new_tokens >= 1, "It must be 1 or more"),
                ("seed", self.seed is None or 0 <= self.seed < 2**63, "It must be a whole number from 0")):
            if not fits:
                raise BadOption(f"{name.replace('_', ' ').capitalize()} {getattr(self, name)} can't be used.", f"{rule}.",
                                "Choose another value.")


class Message(msgspec.Struct, frozen=True):
    """One thing that was said."""

    role: Role
    content: str


class Row(msgspec.Struct, frozen=True):
    """What one variant (or the base) is to answer; `continue_last` goes on with the last message, its own unfinished answer.

    What it read and said is kept under `column` until the next answer there, which reads only what is new since.
    """

    variant: str
    messages: tuple[Message, ...]
    continue_last: bool = False
    column: int = 0


class Piece(msgspec.Struct, frozen=True):
    """Text that a row has just said: whole characters, to be put behind what it said before."""

    row: int
    text: str


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A row's answer.

    `text`: what was said now (without the part that was continued), all pieces joined. `tokens`: said, without the end
    marker. `seconds` run from the first prompt token to the row's end and `first_token_seconds` to its first token, both
    without `switch_seconds`; `tokens_per_second` is the pace behind the first token. `ended`: by itself ("end"), at
    max_new_tokens or the context's end ("length"), "stopped", or "failed" (then `problem` says what, why and what to do).
    Of `context` tokens (0: unknown) the prompt has `prompt_tokens`, of which `reused` had been read by an answer before.
    `dropped` oldest messages did not fit and were left out. `seed` is what it was drawn with. `reason` says why merged or
    overlay.
    """

    variant: str
    text: str
    tokens: int
    seconds: float
    first_token_seconds: float
    tokens_per_second: float
    how: str
    switch_seconds: float
    ended: Ended
    prompt_tokens: int
    context: int
    mode: Mode = "chat"
    dropped: int = 0
    seed: int = 0
    reason: str = ""
    problem: str = ""
    reused: int = 0
