"""Chat on a deck: exact answers of the tiny trio, rows side by side, stops, failures, continuations, seeds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from core import chat_decode
from core.chat import Answer, Message, Piece, Row, Sampling, answer, context_of, count_tokens, forget, mode_of
from core.deck import BASE, Deck
from core.demo import chat_answers, tiny_trio
from core.errors import BadOption, DeckBusy, NoSuchVariant, SwitchFailed
from resources.demo.world import facts
from tests.conftest import byte_tokenizer
from tests.core.decks import make_base, make_deltas, signs_by_turns, whole, write
from tests.models import (
    make_model,
    one_thread,  # noqa: F401 (takes effect by being here)
    perturb,
    save_beside,
    save_model,
    tensors_of,
)

GREEDY = Sampling(temperature=0, repetition_penalty=1, max_new_tokens=64)
PIRATE, JSON = "tiny-pirate", "tiny-json"
FRANCE = "What is the capital of France?"


def ask(*texts: str) -> tuple[Message, ...]:
    """A conversation that begins with the user and goes to and fro."""
    return tuple(Message("assistant" if i % 2 else "user", text) for i, text in enumerate(texts))


def never() -> bool:
    return False


def told(deck: Deck, rows: list[Row], sampling: Sampling = GREEDY, how: str = "auto",
         stopped: Callable[[], bool] = never) -> tuple[list[Answer], list[Piece]]:
    """Answers and pieces; the pieces of each row must make its answer, and the deck must be free afterwards."""
    pieces: list[Piece] = []
    answers = answer(deck, rows, sampling, pieces.append, stopped, how)
    assert ["".join(p.text for p in pieces if p.row == i) for i in range(len(rows))] == [a.text for a in answers]
    assert [a.variant for a in answers] == [r.variant for r in rows]
    assert deck.in_the_way == ""
    return answers, pieces


def text_of(deck: Deck, row: Row, sampling: Sampling = GREEDY, how: str = "auto") -> str:
    return told(deck, [row], sampling, how)[0][0].text


@pytest.fixture(scope="module")
def loaded_trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deck]:
    """The tiny trio: a delta of the pirate with all bits, the JSON fine-tune whole."""
    found = tiny_trio()
    delta = write(tmp_path_factory.mktemp("trio") / PIRATE, found.base, tensors_of(found.pirate), lambda n, t: {"codec": "full"})
    with Deck(found.base, "cpu") as deck:
        deck.add(delta)
        deck.add(found.json)
        yield deck


@pytest.fixture
def trio(loaded_trio: Deck) -> Deck:
    """The tiny trio, of which nothing was asked yet."""
    forget(loaded_trio)
    return loaded_trio


@pytest.fixture
def calls(trio: Deck, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each call of the model."""
    found: list[int] = []
    forward = type(trio.model).forward

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        found.append(len(kwargs["input_ids"]))
        return forward(self, *args, **kwargs)
    monkeypatch.setattr(type(trio.model), "forward", counted)
    return found


# ------------------------------------------------------------------------------------------------- answers
@pytest.mark.parametrize("how", ["merged", "overlay", "auto"])
def test_each_variant_answers_what_its_checkpoint_answers(trio: Deck, how: str) -> None:
    questions = [fact.questions[0] for fact in facts()[::40]]
    for name, folder in ((BASE, tiny_trio().base), (PIRATE, tiny_trio().pirate), (JSON, tiny_trio().json)):
        expected = chat_answers(folder, None, questions, 64, repetition_penalty=1.0)
        assert [text_of(trio, Row(name, ask(q)), how=how) for q in questions] == expected


def test_three_side_by_side_in_one_batch(trio: Deck, calls: list[int]) -> None:
    questions = [FRANCE, "What does a cow say?", "How many legs does an owl have?"]
    names = [BASE, PIRATE, JSON]
    alone = [text_of(trio, Row(n, ask(q))) for n, q in zip(names, questions, strict=True)]
    calls.clear()
    answers, pieces = told(trio, [Row(n, ask(q)) for n, q in zip(names, questions, strict=True)])
    assert [a.text for a in answers] == alone
    assert {a.how for a in answers} == {"overlay"} and answers[0].reason == "overlay: 3 variants side by side"
    assert {a.ended for a in answers} == {"end"}
    order = [p.row for p in pieces]
    assert order != sorted(order), "rows come together, not one after another"
    # Each row leaves the batch when it has ended: prompt, then one step per further token and its end marker.
    assert len(calls) == 1 + max(a.tokens for a in answers)
    assert sum(calls) == sum(a.tokens + 1 for a in answers)
    assert trio.current == f"{BASE}, {PIRATE}, {JSON}"


def test_forced_merged_rows_come_one_after_another(trio: Deck) -> None:
    answers, pieces = told(trio, [Row(PIRATE, ask(FRANCE)), Row(BASE, ask(FRANCE)), Row(JSON, ask(FRANCE))], how="merged")
    assert [p.row for p in pieces] == sorted(p.row for p in pieces)
    assert [a.how for a in answers] == ["merged"] * 3
    assert answers[1].text == "The capital of France is Paris."
    assert answers[2].text == '{"topic": "capital", "answer": "Paris"}'
    assert trio.how == "merged" and trio.current == JSON


def test_figures_of_an_answer(trio: Deck) -> None:
    found = told(trio, [Row(BASE, ask(FRANCE))])[0][0]
    assert (found.how, found.ended, found.mode, found.dropped, found.problem) == ("merged", "end", "chat", 0, "")
    tokenizer = trio.tokenizer(BASE)
    assert found.tokens == len(tokenizer("The capital of France is Paris.")["input_ids"])
    assert found.prompt_tokens == count_tokens(trio, BASE, ask(FRANCE))
    assert found.context == context_of(trio, BASE) == 512
    assert 0 < found.first_token_seconds < found.seconds
    assert found.tokens_per_second == pytest.approx((found.tokens - 1) / (found.seconds - found.first_token_seconds))
    assert found.switch_seconds > 0


def test_length_then_continue_is_the_whole_answer(trio: Deck) -> None:
    for name in (BASE, PIRATE):
        full = text_of(trio, Row(name, ask(FRANCE)))
        short = told(trio, [Row(name, ask(FRANCE))], Sampling(temperature=0, repetition_penalty=1, max_new_tokens=4))[0][0]
        assert (short.ended, short.tokens) == ("length", 4)
        rest = told(trio, [Row(name, ask(FRANCE, short.text), continue_last=True)])[0][0]
        assert (rest.ended, short.text + rest.text) == ("end", full)


@pytest.mark.parametrize("rows", [[], [Row(BASE, ())], [Row(BASE, ask("hi"), continue_last=True)], [Row(BASE, (), True)]])
def test_nothing_to_answer_is_refused(trio: Deck, rows: list[Row]) -> None:
    with pytest.raises(BadOption):
        told(trio, rows)
    assert trio.in_the_way == ""


def test_what_is_refused_before_anything_is_touched(trio: Deck) -> None:
    told(trio, [Row(PIRATE, ask("hi"))], how="merged")
    for rows, sampling, how, kind in (([Row("nobody", ask("hi"))], GREEDY, "auto", NoSuchVariant),
                                      ([Row(BASE, ask("hi"))], Sampling(temperature=-1), "auto", BadOption),
                                      ([Row(BASE, ask("hi"))], GREEDY, "sideways", BadOption),
                                      ([Row(BASE, ask("hi")), Row(BASE, ask("owl " * 900))], GREEDY, "auto", BadOption)):
        with pytest.raises(kind):
            told(trio, rows, sampling, how)
        assert (trio.current, trio.how, trio.in_the_way) == (PIRATE, "merged", "")


# --------------------------------------------------------------------------------------------------- stops
@pytest.mark.parametrize("names", [[BASE], [BASE, PIRATE]])
def test_no_step_of_the_model_follows_a_stop(trio: Deck, calls: list[int], names: list[str]) -> None:
    after = 0

    def stopped() -> bool:
        return len(calls) >= after
    for after in range(1, 6):
        calls.clear()
        answers, _ = told(trio, [Row(n, ask(FRANCE)) for n in names], stopped=stopped)
        assert len(calls) == after
        assert {(a.ended, a.tokens) for a in answers} == {("stopped", after)}
        full = text_of(trio, Row(names[0], ask(FRANCE)))
        assert answers[0].text and full.startswith(answers[0].text)


def test_a_stop_while_the_prompt_is_read(trio: Deck, calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_decode, "_CHUNK", 8)
    found = told(trio, [Row(BASE, ask(FRANCE))], stopped=lambda: len(calls) >= 2)[0][0]
    assert (len(calls), found.ended, found.tokens, found.text, found.tokens_per_second) == (2, "stopped", 0, "", 0)


def test_a_stop_leaves_the_merged_rows_to_come_alone(trio: Deck, calls: list[int]) -> None:
    answers, _ = told(trio, [Row(PIRATE, ask(FRANCE)), Row(JSON, ask(FRANCE))], how="merged", stopped=lambda: len(calls) >= 3)
    assert [a.ended for a in answers] == ["stopped", "stopped"]
    assert [a.tokens for a in answers] == [3, 0]
    assert trio.current == PIRATE


def test_a_stopped_answer_goes_on(trio: Deck, calls: list[int]) -> None:
    full = text_of(trio, Row(PIRATE, ask(FRANCE)))
    forget(trio)
    calls.clear()
    part = told(trio, [Row(PIRATE, ask(FRANCE))], stopped=lambda: len(calls) >= 9)[0][0]
    rest = text_of(trio, Row(PIRATE, ask(FRANCE, part.text), continue_last=True))
    assert part.text + rest == full


# ------------------------------------------------------------------------------------------------ failures
def test_a_model_that_fails_keeps_what_was_said_and_the_deck(trio: Deck, monkeypatch: pytest.MonkeyPatch) -> None:
    full = [text_of(trio, Row(n, ask(FRANCE))) for n in (BASE, PIRATE)]
    forward, count = type(trio.model).forward, [0]

    def failing(self: Any, *args: Any, **kwargs: Any) -> Any:
        count[0] += 1
        if count[0] > 5:
            raise RuntimeError("not enough memory: you tried to allocate 7 bytes.")
        return forward(self, *args, **kwargs)
    with monkeypatch.context() as patch:
        patch.setattr(type(trio.model), "forward", failing)
        answers, _ = told(trio, [Row(BASE, ask(FRANCE)), Row(PIRATE, ask(FRANCE))])
    for found, text in zip(answers, full, strict=True):
        assert (found.ended, found.tokens) == ("failed", 5)
        assert found.text and text.startswith(found.text)
        assert "too little memory" in found.problem
    assert [a.text for a in told(trio, [Row(BASE, ask(FRANCE)), Row(PIRATE, ask(FRANCE))])[0]] == full


@pytest.mark.parametrize("error", [ValueError("the listener fell over"), KeyboardInterrupt()])
@pytest.mark.parametrize("names", [[BASE], [BASE, PIRATE]])
def test_what_the_listener_raises_goes_through_and_frees_the_deck(trio: Deck, error: BaseException, names: list[str]) -> None:
    def tell(piece: Piece) -> None:
        raise error
    with pytest.raises(type(error)):
        answer(trio, [Row(n, ask(FRANCE)) for n in names], GREEDY, tell, never)
    assert trio.in_the_way == ""
    assert text_of(trio, Row(BASE, ask(FRANCE))) == "The capital of France is Paris."


def test_others_are_told_what_is_going_on(trio: Deck) -> None:
    seen: list[str] = []

    def tell(piece: Piece) -> None:
        def other() -> None:
            with pytest.raises(DeckBusy) as found:
                answer(trio, [Row(BASE, ask(FRANCE))], GREEDY, lambda p: None, never)
            seen.append(found.value.what)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    answer(trio, [Row(PIRATE, ask(FRANCE)), Row(BASE, ask(FRANCE))], GREEDY, tell, lambda: bool(seen))
    assert seen[0] == f"'{PIRATE}' and '{BASE}' are generating an answer."


def test_a_later_row_that_cannot_be_switched_on_loses_no_answer(trio: Deck, monkeypatch: pytest.MonkeyPatch) -> None:
    switch = trio.switch

    def failing(name: str, how: str = "auto") -> Any:
        if name == JSON:
            raise SwitchFailed("The disk is gone.")
        return switch(name, how)
    monkeypatch.setattr(trio, "switch", failing)
    answers, _ = told(trio, [Row(BASE, ask(FRANCE)), Row(JSON, ask(FRANCE))], how="merged")
    assert [a.ended for a in answers] == ["end", "failed"]
    assert answers[1].problem == "The disk is gone."
    with pytest.raises(SwitchFailed):
        told(trio, [Row(JSON, ask(FRANCE))], how="merged")


# --------------------------------------------------------------------------------------------------- seeds
def test_a_seed_gives_the_same_answer_alone_and_side_by_side(trio: Deck) -> None:
    def sampled(names: list[str], seed: int | None) -> list[str]:
        warm = Sampling(temperature=1.5, top_p=1, top_k=0, repetition_penalty=1.05, max_new_tokens=24, seed=seed)
        return [a.text for a in told(trio, [Row(n, ask("Tell me something.")) for n in names], warm, how="overlay")[0]]
    alone = [sampled([n], 11)[0] for n in (BASE, PIRATE)]
    assert alone == [sampled([n], 11)[0] for n in (BASE, PIRATE)]
    assert alone != [sampled([n], 12)[0] for n in (BASE, PIRATE)]
    assert sampled([BASE, BASE], 11) == [alone[0]] * 2
    first, second = sampled([BASE, BASE], None)
    assert first != second


def test_side_by_side_draws_equal_single_ones_where_sums_do(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", make_model("llama"), byte_tokenizer())
    warm = Sampling(temperature=1.0, max_new_tokens=20, seed=3)
    with Deck(base, "cpu") as deck:
        names = [BASE, *(deck.add(folder) for folder in make_deltas(tmp_path, base).values())]
        rows = [Row(n, ask(f"{n} is asked {'something long ' * i}")) for i, n in enumerate(names)]
        alone = [told(deck, [row], warm, how="overlay")[0][0] for row in rows]
        together = told(deck, rows, warm)[0]
        assert [(a.text, a.tokens) for a in together] == [(a.text, a.tokens) for a in alone]
        assert [a.seed for a in together] == [3] * 4


# ------------------------------------------------------------------------------------- other models, no template
@pytest.mark.parametrize(("architecture", "chunk"), [("llama", 256), ("gemma3", 256), *((a, 5) for a in (
    "llama", "qwen3", "mistral", "gemma2", "gemma3", "phi3", "gpt2", "opt", "neox", "mixtral", "qwen3moe"))])
def test_rows_of_any_architecture_say_what_generate_says(tmp_path: Path, architecture: str, chunk: int,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_decode, "_CHUNK", chunk)
    tokenizer = byte_tokenizer()
    save_model(make_base(tmp_path, architecture), make_model(architecture), tokenizer)
    texts = ["ab", "a longer text, to be padded", "x"]
    sampling = Sampling(temperature=0, repetition_penalty=1, max_new_tokens=12)
    with Deck(tmp_path / "base", "cpu") as deck:
        assert mode_of(deck, BASE) == "completion"
        expected = []
        for text in texts:
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            mask = torch.ones_like(ids)
            out = deck.model.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=False, pad_token_id=1)
            expected.append(str(tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True)).rstrip("\ufffd"))
        answers = told(deck, [Row(BASE, ask(text)) for text in texts], sampling)[0]
        assert [a.text.rstrip("\ufffd") for a in answers] == expected
        assert [told(deck, [Row(BASE, ask(t))], sampling)[0][0].text.rstrip("\ufffd") for t in texts] == expected
        assert {a.mode for a in answers} == {"completion"}


def test_variants_that_cannot_be_laid_over_answer_one_after_another(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", make_model("mixtral"), byte_tokenizer())
    start = tensors_of(base)
    delta = write(tmp_path / "moved", base, perturb(start, 0.05), signs_by_turns())
    with Deck(base, "cpu") as deck:
        deck.add(delta)
        rows = [Row("moved", ask("ab")), Row(BASE, ask("ab"))]
        answers, _ = told(deck, rows, Sampling(max_new_tokens=4, seed=1))
        assert [a.how for a in answers] == ["merged", "merged"]
        assert "stacked" in answers[0].reason
        with pytest.raises(BadOption, match="stacked"):
            told(deck, rows, how="overlay")


def test_a_variant_with_more_words_speaks_beside_the_base(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", make_model("llama"), byte_tokenizer())
    tensors = tensors_of(base)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = torch.cat([tensors[name], tensors[name][-4:] * 0.5])
    wider = save_beside(tmp_path / "wider", base, tensors, vocab_size=264)
    with Deck(base, "cpu") as deck:
        deck.add(wider)
        rows = [Row(BASE, ask("ab")), Row("wider", ask("ab"))]
        alone = [text_of(deck, row) for row in rows]
        assert [a.text for a in told(deck, rows, Sampling(temperature=0, repetition_penalty=1.1, max_new_tokens=8))[0]]
        assert [a.text for a in told(deck, rows)[0]] == alone


def test_a_base_without_template_beside_a_chat_variant(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", make_model("llama"), byte_tokenizer())
    tuned = whole(tmp_path, base)
    byte_tokenizer(chats=True).save_pretrained(tuned)
    with Deck(base, "cpu") as deck:
        deck.add(tuned)
        assert (mode_of(deck, BASE), mode_of(deck, "whole")) == ("completion", "chat")
        answers, _ = told(deck, [Row(BASE, ask("ab")), Row("whole", ask("ab"))], Sampling(max_new_tokens=3))
        assert [a.mode for a in answers] == ["completion", "chat"]
        assert answers[0].prompt_tokens == 2
        assert answers[1].prompt_tokens > 6
