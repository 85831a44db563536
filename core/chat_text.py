"""Tokens to text as they come: whole characters only, nothing lost, the pieces' sum being the text of all tokens.

A token may hold a part of a character: emoji and rare CJK characters take several byte tokens. What can't be read yet
decodes to U+FFFD at the text's end, and waits. So does a last character outside ASCII that others may still join (skin
tones, joiners, flags, accents, vowel signs), so that no piece cuts what a reader sees as one character.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence

_UNREAD = "\ufffd"
_JOINER = "\u200d"
_WINDOW, _KEPT = 48, 12
"""Tokens after which the decoded window is moved on, and how many of them it keeps."""
_MOST_WAITING = 32
"""Characters that may wait, against endless chains of marks."""


def _flag(char: str) -> bool:
    return "\U0001f1e6" <= char <= "\U0001f1ff"


def _joins(char: str) -> bool:
    """Whether a character becomes one with the one before it."""
    return (char in (_JOINER, "\u0e33", "\u0eb3") or unicodedata.category(char).startswith("M")
            or "\U0001f3fb" <= char <= "\U0001f3ff" or "\u1160" <= char <= "\u11ff" or "\U000e0020" <= char <= "\U000e007f")


def unfinished(text: str) -> int:
    """How many characters at a text's end may still grow into one with what follows."""
    if not text or text[-1].isascii():
        return 0
    at = len(text) - 1
    first = max(0, len(text) - _MOST_WAITING)
    while at > first:
        if _joins(text[at]) or text[at - 1] == _JOINER:
            at -= 1
        elif _flag(text[at]):
            start = at
            while start > 0 and _flag(text[start - 1]):
                start -= 1
            at -= (at - start) % 2                     # flags are pairs; the last one may be half there
            break
        else:
            break
    return len(text) - at


class Detokenizer:
    """The text of a growing sequence of tokens; `decode` turns ids into text, leaving special tokens out."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self.decode = decode
        self.ids: list[int] = []
        self.said = ""
        self._start = 0        # of the window of tokens that is decoded each time
        self._told = 0         # characters of the window's text that were given out

    def add(self, token: int) -> str:
        """The text that this token completes; often empty."""
        self.ids.append(token)
        text = self.decode(self.ids[self._start:])
        read = len(text.rstrip(_UNREAD))
        piece = text[self._told:read - unfinished(text[:read])]
        self._told += len(piece)
        self.said += piece
        if read == len(text) and len(self.ids) - self._start >= _WINDOW:
            self._move(text)
        return piece

    def _move(self, text: str) -> None:
        """Let go of the window's older tokens, if what is left means the same without them."""
        start = len(self.ids) - _KEPT
        kept = self.decode(self.ids[start:])
        waiting = len(text) - self._told
        if text.endswith(kept) and waiting <= len(kept):
            self._start, self._told = start, len(kept) - waiting

    def finish(self, *, more: bool) -> str:
        """What still waited. With `more` to come later, a character of which a part was said is left for then."""
        text = self.decode(self.ids)
        piece = text[len(self.said):] if text.startswith(self.said) else self.decode(self.ids[self._start:])[self._told:]
        if more:
            piece = piece.rstrip(_UNREAD)
        self.said += piece
        return piece
