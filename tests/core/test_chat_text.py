"""Streaming detokenisation: the pieces are whole, and together they are the text."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from core.chat_text import Detokenizer, unfinished
from core.demo import tiny_trio
from tests.conftest import byte_tokenizer

BYTES = byte_tokenizer()
MERGES = AutoTokenizer.from_pretrained(tiny_trio().base)
MIXED = st.text(st.one_of(
    st.characters(codec="utf-8"), st.sampled_from("aé\u0301你好界👍🏽👩\u200d🇩🇪🇫🇷한ㅏกำनि\u0941\ufe0f\ufffd \n")), max_size=60)


def byte_fallback() -> PreTrainedTokenizerFast:
    """Pieces as sentencepiece writes them, bytes for what it has no piece for."""
    pieces = ["<unk>", *(f"<0x{b:02X}>" for b in range(256)), "\u2581", "\u2581a", "b", "\u4f60"]
    tokenizer = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def decoder(tokenizer: Any) -> Callable[[Sequence[int]], str]:
    return partial(tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def pieces_of(ids: Sequence[int], tokenizer: Any = BYTES, *, more: bool = False) -> list[str]:
    text = Detokenizer(decoder(tokenizer))
    found = [piece for token in ids if (piece := text.add(token))]
    last = text.finish(more=more)
    assert text.said == "".join(found) + last
    return [*found, *([last] if last else [])]


@settings(deadline=None, max_examples=300)
@given(MIXED)
def test_pieces_are_the_text_and_hold_whole_characters(text: str) -> None:
    ids = BYTES(text)["input_ids"]
    pieces = pieces_of(ids)
    assert "".join(pieces) == BYTES.decode(ids) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.integers(0, 257), max_size=120))
def test_any_bytes_at_all_come_out_as_they_decode(ids: list[int]) -> None:
    assert "".join(pieces_of(ids)) == decoder(BYTES)(ids)


@settings(deadline=None, max_examples=200)
@given(MIXED, st.lists(st.integers(0, 1023), max_size=80))
def test_tokens_of_several_bytes(text: str, ids: list[int]) -> None:
    for given_ids in (MERGES(text)["input_ids"], ids, MERGES(text)["input_ids"] + ids):
        assert "".join(pieces_of(given_ids, MERGES)) == decoder(MERGES)(given_ids)


@settings(deadline=None, max_examples=200)
@given(MIXED)
def test_with_byte_fallback_and_a_space_that_the_start_loses(text: str) -> None:
    tokenizer = byte_fallback()
    ids = [257, *(1 + b for b in text.encode()), 258, 259, 260, 257]
    assert "".join(pieces_of(ids, tokenizer)) == decoder(tokenizer)(ids)


@pytest.mark.parametrize("cluster", ["👍🏽", "👩\u200d💻", "🇩🇪", "각", "é", "नि", "กำ", "❤\ufe0f", "👨\u200d👩\u200d👧\u200d👦"])
def test_no_piece_cuts_what_is_read_as_one(cluster: str) -> None:
    cluster = unicodedata.normalize("NFD", cluster) if cluster == "각" else cluster
    pieces = pieces_of(BYTES(f"你{cluster}好, {cluster}{cluster}!")["input_ids"])
    assert "".join(pieces).count(cluster) == sum(piece.count(cluster) for piece in pieces) == 3
    assert unfinished(f"x{cluster}") == len(cluster)


def test_plain_letters_do_not_wait() -> None:
    assert pieces_of(BYTES("plain")["input_ids"]) == list("plain")
    assert [unfinished(t) for t in ("", "a", "a\n", "é", "你好", "🇩🇪🇫")] == [0, 0, 0, 1, 1, 1]


def test_half_a_character_is_left_for_later_or_told_as_it_is() -> None:
    half = BYTES("hi 👍")["input_ids"][:-1]
    assert pieces_of(half, more=True) == ["h", "i", " "]
    assert "".join(pieces_of(half)) == BYTES.decode(half)


def test_long_texts_are_decoded_in_windows() -> None:
    longest = 0

    def decode(ids: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return str(BYTES.decode(list(ids)))
    said = Detokenizer(decode)
    text = "日本語と👩\u200d💻 " * 40
    for token in BYTES(text)["input_ids"]:
        said.add(token)
    assert longest < 100
    said.finish(more=False)
    assert said.said == text
