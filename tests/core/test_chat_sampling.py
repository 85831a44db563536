"""Drawing tokens: the same choices as transformers' processors, fair draws, seeds that hold."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from core.chat_sampling import Sampler, choices
from core.chat_types import Sampling
from core.errors import BadOption, DeltadeckError


def logits_of(seed: int, size: int = 200) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(1, 0, 1), (0.7, 40, 0.9), (1.5, 5, 1), (0.3, 0, 0.5), (2, 7, 0.01)])
def test_choices_are_those_of_transformers(temperature: float, top_k: int, top_p: float) -> None:
    for seed in range(20):
        logits = logits_of(seed)
        theirs: list[Any] = [TemperatureLogitsWarper(float(temperature))]
        if top_k:
            theirs.append(TopKLogitsWarper(top_k))
        if top_p < 1:
            theirs.append(TopPLogitsWarper(top_p))
        wide = logits[None].clone()
        for processor in theirs:
            wide = processor(torch.zeros(1, 1, dtype=torch.long), wide)
        expected = wide[0].softmax(0)
        values, tokens = choices(logits, Sampling(temperature=temperature, top_k=top_k, top_p=top_p))
        found = torch.zeros_like(logits)
        found[tokens] = values
        torch.testing.assert_close(found, expected)
        assert values.tolist() == sorted(values.tolist(), reverse=True)


def test_repetition_is_penalised_as_in_transformers_but_ends_are_not() -> None:
    prompt, end = [3, 3, 8, 199], 199
    logits = logits_of(1)
    sampler = Sampler(Sampling(repetition_penalty=1.7), prompt, {end}, 0)
    expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([[3, 8]]), logits[None].clone())[0]
    torch.testing.assert_close(sampler._penalised(logits), expected)
    greedy = Sampler(Sampling(temperature=0, repetition_penalty=50), prompt, {end}, 0)
    flat = torch.linspace(1, 2, 10)
    assert [greedy.next(flat) for _ in range(3)] == [9, 7, 6]        # 8 is in the prompt, each said one falls behind
    assert torch.equal(flat, torch.linspace(1, 2, 10))


def test_draws_follow_the_probabilities() -> None:
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
    sampler = Sampler(Sampling(temperature=1, top_k=0, top_p=1, repetition_penalty=1), [], (), 5)
    counts = Counter(sampler.next(logits) for _ in range(4000))
    assert all(abs(counts[i] / 4000 - (i + 1) / 10) < 0.03 for i in range(4))


def test_a_seed_gives_the_same_draws_and_another_one_others() -> None:
    def draw(seed: int) -> list[int]:
        sampler = Sampler(Sampling(temperature=1.2, top_k=0, top_p=1), [1], (), seed)
        return [sampler.next(logits_of(i)) for i in range(30)]
    assert draw(7) == draw(7) != draw(8)


def test_a_hair_of_difference_in_logits_changes_no_draw() -> None:
    def draw(noise: float) -> list[int]:
        sampler = Sampler(Sampling(temperature=1, top_k=20), [1], (), 3)
        return [sampler.next(logits_of(i) * (1 + noise)) for i in range(50)]
    assert draw(0) == draw(1e-7)


def test_low_temperatures_come_to_the_likeliest() -> None:
    for temperature in (0, 1e-30, 1e-3):
        sampler = Sampler(Sampling(temperature=temperature), [], (), 0)
        assert sampler.next(logits_of(2)) == int(logits_of(2).argmax())


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_what_is_no_number_is_refused(temperature: float) -> None:
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(DeltadeckError, match="no numbers"):
            Sampler(Sampling(temperature=temperature), [], (), 0).next(torch.full((4,), bad))
    missing = torch.tensor([-math.inf, 1.0, -math.inf])                # entries that a smaller vocabulary lacks
    assert Sampler(Sampling(temperature=temperature), [0], (), 0).next(missing) == 1


@pytest.mark.parametrize("bad", [{"temperature": -0.1}, {"temperature": math.nan}, {"top_p": 0}, {"top_p": 1.1}, {"top_k": -1},
                                 {"repetition_penalty": 0}, {"max_new_tokens": 0}, {"seed": -1}, {"temperature": math.inf}])
def test_values_that_make_no_sense_are_refused(bad: dict[str, float]) -> None:
    Sampling().check()
    Sampling(temperature=0, top_p=1, top_k=0, repetition_penalty=1, max_new_tokens=1, seed=0).check()
    with pytest.raises(BadOption):
        Sampling(**bad).check()                        # type: ignore[arg-type]
