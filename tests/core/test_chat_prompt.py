"""Messages to tokens: templates and their end markers, plain text, conversations longer than the context."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.chat import Message, Row, Sampling, answer, count_tokens
from core.chat_prompt import context_of, end_tokens, make_prompt, mode_of, tokens_of
from core.deck import BASE, Deck
from core.errors import BadOption, NoSuchVariant, UnsupportedModel
from tests.conftest import BEGIN, END, byte_tokenizer
from tests.models import (
    make_model,
    one_thread,  # noqa: F401 (takes effect by being here)
    save_model,
)

CHAT = ("{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}" + END + "\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}")

GREEDY = Sampling(temperature=0, repetition_penalty=1, max_new_tokens=500)


def deck_of(folder: Path, template: str | None = CHAT, context: int = 200, **settings: Any) -> Deck:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    model = make_model("llama", max_position_embeddings=context)
    model.generation_config.update(**settings)         # type: ignore[operator, union-attr]
    return Deck(save_model(folder / "base", model, tokenizer), "cpu")


@pytest.fixture
def deck(tmp_path: Path) -> Iterator[Deck]:
    with deck_of(tmp_path) as made:
        yield made


def said(*texts: str) -> tuple[Message, ...]:
    return tuple(Message("assistant" if i % 2 else "user", text) for i, text in enumerate(texts))


def read(deck: Deck, *given: Any, **options: Any) -> str:
    return str(deck.tokenizer(BASE).decode(tokens_of(deck, BASE, *given, **options)))


def test_a_template_is_used_to_the_letter(deck: Deck) -> None:
    assert mode_of(deck, BASE) == "chat"
    assert read(deck, said("hi", "yo", "what?")) == f"[user]hi{END}\n[assistant]yo{END}\n[user]what?{END}\n[assistant]"
    assert count_tokens(deck, BASE, said("hi")) == len(tokens_of(deck, BASE, said("hi"))) == 6 + 2 + 1 + 1 + 11


def test_what_was_begun_stands_at_the_end_as_it_was_said(deck: Deck) -> None:
    assert read(deck, said("hi", " yo, an "), continue_last=True) == f"[user]hi{END}\n[assistant] yo, an "


def test_without_a_template_texts_are_joined(tmp_path: Path) -> None:
    with deck_of(tmp_path, None) as deck:
        assert mode_of(deck, BASE) == "completion"
        system = (Message("system", "A tale."),)
        assert read(deck, said("Once")) == "Once"
        assert read(deck, system + said("Once", " upon", "Then")) == "A tale.\nOnce upon\nThen"
        assert read(deck, said("Once", " upon"), continue_last=True) == "Once upon"
        assert end_tokens(deck, BASE) == {1}


def test_no_text_begins_with_the_beginning(tmp_path: Path) -> None:
    with deck_of(tmp_path, None) as deck:
        assert make_prompt(deck, Row(BASE, said("")), 4).ids == [0]


def test_ends_come_from_config_tokenizer_and_template(tmp_path: Path) -> None:
    with deck_of(tmp_path, CHAT.replace(END, BEGIN), eos_token_id=[7, 9]) as deck:
        assert end_tokens(deck, BASE) == {0, 1, 7, 9}
    with deck_of(tmp_path / "plain", CHAT.replace(END, "//")) as deck:
        assert end_tokens(deck, BASE) == {1}, "what a template writes in plain letters ends nothing"


def test_an_end_marker_of_the_template_ends_the_answer(tmp_path: Path) -> None:
    """A model that says the same token for ever says nothing at all if that token is the end."""
    with deck_of(tmp_path, CHAT.replace(END, BEGIN)) as deck:
        deck.model.lm_head.weight.zero_()
        found = answer(deck, [Row(BASE, said("hi"))], GREEDY, lambda p: None, lambda: False)[0]
        assert (found.ended, found.tokens, found.text, found.tokens_per_second) == ("end", 0, "", 0)


def test_a_system_prompt_that_a_template_refuses_is_put_before_the_first_message(tmp_path: Path) -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT
    with deck_of(tmp_path, refusing) as deck:
        assert read(deck, (Message("system", "Be kind."), *said("hi"))) == f"[user]Be kind.\n\nhi{END}\n[assistant]"


def test_a_template_that_refuses_says_why(tmp_path: Path) -> None:
    with deck_of(tmp_path, "{{ raise_exception('roles must alternate') }}") as deck:
        with pytest.raises(BadOption, match="roles must alternate"):
            tokens_of(deck, BASE, said("hi"))
        assert end_tokens(deck, BASE) == {1}


def test_no_tokenizer_no_such_variant_and_halves_of_characters(tmp_path: Path, deck: Deck) -> None:
    with pytest.raises(NoSuchVariant):
        mode_of(deck, "other")
    assert "hi?" in read(deck, said("hi\ud83d"))
    with Deck(save_model(tmp_path / "bare", make_model("llama")), "cpu") as bare:
        for refused in (lambda: mode_of(bare, BASE), lambda: make_prompt(bare, Row(BASE, said("hi")), 4)):
            with pytest.raises(UnsupportedModel, match="tokenizer"):
                refused()


# ------------------------------------------------------------------------------------------------- context
def test_oldest_turns_are_dropped_whole_and_the_system_stays(deck: Deck) -> None:
    assert context_of(deck, BASE) == 200
    system = (Message("system", "Be brief."),)
    talk = [f"{'question' if i % 2 == 0 else 'reply'} {i}" for i in range(9)]
    prompt = make_prompt(deck, Row(BASE, system + said(*talk)), 20)
    text = deck.tokenizer(BASE).decode(prompt.ids)
    assert len(prompt.ids) + 20 <= 200
    assert prompt.dropped % 2 == 0 and prompt.dropped > 0
    assert text == deck.tokenizer(BASE).decode(tokens_of(deck, BASE, system + said(*talk)[prompt.dropped:]))
    # and no more than had to be
    assert len(tokens_of(deck, BASE, system + said(*talk)[prompt.dropped - 2:])) + 20 > 200
    assert make_prompt(deck, Row(BASE, said("hi")), 20).dropped == 0


def test_an_answer_that_goes_on_keeps_its_question(deck: Deck) -> None:
    row = Row(BASE, said("q" * 60, "a" * 60, "why", "because " * 4), continue_last=True)
    prompt = make_prompt(deck, row, 100)
    assert prompt.dropped == 2
    assert deck.tokenizer(BASE).decode(prompt.ids) == f"[user]why{END}\n[assistant]" + "because " * 4


def test_answers_end_where_the_context_does(deck: Deck) -> None:
    row = Row(BASE, said("x" * 170))
    room = 200 - count_tokens(deck, BASE, row.messages)
    assert make_prompt(deck, row, 500).room == room
    deck.model.lm_head.weight.zero_()                  # it says token 0 for ever, which ends nothing here
    found = answer(deck, [row], GREEDY, lambda p: None, lambda: False)[0]
    assert (found.prompt_tokens, found.context, found.tokens, found.ended) == (200 - room, 200, room, "length")


def test_a_message_that_cannot_fit_is_refused(deck: Deck) -> None:
    with pytest.raises(BadOption, match="too long"):
        make_prompt(deck, Row(BASE, said("x" * 300)), 10)
