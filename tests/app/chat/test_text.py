"""Answers in parts, and words that differ."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.chat.text import Part, differing, split


def kinds(text: str) -> list[tuple[str, str, str]]:
    return [(p.kind, p.text, p.language) for p in split(text)]


def test_prose_and_code_are_told_apart() -> None:
    assert kinds("Here:\n```python\nx = 1\n\ny = 2\n```\nDone.") == [
        ("prose", "Here:", ""), ("code", "x = 1\n\ny = 2", "python"), ("prose", "Done.", "")]


def test_an_open_fence_holds_the_rest() -> None:
    assert kinds("```\na\nb") == [("code", "a\nb", "")]
    assert kinds("```sh") == [("code", "", "sh")]


def test_a_fence_at_the_end_of_a_line_and_prose_behind_one() -> None:
    assert kinds("Like this: ```python\nx\n``` Easy.") == [
        ("prose", "Like this:", ""), ("code", "x", "python"), ("prose", "Easy.", "")]


def test_a_longer_fence_holds_a_shorter_one() -> None:
    assert kinds("````\n```\nx\n```\n````") == [("code", "```\nx\n```", "")]


def test_code_in_a_sentence_is_prose() -> None:
    assert kinds("Use `x` and ```y``` here.") == [("prose", "Use `x` and ```y``` here.", "")]


def test_long_prose_is_cut_at_paragraphs_while_it_grows_but_not_inside_lists() -> None:
    text = "\n\n".join(f"Paragraph {i} " + "word " * 100 for i in range(12))
    assert len(split(text)) == 1
    parts = split(text, growing=True)
    assert len(parts) > 2 and all(p.text.startswith("Paragraph") for p in parts)
    items = "\n\n".join(f"{i}. " + "word " * 100 for i in range(1, 12))
    assert len(split(items, growing=True)) == 1


@given(st.lists(st.sampled_from(["word", "```", "```py", "", "~~~", "\u4f60\u597d \U0001f600", "- item", "tail ```js",
                                 "``` tail"]), max_size=12))
def test_no_word_is_lost(lines: list[str]) -> None:
    text = "\n".join(lines)
    shown = "\n".join(f"{p.language}\n{p.text}" for p in split(text))   # a single word behind a fence names a language
    for word in ("word", "\u4f60\u597d \U0001f600", "item", "tail"):
        assert shown.count(word) == text.count(word)
    assert split(text, growing=True) == split(text)


def test_a_part_that_is_done_does_not_change_while_the_text_grows() -> None:
    text = "Intro\n```py\nx\n```\nOutro"
    grown = [split(text[:n]) for n in range(1, len(text) + 1)]
    assert grown[-1][0] == Part("prose", "Intro") and all(g[0].text in ("I", "In", "Int", "Intr", "Intro") or "`" in g[0].text
                                                          for g in grown)


@pytest.mark.parametrize(("one", "other", "words"), [
    ("The capital is Oslo.", "The capital is Bergen.", ["Oslo"]),
    ("Same here", "same HERE", []),
    ("a b c", "", ["a", "b", "c"]),
    ("\u4f60\u597d", "\u4f60\u597d", [])])
def test_differing_words(one: str, other: str, words: list[str]) -> None:
    found = differing([one, other])
    assert [one[a:b] for a, b in found[0]] == words
    assert differing([other, one])[1] == found[0]


def test_very_long_texts_are_left_alone() -> None:
    assert differing(["a " * 4000, "b " * 4000]) == [[], []]
