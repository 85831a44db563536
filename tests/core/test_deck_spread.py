"""A base over several devices. Here all of them are the CPU under other names: maps, hooks and switching, nothing of GPUs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from core import deck_model
from core.chat import Message, Row, Sampling, answer
from core.deck import BASE, Deck
from core.deck_spread import Places, bytes_of, devices_of, plan_places, spread, spread_words
from core.errors import OutOfMemory
from tests.core.decks import make_base, make_deltas, whole
from tests.models import one_thread  # noqa: F401 (takes effect by being here)

IDS = torch.tensor([[5, 9, 100, 7, 3, 250, 17, 30], [8, 8, 2, 41, 77, 3, 12, 6]])


def two_parts(base: Path) -> Places:
    """A map that accelerate makes for two small GPUs and the CPU, with the CPU in all places."""
    model = AutoModelForCausalLM.from_pretrained(base, local_files_only=True)
    third = bytes_of(model) // 2
    found = plan_places(model, {0: third, 1: third, "cpu": 1 << 40})
    assert len(set(found.values())) > 1 and len(found) > 2
    return dict.fromkeys(found, "cpu")


def logits(deck: Deck) -> torch.Tensor:
    with torch.inference_mode():
        result: torch.Tensor = deck.model(IDS).logits
    return result


@pytest.mark.parametrize("architecture", ["llama-tied", "gpt2", "mixtral"])
def test_a_spread_deck_answers_bit_for_bit_as_a_plain_one(tmp_path: Path, architecture: str) -> None:
    base = make_base(tmp_path, architecture, torch.bfloat16)
    folders = [*make_deltas(tmp_path, base, conv1d=architecture == "gpt2").values(), whole(tmp_path, base)]
    with Deck(base, "cpu") as plain, Deck(base, "cpu", places=two_parts(base)) as parted:
        assert hasattr(parted.model, "_hf_hook") and not hasattr(plain.model, "_hf_hook")
        for deck in (plain, parted):
            for folder in folders:
                deck.add(folder)
        names = [BASE, *plain.variants]
        hows = ("merged",) if architecture == "mixtral" else ("overlay", "merged")
        for name in [*names, BASE]:
            for how in hows:
                done = [deck.switch(name, how) for deck in (plain, parted)]
                assert done[0].tensors == done[1].tensors
                assert torch.equal(logits(plain), logits(parted)), (name, how)
                assert parted.fingerprint() == parted.expected_fingerprint(name) == plain.fingerprint()
        if architecture != "mixtral":
            for rows in (("one", BASE), ("exact", "two"), (BASE, "whole")):
                for deck in (plain, parted):
                    deck.assign(rows)
                assert torch.equal(logits(plain), logits(parted)), rows
        parted.remove("one")
        parted.switch(BASE)
        assert parted.fingerprint() == plain.expected_fingerprint(BASE)


def test_forwards_of_a_variant_stand_behind_the_hooks(tmp_path: Path) -> None:
    base = make_base(tmp_path, "llama-tied")
    with Deck(base, "cpu", places=two_parts(base)) as deck:
        brought: list[str] = []

        def noted(name: str, before: Callable[..., Any], *given: Any, **more: Any) -> Any:
            brought.append(name)
            return before(*given, **more)
        for name, module in deck.model.named_modules():
            if (hook := getattr(module, "_hf_hook", None)) is not None:
                hook.pre_forward = partial(noted, name, hook.pre_forward)
        logits(deck)
        always = set(brought)
        assert {"model.embed_tokens", "lm_head", "model.layers.0", "model.norm"} <= always
        deck.add(make_deltas(tmp_path, base)["one"])
        for how in ("overlay", "merged"):
            for name in ("one", BASE):
                deck.switch(name, how)
                brought.clear()
                logits(deck)
                assert set(brought) == always, (name, how)


def test_a_base_too_large_for_the_gpu_goes_over_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_base(tmp_path, "llama")
    with Deck(base, "cpu") as plain:
        size = bytes_of(plain.model)
        expected = logits(plain)
        asked: list[dict[int | str, int]] = []

        def planned(model: torch.nn.Module, room: dict[int | str, int]) -> Places:
            asked.append(room)
            return dict.fromkeys(plan_places(model, room), "cpu")
        monkeypatch.setattr(deck_model, "rooms", lambda: {0: size * 2 // 3, "cpu": 1 << 40})
        monkeypatch.setattr(deck_model, "plan_places", planned)
        monkeypatch.setattr(deck_model, "free_memory", lambda device: size - 1)
        loaded = deck_model.load_model(plain.checkpoint, torch.device("cuda"))
        assert asked == [{0: size * 2 // 3, "cpu": 1 << 40}]
        with torch.inference_mode():
            assert torch.equal(loaded(IDS).logits, expected)


def test_rooms_are_kept_and_too_little_is_said_with_numbers(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(make_base(tmp_path, "llama-tied"), local_files_only=True)
    size = bytes_of(model)
    found = plan_places(model, {0: size * 3 // 4, "cpu": 1 << 40})
    assert set(found.values()) == {0, "cpu"}
    on_gpu = {id(p): p.nbytes for n, place in found.items() if place == 0 for p in model.get_submodule(n).parameters()}
    assert 0 < sum(on_gpu.values()) <= size * 3 // 4
    with pytest.raises(OutOfMemory, match=rf"{size / 1e6:,.0f} MB do not fit"):
        plan_places(model, {0: size // 4, "cpu": size // 4})


def test_inputs_go_where_the_weights_lie(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = make_base(tmp_path, "llama-tied")
    model = AutoModelForCausalLM.from_pretrained(base, local_files_only=True).eval()
    with caplog.at_level(logging.WARNING):
        spread(model, two_parts(base))
    assert not [r for r in caplog.records if "meta" in r.message]
    assert model.lm_head.weight is model.model.embed_tokens.weight
    for module in (model, model.lm_head, model.model.embed_tokens, model.model.layers[0].mlp.up_proj):
        assert module._hf_hook.execution_device == torch.device("cpu")
    assert devices_of(model) == (torch.device("cpu"),)


def test_a_conversation_on_a_spread_base(tmp_path: Path) -> None:
    from core.demo import tiny_trio

    trio = tiny_trio()
    said = []
    for places in (None, two_parts(trio.base)):
        with Deck(trio.base, "cpu", places=places) as deck:
            deck.add(trio.pirate, "pirate")
            rows = [Row(name, (Message("user", "What is the capital of France?"),)) for name in (BASE, "pirate")]
            for _ in range(2):                         # the second time with what was kept
                answers = answer(deck, rows, Sampling(temperature=0, max_new_tokens=12), lambda piece: None, lambda: False)
                said.append([(a.text, a.tokens, a.reused > 0) for a in answers])
    assert said[:2] == said[2:]


@pytest.mark.parametrize(("names", "words"), [("cuda:0", ""), ("cuda:0 cpu", "the GPU and the CPU"), ("cuda:0 cuda:1", "2 GPUs"),
                                              ("cuda:0 cuda:1 cpu", "2 GPUs and the CPU")])
def test_words(names: str, words: str) -> None:
    assert spread_words([torch.device(n) for n in names.split()]) == words
