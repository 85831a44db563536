"""What the chat needs of the engine, as a contract that a test can stand in for. Imports the engine only when it is called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from app.chat.conversations import Choice, Role

if TYPE_CHECKING:
    from core.chat import Message

BASE = "base"
"""The base's name as a variant."""
Mode = Literal["chat", "completion"]
Messages = tuple[tuple[Role, str], ...]
"""(role, content)."""


@dataclass(frozen=True)
class Ask:
    """One row of a batch: who is to answer what. With `continue_last` the last message, an assistant's, is gone on with.

    What was read is kept by `column` for the next one.
    """

    variant: str
    messages: Messages
    continue_last: bool = False
    column: int = 0


@dataclass(frozen=True)
class Spoken:
    """One row's answer; times in seconds. `ended`: end, length, stopped, failed. `text` has no part of what was continued."""

    variant: str
    text: str
    tokens: int
    seconds: float
    first_token_seconds: float
    tokens_per_second: float
    how: str
    switch_seconds: float
    ended: str
    prompt_tokens: int
    context: int
    dropped: int = 0
    seed: int = 0
    reason: str = ""
    problem: str = ""
    reused: int = 0


@dataclass(frozen=True)
class Switch:
    """What a switch did: who answers now, merged or overlay, why, how many tensors, in how many seconds."""

    variant: str
    how: str
    reason: str
    tensors: int
    seconds: float


@dataclass(frozen=True)
class DeckFacts:
    """A deck at a glance: bytes of the parameters and of the process, tokens of context, who answers now, how and why; and over
    what the base is spread where it needs more than one device ("2 GPUs and the CPU")."""

    weights: int
    process: int
    context: int
    current: str
    how: str
    reason: str = ""
    spread: str = ""


class Engine(Protocol):
    """Decks and answers. All but the constructor is called on the chat's thread."""

    def open(self, base: str, device: str, offline: bool) -> Any:
        """Load a base; a deck with add, remove, switch, assign, memory, in_the_way and close, as `core.deck.Deck` has."""

    def facts(self, deck: Any) -> DeckFacts:
        """What it takes."""

    def mode(self, deck: Any, variant: str) -> Mode:
        """Whether a variant has a chat template."""

    def count(self, deck: Any, variant: str, messages: Messages) -> int:
        """Tokens of a prompt."""

    def forget(self, deck: Any, columns: Sequence[str]) -> None:
        """Let go of what is kept for the next turn but where a column still has its variant."""

    def answer(self, deck: Any, asks: Sequence[Ask], sampling: Choice, seed: int | None, tell: Callable[[int, str], None],
               stopped: Callable[[], bool]) -> list[Spoken]:
        """Answer a batch; `tell(row, text)` as text comes. Without a seed each row takes its own."""


class CoreEngine:
    """The real one."""

    def open(self, base: str, device: str, offline: bool) -> Any:
        """See `core.deck.Deck`."""
        from core.deck import Deck

        return Deck(base, device, offline=offline or None)

    def facts(self, deck: Any) -> DeckFacts:
        """Sizes of the parameters, and memory as the deck measures it."""
        from core.chat import context_of

        weights = sum(p.nbytes for p in deck.model.parameters())
        return DeckFacts(weights, deck.memory().process, context_of(deck, BASE), deck.current, deck.how, spread=deck.spread)

    def mode(self, deck: Any, variant: str) -> Mode:
        """See `core.chat.mode_of`."""
        from core.chat import mode_of

        return mode_of(deck, variant)

    def count(self, deck: Any, variant: str, messages: Messages) -> int:
        """See `core.chat.count_tokens`."""
        from core.chat import count_tokens

        return count_tokens(deck, variant, _typed(messages))

    def forget(self, deck: Any, columns: Sequence[str]) -> None:
        """See `core.chat.forget`."""
        from core.chat import forget

        forget(deck, columns)

    def answer(self, deck: Any, asks: Sequence[Ask], sampling: Choice, seed: int | None, tell: Callable[[int, str], None],
               stopped: Callable[[], bool]) -> list[Spoken]:
        """See `core.chat.answer`."""
        from core.chat import Piece, Row, Sampling, answer

        rows = [Row(a.variant, _typed(a.messages), a.continue_last, a.column) for a in asks]
        wanted = Sampling(sampling.temperature, sampling.top_p, sampling.top_k, sampling.repetition_penalty,
                          sampling.max_new_tokens, seed)

        def told(piece: Piece) -> None:
            tell(piece.row, piece.text)
        return [Spoken(a.variant, a.text, a.tokens, a.seconds, a.first_token_seconds, a.tokens_per_second, a.how,
                       a.switch_seconds, a.ended, a.prompt_tokens, a.context, a.dropped, a.seed, a.reason, a.problem,
                       a.reused)
                for a in answer(deck, rows, wanted, told, stopped)]


def _typed(messages: Messages) -> tuple[Message, ...]:
    from core.chat import Message

    return tuple(Message(role, content) for role, content in messages)


def weight_bytes(folder: Path) -> int:
    """Bytes of a folder's safetensors files; 0 where they can't be counted."""
    try:
        return sum(p.stat().st_size for p in folder.iterdir() if p.suffix == ".safetensors")
    except OSError:
        return 0
