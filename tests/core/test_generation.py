"""Generation agreement: decoding as transformers does it, and where answers part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from core import generation
from core.checkpoint import open_checkpoint
from core.generation import Prompts, agreement, decode, make_prompts, steps, stop_ids
from core.skeleton import Prologue, Skeleton
from resources.demo.chats import HELD_OUT_PROMPTS
from tests.core.test_fidelity import CPU, staged
from tests.models import (
    VOCABULARY,
    make_model,
    make_pair,
    one_thread,  # noqa: F401 (takes effect by being here)
    save_model,
)


def some_prompts(*lengths: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randint(2, 250, (length,), generator=generator) for length in lengths)


def answer(folder: Path, ids: Tensor, tokens: int) -> list[int]:
    """Greedy, by transformers, whatever the stop tokens."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    out = model.generate(ids[None], attention_mask=torch.ones_like(ids[None]), do_sample=False, max_new_tokens=tokens,
                         eos_token_id=None, pad_token_id=0)
    found: list[int] = out[0, len(ids):].tolist()
    return found


@pytest.mark.parametrize("architecture", ["llama-tied", "gemma3", "gpt2", "opt", "mixtral"])
def test_answers_are_those_of_transformers(tmp_path: Path, architecture: str) -> None:
    folder = save_model(tmp_path / "model", make_model(architecture))
    prompts = some_prompts(9, 9, 4)
    ticks: list[None] = []
    with open_checkpoint(folder) as opened:
        model = staged(opened)
        found = decode(model, [torch.stack(prompts[:2]), prompts[2][None]], CPU, tokens=8, vocabulary=VOCABULARY,
                       tick=lambda: ticks.append(None))
    assert torch.cat(found).tolist() == [answer(folder, ids, 8) for ids in prompts]
    assert len(ticks) == 8 * model[0].skeleton.depth


def test_blocks_that_keep_no_cache_give_the_same_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_model(tmp_path / "model", make_model("llama"))
    plain = Skeleton.prologue

    def without_cache(self: Skeleton, outer: Any, ids: Tensor, cache: Any = None) -> Prologue:
        return plain(self, outer, ids)
    with open_checkpoint(folder) as opened:
        given = torch.stack(some_prompts(7, 7))
        cached = decode(staged(opened), [given], CPU, tokens=6, vocabulary=VOCABULARY)[0]
        monkeypatch.setattr(Skeleton, "prologue", without_cache)
        assert torch.equal(decode(staged(opened), [given], CPU, tokens=6, vocabulary=VOCABULARY)[0], cached)


def test_agreement_counts_tokens_until_the_answers_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned = make_pair(tmp_path, "llama", share=0.1)
    ids = some_prompts(6, 3, 6, 9)
    wanted = []
    for one in ids:
        pairs = zip(answer(base, one, 10), answer(tuned, one, 10), strict=True)
        same = [a == b for a, b in pairs]
        wanted.append(same.index(False) if False in same else 10)
    assert len(set(wanted)) > 1
    ticks: list[None] = []
    with open_checkpoint(base) as zero, open_checkpoint(tuned) as target:
        others = {"base": staged(zero), "same": staged(target)}
        prompts = Prompts(ids, 1)
        found = agreement(staged(target), others, prompts, CPU, tokens=10, tick=lambda: ticks.append(None))
        assert len(ticks) == steps(staged(target), others, prompts, 10)
        monkeypatch.setattr(generation, "TOKENS_AT_ONCE", 25)           # two pieces, and the same figures
        assert agreement(staged(target), others, prompts, CPU, tokens=10) == found
    assert (found.prompts, found.chats, found.answer_tokens, found.answer_mean) == (4, 1, 10, 10)
    assert found.models["base"].first_differences == tuple(wanted)
    assert found.models["base"].tokens_mean == sum(wanted) / 4
    assert found.models["base"].whole == sum(w == 10 for w in wanted) / 4
    assert found.models["same"].first_differences == (10, 10, 10, 10)
    assert (found.models["same"].whole, found.models["same"].whole_se) == (1, 0)


def test_an_answer_ends_with_its_stop_token(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", make_model("llama"))
    ids = some_prompts(5)[0]
    said = answer(folder, ids, 12)
    stop = said[3]
    with open_checkpoint(folder) as opened:
        found = agreement(staged(opened), {"same": staged(opened)}, Prompts((ids,), 0), CPU, tokens=12, stops=frozenset({stop}))
    assert found.answer_mean == said.index(stop) + 1
    assert found.models["same"].whole == 1


def test_prompts_are_questions_and_beginnings_of_text(make_tokenizer: Callable[..., PreTrainedTokenizerFast]) -> None:
    text = torch.arange(3 * 100).reshape(3, 100)
    plain = make_prompts(text, make_tokenizer(), 5)
    assert plain.chats == 0
    assert [ids.tolist()[0] for ids in plain.ids] == [0, 100, 200, 64, 164]
    assert {len(ids) for ids in plain.ids} == {32}
    assert len(make_prompts(text, None, 100).ids) == 6                  # what the text has
    tokenizer = make_tokenizer(chats=True)
    mixed = make_prompts(text, tokenizer, 5)
    assert mixed.chats == 2
    assert HELD_OUT_PROMPTS[0] in tokenizer.decode(mixed.ids[0])
    assert mixed.ids[2].tolist() == text[0, :32].tolist()
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    assert make_prompts(text, tokenizer, 5).chats == 0


def test_stop_tokens_come_from_config_and_tokeniser(tokenizer: PreTrainedTokenizerFast) -> None:
    assert stop_ids({"eos_token_id": [7, 9]}, tokenizer) == {1, 7, 9}
    assert stop_ids({"eos_token_id": None}, None) == frozenset()
    assert stop_ids({"eos_token_id": 1 << 80}, None) == frozenset()
