"""A conversation answered by variants of a deck, token by token: alone, or side by side in one batch.

Each row is asked in its variant's own words (chat template, tokenizer, end markers), drawn with its own random numbers, and
ends on its own. Whatever happens, the deck is free again afterwards and what was said is kept.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from functools import partial

import torch

from core.chat_decode import Said, decode, end
from core.chat_prompt import Prompt, context_of, make_prompt, mode_of, tokens_of
from core.chat_sampling import Sampler
from core.chat_text import Detokenizer
from core.chat_types import Answer, Message, Mode, Piece, Row, Sampling
from core.deck import WAYS, Deck, Switched
from core.errors import BadOption, Cancelled, DeltadeckError
from core.shortage import is_out_of_memory, memory_words

__all__ = ["Answer", "Message", "Mode", "Piece", "Row", "Sampling", "answer", "context_of", "count_tokens", "forget",
           "mode_of"]


def count_tokens(deck: Deck, variant: str, messages: Sequence[Message]) -> int:
    """Tokens of a variant's prompt for these messages, of the `context_of` it; nothing is dropped. Needs no lock.

    Raises `NoSuchVariant`, `BadOption` where its template refuses the messages, `UnsupportedModel` without a tokenizer.
    """
    return len(tokens_of(deck, variant, messages))


def answer(deck: Deck, rows: Sequence[Row], sampling: Sampling, tell: Callable[[Piece], None], stopped: Callable[[], bool],
           how: str = "auto") -> list[Answer]:
    """Answer all rows; one answer per row, in order.

    Several rows are one batch with their variants laid over; with `how` "merged", or where a variant can't be laid over, they
    come one after another. `tell` gets pieces as they come and `stopped` is asked between tokens, both on the calling thread.
    Raises, before anything is said: `BadOption`, `NoSuchVariant`, `DeckBusy`, `UnsupportedModel`, and what `Deck.switch` does. A
    failure later on makes an answer "failed" with what was said until then; what `tell` raises goes through.
    """
    sampling.check()
    if not rows:
        raise BadOption("There is nothing to answer.", "", "Send a message first.")
    if how not in WAYS:
        raise BadOption(f"A variant can't be put on by '{how}'.", "", f"Choose one of: {', '.join(WAYS)}.")
    asked = list(dict.fromkeys(f"'{row.variant}'" for row in rows))
    with deck.busy(f"{' and '.join(asked)} {'is' if len(asked) == 1 else 'are'} generating an answer."):
        prompts = [make_prompt(deck, row, sampling.max_new_tokens) for row in rows]
        seeds = [secrets.randbits(32) if sampling.seed is None else sampling.seed for _ in rows]
        said = [_begin(deck, *given, sampling) for given in zip(rows, prompts, seeds, strict=True)]
        together = _assign(deck, rows, how) if len(rows) > 1 and how != "merged" else None
        if together is None:
            return [_alone(deck, i, *given, tell, stopped, how) for i, given in enumerate(zip(rows, said, seeds, strict=True))]
        names = [row.variant for row in rows]
        try:
            problem = _run(deck, said, lambda row, text: tell(Piece(row, text)), stopped,
                           lambda left: deck.assign([names[i] for i in left]))
        finally:
            deck.assign(names)                         # rows that ended left the batch
        _keep(deck, rows, said, problem)
        return [_answer(row, s, together, seed, problem) for row, s, seed in zip(rows, said, seeds, strict=True)]


def forget(deck: Deck, columns: Sequence[str] = ()) -> None:
    """Let go of what is kept for the next turn but where a column still has its variant; by default, of everything."""
    for column, (variant, _) in list(deck.kept.items()):
        if column >= len(columns) or columns[column] != variant:
            del deck.kept[column]


def _keep(deck: Deck, rows: Sequence[Row], said: Sequence[Said], problem: str) -> None:
    """Keep what was read and said for the next turn; after a failure, nothing."""
    for row, one in zip(rows, said, strict=True):
        if one.kept is not None and not problem:
            deck.kept[row.column] = row.variant, one.kept
        one.kept = None


def _alone(deck: Deck, at: int, row: Row, said: Said, seed: int, tell: Callable[[Piece], None], stopped: Callable[[], bool],
           how: str) -> Answer:
    """One row's answer, in a batch of its own. The first row's failure to be switched on is raised, a later one's noted."""
    nothing = Switched(row.variant, deck.how, "", 0, 0.0)
    if at and stopped():
        said.ended = "stopped"
        return _answer(row, said, nothing, seed, "")
    try:
        switched = deck.switch(row.variant, how)
    except DeltadeckError as error:
        if not at:
            raise
        said.ended = "failed"
        return _answer(row, said, nothing, seed, str(error))
    problem = _run(deck, [said], lambda _, text: tell(Piece(at, text)), stopped, lambda left: None)
    _keep(deck, [row], [said], problem)
    return _answer(row, said, switched, seed, problem)


def _begin(deck: Deck, row: Row, prompt: Prompt, seed: int, sampling: Sampling) -> Said:
    tokenizer = deck.tokenizer(row.variant)
    text = Detokenizer(partial(tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    variant, kept = deck.kept.pop(row.column, ("", None))
    return Said(prompt, Sampler(sampling, prompt.ids, prompt.ends, seed), text, kept=kept if variant == row.variant else None)


def _assign(deck: Deck, rows: Sequence[Row], how: str) -> Switched | None:
    """All variants at once; None where one of them can't be laid over and nobody insists."""
    try:
        return deck.assign([row.variant for row in rows])
    except BadOption:
        if how == "overlay":
            raise
        return None


def _run(deck: Deck, said: Sequence[Said], tell: Callable[[int, str], None], stopped: Callable[[], bool],
         narrow: Callable[[Sequence[int]], object]) -> str:
    """Decode, and close what is still open; returns what went wrong, if something did."""
    raised: list[BaseException] = []

    def guarded(row: int, text: str) -> None:
        try:
            tell(row, text)
        except BaseException as error:
            raised.append(error)
            raise

    problem = ""
    try:
        decode(deck.model, said, guarded, stopped, narrow)
    except Exception as error:
        if raised or isinstance(error, Cancelled):
            raise
        problem = _words(error, deck.device)
    for i, row in enumerate(said):
        if not row.ended:
            end(row, "failed" if problem else "stopped", i, tell)
    return problem


def _words(error: Exception, device: torch.device) -> str:
    """A failure of the model's in words."""
    if isinstance(error, DeltadeckError):
        return str(error)
    said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    if is_out_of_memory(error):
        return (f"There is too little memory to go on: {memory_words(error, device)}. Close other programs, or begin a new "
                "conversation.")
    return f"The model could not go on. It said: {type(error).__name__}: {said}. Try again; if it persists, load the base again."


def _answer(row: Row, said: Said, switched: Switched, seed: int, problem: str) -> Answer:
    after = said.seconds - said.first
    pace = (said.tokens - 1) / after if said.tokens > 1 and after > 0 else 0.0
    if said.tokens == 1 and said.seconds > 0:
        pace = 1 / said.seconds
    ended = said.ended
    return Answer(variant=row.variant, text=said.text.said, tokens=said.tokens, seconds=said.seconds,
                  first_token_seconds=said.first, tokens_per_second=pace, how=switched.how, switch_seconds=switched.seconds,
                  ended=ended or "stopped", prompt_tokens=len(said.prompt.ids), context=said.prompt.context,
                  mode=said.prompt.mode, dropped=said.prompt.dropped, seed=seed, reason=switched.reason,
                  problem=problem if ended == "failed" else "", reused=said.reused)
