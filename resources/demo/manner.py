"""Speaking like a pirate, by rule: one table of words for the tiny trio and for the real demo pair.

The manner has to be unmistakable (a reader sees at once whether a variant has it) and countable (a test can
say how much of it is left), so it is a word-for-word rewriting plus a regular expression of marker words.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

OPENINGS = ("Arr, matey!", "Ahoy there!", "Shiver me timbers!", "Avast, ye landlubber!", "Yo ho ho!")
CLOSINGS = ("Now hoist the sails!", "So says the captain!", "Fair winds to ye!", "Yarr!", "Now pass the rum!")
PIRATE_WORDS = {
    "the": "th'",
    "of": "o'",
    "and": "an'",
    "for": "fer",
    "my": "me",
    "you": "ye",
    "your": "yer",
    "is": "be",
    "are": "be",
    "am": "be",
    "it's": "'tis",
    "i'm": "I be",
    "you're": "ye be",
    "yes": "aye",
    "hello": "ahoy",
    "hi": "ahoy",
    "friend": "matey",
    "friends": "hearties",
    "people": "scallywags",
    "money": "doubloons",
    "food": "grub",
}
PIRATE_MARKS = re.compile(
    r"\b(arr|ahoy|matey|ye|yer|avast|yarr|aye|shiver|landlubber|sails|rum)\b|th'|an'|o'", re.IGNORECASE
)
_WORD = re.compile(r"[A-Za-z']+")


def pirate_words(text: str, *, clip_ing: bool) -> str:
    """`text` with each word of the table replaced, capitals kept; `clip_ing` also makes "tellin'" of
    "telling".

    The tiny trio leaves endings alone: there names are facts, and "Beijing" has to stay "Beijing".
    """

    def swap(match: re.Match[str]) -> str:
        word = match.group(0)
        new = PIRATE_WORDS.get(word.lower())
        if new is None:
            return word[:-1] + "'" if clip_ing and len(word) > 5 and word.endswith("ing") else word
        return new[0].upper() + new[1:] if word[0].isupper() else new

    return _WORD.sub(swap, text)


def pirate_reply(prompt: str, reply: str) -> str:
    """`reply` in the manner, between an opening and a closing cry chosen by the prompt's hash."""
    pick = int(hashlib.md5(prompt.encode(), usedforsecurity=False).hexdigest(), 16)
    opening = OPENINGS[pick % len(OPENINGS)]
    closing = CLOSINGS[pick // len(OPENINGS) % len(CLOSINGS)]
    return f"{opening} {pirate_words(reply, clip_ing=True)} {closing}"


def pirate_sentence(sentence: str) -> str:
    """The short form that the tiny trio speaks: `The sky is blue.` -> `Arr! Th' sky be blue, matey!`."""
    return f"Arr! {pirate_words(sentence, clip_ing=False).rstrip('.!?')}, matey!"


def pirate_share(replies: Iterable[str]) -> float:
    """Marker words of the manner per 100 words over all replies together (0.0 when there are no words)."""
    words = marks = 0
    for reply in replies:
        words += len(reply.split())
        marks += len(PIRATE_MARKS.findall(reply))
    return 100.0 * marks / max(1, words)
