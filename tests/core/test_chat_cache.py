"""What an answer before has read is not read again, and says the same as if it were."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import DynamicCache

from core.chat import Answer, Message, Row, Sampling, answer, forget
from core.chat_cache import Kept, assemble, common, reusable, row_of
from core.deck import BASE, Deck
from core.demo import tiny_trio
from tests.models import (
    one_thread,  # noqa: F401 (takes effect by being here)
    tensors_of,
)

GREEDY = Sampling(temperature=0, repetition_penalty=1, max_new_tokens=24)
JSON, PIRATE = "tiny-json", "tiny-pirate"
ASKED = ("What is the capital of France?", "And of Norway?", "How many legs has a spider?", "What is 3 plus 4?")


def in_single_precision(source: Path, folder: Path) -> Path:
    """A copy of a checkpoint in float32: in bfloat16 another order of sums is another word now and then."""
    shutil.copytree(source, folder)
    save_file({k: t.float() for k, t in tensors_of(source).items()}, folder / "model.safetensors", {"format": "pt"})
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "dtype": "float32", "torch_dtype": "float32"}))
    return folder


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deck]:
    found, folder = tiny_trio(), tmp_path_factory.mktemp("single")
    with Deck(in_single_precision(found.base, folder / "base"), "cpu") as deck:
        deck.add(in_single_precision(found.json, folder / JSON))
        deck.add(in_single_precision(found.pirate, folder / PIRATE))
        yield deck


@pytest.fixture
def deck(loaded: Deck) -> Deck:
    forget(loaded)
    return loaded


@pytest.fixture
def steps(deck: Deck, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, torch.Tensor]]:
    """Tokens per row, and the last logits, of each call of the model."""
    found: list[tuple[int, torch.Tensor]] = []
    forward = type(deck.model).forward

    @wraps(forward)                                    # what it takes is looked at
    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = forward(self, *args, **kwargs)
        found.append((kwargs["input_ids"].shape[1], out.logits[:, -1].float().clone()))
        return out
    monkeypatch.setattr(type(deck.model), "forward", noted)
    return found


def say(deck: Deck, *rows: Row, sampling: Sampling = GREEDY) -> list[Answer]:
    return answer(deck, list(rows), sampling, lambda piece: None, lambda: False)


def talk(deck: Deck, names: tuple[str, ...], *, fresh: bool) -> tuple[list[list[Answer]], list[tuple[Message, ...]]]:
    """A conversation of some turns with a variant per column."""
    heard: list[tuple[Message, ...]] = [() for _ in names]
    turns = []
    for at, text in enumerate(ASKED):
        if fresh:
            forget(deck)
        # Columns that heard different things are of different lengths.
        heard = [(*h, Message("user", text + " Please." * (at * column))) for column, h in enumerate(heard)]
        turns.append(say(deck, *(Row(n, h, column=c) for c, (n, h) in enumerate(zip(names, heard, strict=True)))))
        heard = [(*h, Message("assistant", a.text)) for h, a in zip(heard, turns[-1], strict=True)]
    return turns, heard


@pytest.mark.parametrize("names", [(BASE,), (JSON,), (BASE, JSON, PIRATE), (BASE, BASE)])
def test_a_conversation_says_the_same_with_and_without(deck: Deck, steps: list[tuple[int, torch.Tensor]],
                                                       names: tuple[str, ...]) -> None:
    known, heard = talk(deck, names, fresh=False)
    new, heard_again = talk(deck, names, fresh=True)
    assert heard == heard_again
    assert [[(a.tokens, a.ended) for a in turn] for turn in known] == [[(a.tokens, a.ended) for a in turn] for turn in new]
    assert all(a.reused == 0 for turn in new for a in turn) and all(a.reused == 0 for a in known[0])
    for turn, before in zip(known[1:], known, strict=False):
        for one, earlier in zip(turn, before, strict=True):
            assert earlier.prompt_tokens <= one.reused < one.prompt_tokens
    assert sorted(deck.kept) == list(range(len(names)))


@pytest.mark.parametrize("names", [(BASE,), (BASE, JSON)])
def test_the_next_turn_reads_what_is_new_and_gets_the_same_logits(deck: Deck, steps: list[tuple[int, torch.Tensor]],
                                                                  names: tuple[str, ...]) -> None:
    _, heard = talk(deck, names, fresh=False)
    rows = [Row(n, (*h, Message("user", "Why?")), column=c) for c, (n, h) in enumerate(zip(names, heard, strict=True))]
    found = []
    for fresh in (False, True):
        if fresh:
            forget(deck)
        steps.clear()
        said = say(deck, *rows, sampling=Sampling(temperature=0, repetition_penalty=1, max_new_tokens=1))
        assert len(steps) == 1 and steps[0][0] == max(a.prompt_tokens - a.reused for a in said)
        found.append(steps[0])
    assert found[0][0] < found[1][0] / 3
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-4)
    assert torch.equal(found[0][1].argmax(-1), found[1][1].argmax(-1))


def test_only_what_is_the_same_is_reused(deck: Deck) -> None:
    first = (Message("user", ASKED[0]),)
    said = say(deck, Row(BASE, first))[0]
    longer = (*first, Message("assistant", said.text), Message("user", "Why?"))
    assert say(deck, Row(JSON, longer))[0].reused == 0           # another variant's numbers are of no use
    assert say(deck, Row(BASE, longer))[0].reused == 0           # and it has taken the place
    edited = (*first, Message("assistant", said.text), Message("user", "Who?"))
    again = say(deck, Row(BASE, edited))[0]
    assert 0 < again.reused < again.prompt_tokens
    changed = say(deck, Row(BASE, (Message("user", "Who is it?"), *longer[1:])))[0]
    assert changed.reused < again.reused
    assert say(deck, Row(BASE, longer, column=1))[0].reused == 0


def test_a_regenerated_answer_reads_one_token(deck: Deck, steps: list[tuple[int, torch.Tensor]]) -> None:
    row = Row(BASE, (Message("user", ASKED[0]),))
    before = say(deck, row)[0]
    steps.clear()
    after = say(deck, row)[0]
    assert steps[0][0] == 1 and after.text == before.text and after.reused == after.prompt_tokens - 1


def test_columns_let_go_of_other_variants_and_a_deck_of_everything(deck: Deck) -> None:
    row = (Message("user", ASKED[0]),)
    say(deck, Row(BASE, row), Row(JSON, row, column=1), Row(BASE, row, column=2))
    forget(deck, (BASE, BASE))
    assert list(deck.kept) == [0]
    with Deck(tiny_trio().base, "cpu") as short:
        name = short.add(tiny_trio().pirate)
        say(short, Row(BASE, row))
        short.remove(name)
        assert short.kept == {}
        say(short, Row(BASE, row))
        kept = short.kept
        assert kept
    assert kept == {}


def test_nothing_is_kept_of_an_answer_that_failed(deck: Deck, monkeypatch: pytest.MonkeyPatch) -> None:
    row = Row(BASE, (Message("user", ASKED[0]),))
    say(deck, row)
    with monkeypatch.context() as patch:
        patch.setattr(type(deck.model), "forward", lambda *args, **kwargs: (_ for _ in ()).throw(RuntimeError("out of luck")))
        assert say(deck, row)[0].ended == "failed"
    assert deck.kept == {}
    assert say(deck, row)[0].reused == 0


def test_a_stopped_answer_is_kept_as_far_as_it_was_read(deck: Deck) -> None:
    row = Row(BASE, (Message("user", ASKED[0]),))
    whole = say(deck, row)[0].text
    forget(deck)
    pieces: list[str] = []
    part = answer(deck, [row], GREEDY, lambda piece: pieces.append(piece.text), lambda: len(pieces) > 3)[0]
    assert part.ended == "stopped" and len(deck.kept[0][1].ids) == part.prompt_tokens + part.tokens - 1
    rest = say(deck, Row(BASE, (*row.messages, Message("assistant", part.text)), continue_last=True))[0]
    assert part.text + rest.text == whole and rest.reused >= part.prompt_tokens


# -------------------------------------------------------------------------------------------------- parts
def kept_of(ids: list[int]) -> Kept:
    values = torch.tensor(ids, dtype=torch.float32)[None, None, :, None]
    return Kept(ids, [(values, values + 0.5), (values * 2, values * 3)])


short_ids = st.lists(st.integers(0, 3), min_size=1, max_size=12)


@given(st.lists(st.tuples(short_ids, st.none() | short_ids), min_size=1, max_size=4))
def test_reuse_is_common_and_leaves_a_token(pairs: list[tuple[list[int], list[int] | None]]) -> None:
    prompts = [p for p, _ in pairs]
    kept = [kept_of(k) if k else None for _, k in pairs]
    counts = reusable(prompts, kept, gaps=True)
    for prompt, one, count in zip(prompts, kept, counts, strict=True):
        assert 0 <= count < len(prompt) and (one is None) <= (count == 0)
        assert one is None or prompt[:count] == one.ids[:count]
    cache = assemble(kept, counts)
    if not any(counts):
        assert cache is None
        return
    length = max(counts)
    mask = torch.tensor([[0] * (length - n) + [1] * n for n in counts])
    for at, (prompt, count) in enumerate(zip(prompts, counts, strict=True)):
        back = row_of(cache, at, mask[at], prompt)
        assert back is not None and back.ids == prompt[:count]
        assert back.layers[1][0][0, 0, :, 0].tolist() == [2.0 * i for i in prompt[:count]]


def test_rows_that_would_leave_wide_gaps_reuse_nothing() -> None:
    long = list(range(900))
    assert reusable([[*long, 1], [5] * 890], [kept_of(long), None], gaps=True) == [0, 0]
    assert reusable([[*long, 1], [5] * 20], [kept_of(long), None], gaps=True) == [900, 0]
    assert reusable([[*long, 1], [*long, 2]], [kept_of(long)] * 2, gaps=False) == [0, 0]
    assert reusable([[*long, 1]], [kept_of(long)], gaps=False) == [900]
    assert common([1, 2, 3], [1, 2]) == 2 and common([], [1]) == 0


def test_a_cache_that_forgets_is_not_kept() -> None:
    from transformers import LlamaConfig, MistralConfig

    ones = torch.ones(1, 2, 5, 4)
    windows = MistralConfig(num_hidden_layers=1, sliding_window=4)
    for config, whole in ((LlamaConfig(num_hidden_layers=1), True), (windows, False)):
        cache = DynamicCache(config=config)
        cache.update(ones, ones, 0)
        assert (row_of(cache, 0, torch.ones(5), [1, 2, 3, 4, 5]) is not None) is whole
    assert row_of(None, 0, torch.ones(5), [1]) is None
