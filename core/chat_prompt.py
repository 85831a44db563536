"""Messages to tokens: a variant's own chat template, or plain text for a base without one; oldest turns dropped where needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core.chat_template import render_chat
from core.chat_types import Message, Mode, Row
from core.deck import Deck
from core.errors import BadOption, UnsupportedModel

_MARK = "XYZZY"
"""Stands for an answer when a template is asked what follows one."""
_ROOM = 4
"""At most one part in so many of the context is kept free for the answer by dropping turns."""


@dataclass(frozen=True)
class Prompt:
    """A row's tokens, and what ends its answer. `room`: tokens that the answer may have. `dropped`: messages left out."""

    ids: list[int]
    ends: frozenset[int]
    context: int
    room: int
    mode: Mode
    dropped: int


def mode_of(deck: Deck, variant: str) -> Mode:
    """Whether a variant (or `BASE`) has a chat template, or gets texts to go on with. Raises as `Deck.tokenizer` does."""
    return "chat" if _template(_tokenizer(deck, variant)) else "completion"


def context_of(deck: Deck, variant: str) -> int:
    """How many tokens the model takes, prompt and answer together; 0 where nothing tells."""
    config = deck.model.config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        found = getattr(config, name, None)
        if isinstance(found, int) and found > 0:
            return found
    found = getattr(deck.tokenizer(variant), "model_max_length", None)
    return found if isinstance(found, int) and 0 < found < 1 << 30 else 0


def tokens_of(deck: Deck, variant: str, messages: Sequence[Message], *, continue_last: bool = False) -> list[int]:
    """The tokens that a variant is given for these messages, up to where its answer begins.

    Raises `BadOption` where its template refuses them, `UnsupportedModel` where it has no tokenizer.
    """
    tokenizer = _tokenizer(deck, variant)
    plain = [{"role": m.role, "content": _clean(m.content)} for m in messages]
    begun = plain.pop()["content"] if continue_last else ""
    if not _template(tokenizer):
        return list(tokenizer(_joined(plain) + begun)["input_ids"])
    return list(tokenizer(_rendered(tokenizer, plain) + begun, add_special_tokens=False)["input_ids"])


def make_prompt(deck: Deck, row: Row, max_new_tokens: int) -> Prompt:
    """A row's prompt, within the model's context: turns that don't fit are dropped, oldest first; the system stays.

    Raises as `tokens_of`, and `BadOption` where the last message alone leaves no room, or there is nothing to continue.
    """
    if not row.messages or (row.continue_last and row.messages[-1].role != "assistant"):
        raise BadOption("There is nothing to answer." if not row.messages else "There is no answer to go on with.", "",
                        "Send a message first.")
    context = context_of(deck, row.variant)
    kept, dropped = list(row.messages), 0
    ids = tokens_of(deck, row.variant, kept, continue_last=row.continue_last)
    wanted = min(max_new_tokens, max(1, context // _ROOM))
    while context and len(ids) + wanted > context:
        shorter = _without_oldest_turn(kept)
        if shorter is None:
            break
        dropped += len(kept) - len(shorter)
        kept = shorter
        ids = tokens_of(deck, row.variant, kept, continue_last=row.continue_last)
    room = min(max_new_tokens, context - len(ids)) if context else max_new_tokens
    if room < 1:
        raise BadOption(f"The last message is too long for '{row.variant}': with the system prompt {len(ids):,} tokens.",
                        f"The model takes {context:,}, answer included.", "Shorten it.")
    tokenizer = _tokenizer(deck, row.variant)
    if not ids:
        start = next((i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None), None)
        if start is None:
            raise BadOption("There is nothing to go on with.", f"'{row.variant}' needs some text to begin.", "Write something.")
        ids = [start]
    return Prompt(ids, end_tokens(deck, row.variant), context, room, mode_of(deck, row.variant), dropped)


def end_tokens(deck: Deck, variant: str) -> frozenset[int]:
    """Tokens that end a variant's answer: its generation config's, its tokenizer's, and what its template puts behind one."""
    tokenizer = _tokenizer(deck, variant)
    found = getattr(deck.generation_config(variant), "eos_token_id", None)
    ends = {i for i in (found if isinstance(found, list | tuple) else [found]) if type(i) is int}
    if tokenizer.eos_token_id is not None:
        ends.add(int(tokenizer.eos_token_id))
    if _template(tokenizer):
        try:
            said = _rendered(tokenizer, [{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARK}], ask=False)
        except BadOption:
            return frozenset(ends)
        behind = tokenizer(said.rpartition(_MARK)[2].lstrip(), add_special_tokens=False)["input_ids"]
        special = {int(i) for i, t in tokenizer.added_tokens_decoder.items() if t.special}
        if behind and behind[0] in special:
            ends.add(int(behind[0]))
    return frozenset(ends)


def _without_oldest_turn(messages: list[Message]) -> list[Message] | None:
    """The messages without the first user's and what answered it; None when only the last turn is left."""
    first = next((i for i, m in enumerate(messages) if m.role != "system"), len(messages))
    turns = [i for i in range(first + 1, len(messages)) if messages[i].role == "user"]
    return messages[:first] + messages[turns[0]:] if turns else None


def _tokenizer(deck: Deck, variant: str) -> Any:
    tokenizer = deck.tokenizer(variant)
    if tokenizer is None:
        raise UnsupportedModel(f"'{variant}' has no tokenizer, so it can't read text.", "Its folder and its base's hold none.",
                               "Put the tokenizer's files into the base's folder and load it again.")
    return tokenizer


def _template(tokenizer: Any) -> str | None:
    """A tokenizer's chat template; of several, the one for plain chat."""
    found = getattr(tokenizer, "chat_template", None)
    if isinstance(found, dict):
        found = found.get("default") or next(iter(found.values()), None)
    return found or None


def _rendered(tokenizer: Any, messages: list[dict[str, str]], *, ask: bool = True) -> str:
    """A conversation as the template writes it. Where it takes no system prompt, that is put before the first message."""
    template = _template(tokenizer)

    def render(given: list[dict[str, str]]) -> str:
        return render_chat(tokenizer, given, template=template, ask=ask)
    try:
        return render(messages)
    except ValueError as error:                        # the template's, the sandbox's or a limit's refusal
        if messages and messages[0]["role"] == "system":
            system, *rest = messages
            if rest and rest[0]["role"] == "user":
                rest[0] = {"role": "user", "content": f"{system['content']}\n\n{rest[0]['content']}"}
                try:
                    return render(rest)
                except ValueError:
                    pass
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadOption("The model's chat template can't take this conversation.", f"It said: {said.rstrip('.')}.",
                        "Change the order of messages, or leave the system prompt out.") from error


def _joined(messages: list[dict[str, str]]) -> str:
    """The texts one after another: an answer goes on where the text before it ends, anything else begins a line."""
    text = ""
    for message in messages:
        text += message["content"] if message["role"] == "assistant" or not text else f"\n{message['content']}"
    return text


def _clean(text: str) -> str:
    """Text without halves of surrogate pairs, which tokenizers can't take."""
    return text.encode("utf-8", "replace").decode("utf-8")
