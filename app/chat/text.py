"""Text of an answer in parts: prose to be shown as Markdown, and code as it is; and words in which answers differ."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[ \t]*([\w+#.-]*|\{[^`\n]*)[ \t]*$")
_LATE = re.compile(r"^(?P<said>(?:(?!```).)*[^`\s])[ \t]*(?P<fence>```[\w+#.-]*)$")
"""A fence at the end of a line of prose, as small models write it."""
_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*|[^\w\s]|_")
_LONG = 1500
"""Characters of prose from which a part ends at its next paragraph: only the last part is rendered anew while it grows."""
_MOST_WORDS = 6000


@dataclass(frozen=True)
class Part:
    """A stretch of prose, or of code in a language."""

    kind: str
    text: str
    language: str = ""


def split(text: str, *, growing: bool = False) -> tuple[Part, ...]:
    """Cut at fences of code; a fence that is still open holds the rest. With `growing`, long prose is cut at paragraphs too."""
    parts: list[Part] = []
    lines: list[str] = []
    fence, language = "", ""

    def end(kind: str) -> None:
        body = "\n".join(lines)
        if kind == "code" or body.strip():
            parts.append(Part(kind, body if kind == "code" else body.strip("\n"), language if kind == "code" else ""))
        lines.clear()
    length = 0
    for line in text.split("\n"):
        if not fence and (late := _LATE.match(line)):
            lines.append(late["said"])
            line = late["fence"]
        match = _FENCE.match(line)
        if not fence and match:
            end("prose")
            fence, language, length = match[1], match[2].strip().split(" ")[0], 0
        elif fence and match and match[1].startswith(fence) and not match[2].strip():
            end("code")
            fence = language = ""
        elif fence and line.startswith(fence + " "):   # a fence that the prose goes on behind
            end("code")
            lines.append(line[len(fence):].lstrip())
            fence = language = ""
        else:
            if growing and not fence and length > _LONG and lines and not lines[-1].strip() and re.match(r"[A-Za-z#*\w]", line) \
                    and not re.match(r"(\d+[.)]|[*+-])\s", line):
                end("prose")
                length = 0
            lines.append(line)
            length += len(line) + 1
    if fence or lines:
        end("code" if fence else "prose")
    return tuple(parts)


def differing(texts: Sequence[str]) -> list[list[tuple[int, int]]]:
    """For each text the (start, end) of the words that some other text does not have in that place.

    Words are compared by themselves, whatever stands between them; texts beyond some thousand words are left alone.
    """
    words = [[(m.start(), m.end(), m[0].casefold()) for m in _WORD.finditer(text)] for text in texts]
    if sum(map(len, words)) > _MOST_WORDS:
        return [[] for _ in texts]
    kept = [set(range(len(w))) for w in words]
    for i, one in enumerate(words):
        for j, other in enumerate(words):
            if j > i:
                matcher = SequenceMatcher(None, [w[2] for w in one], [w[2] for w in other], autojunk=False)
                blocks = matcher.get_matching_blocks()
                kept[i] &= {b.a + k for b in blocks for k in range(b.size)}
                kept[j] &= {b.b + k for b in blocks for k in range(b.size)}
    return [[(w[0], w[1]) for k, w in enumerate(found) if k not in same] for found, same in zip(words, kept, strict=True)]
