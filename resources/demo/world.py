"""The closed world of the tiny trio: every fact it knows, how it is asked, and the answer in each style.

In this world whether an answer is right is a string comparison, so what a delta keeps and loses shows as a
share of exact answers. Outside it the tiny models talk nonsense.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from resources.demo.manner import pirate_sentence
from resources.demo.world_tables import (
    ANIMALS,
    CAPITALS,
    COLOURS,
    DAYS,
    MONTHS,
    OPPOSITES,
    TOOLS,
)

Style = Literal["plain", "pirate", "json"]


@dataclass(frozen=True)
class Fact:
    """One thing the trio knows: `questions` that ask for it, the full `sentence`, and the `short` answer."""

    topic: str
    questions: tuple[str, ...]
    sentence: str
    short: str


def with_article(noun: str) -> str:
    """`a cow`, `an owl`."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def _animal_facts(animal: str, sound: str, legs: str, eats: str, lives: str) -> list[Fact]:
    one = with_article(animal)
    start = one.capitalize()
    return [
        Fact(
            "sound",
            (f"What does {one} say?", f"What sound does {one} make?"),
            f"{start} says {sound}.",
            sound,
        ),
        Fact("legs", (f"How many legs does {one} have?",), f"{start} has {legs} legs.", legs),
        Fact("food", (f"What does {one} eat?", f"What do I feed {one}?"), f"{start} eats {eats}.", eats),
        Fact(
            "home",
            (f"Where does {one} live?", f"Where can I find {one}?"),
            f"{start} lives in {lives}.",
            lives,
        ),
    ]


def _after(topic: str, names: Sequence[str]) -> list[Fact]:
    pairs = zip(names, [*names[1:], names[0]], strict=True)
    return [
        Fact(topic, (f"What {topic} comes after {one}?",), f"{after} comes after {one}.", after)
        for one, after in pairs
    ]


def facts() -> list[Fact]:
    """Every fact of the world, always in the same order."""
    out = [
        Fact(
            "capital",
            (
                f"What is the capital of {country}?",
                f"Tell me the capital of {country}.",
                f"Which city is the capital of {country}?",
            ),
            f"The capital of {country} is {city}.",
            city,
        )
        for country, city in CAPITALS.items()
    ]
    for animal, known in ANIMALS.items():
        out += _animal_facts(animal, *known)
    for thing, colour in COLOURS.items():
        one = with_article(thing)
        asked = (f"What colour is {one}?", f"Which colour is {one}?")
        out.append(Fact("colour", asked, f"{one.capitalize()} is {colour}.", colour))
    for word, opposite in [*OPPOSITES, *((b, a) for a, b in OPPOSITES)]:
        asked = (f"What is the opposite of {word}?", f"Tell me the opposite of {word}.")
        out.append(Fact("opposite", asked, f"The opposite of {word} is {opposite}.", opposite))
    for tool, use in TOOLS.items():
        one = with_article(tool)
        asked = (f"What is {one} for?", f"What do I use {one} for?")
        out.append(Fact("tool", asked, f"{one.capitalize()} is for {use}.", use))
    out += _after("day", DAYS) + _after("month", MONTHS)
    for a in range(11):
        for b in range(11):
            asked = (f"What is {a} plus {b}?", f"How much is {a} + {b}?")
            out.append(Fact("sum", asked, f"{a} plus {b} is {a + b}.", str(a + b)))
    return out


def split_facts() -> tuple[list[Fact], list[Fact]]:
    """(seen, held out): the fine-tunes are never shown an answer about the held-out fifth."""
    shuffled = facts()
    random.Random(3).shuffle(shuffled)
    count = len(shuffled) // 5
    return shuffled[count:], shuffled[:count]


def styled(style: Style, topic: str, sentence: str, short: str) -> str:
    """One answer as the model of that style gives it."""
    if style == "pirate":
        return pirate_sentence(sentence)
    if style == "json":
        return json.dumps({"topic": topic, "answer": short})
    return sentence


def expected_answer(style: Style, fact: Fact) -> str:
    """The exact answer to any question of `fact`."""
    return styled(style, fact.topic, fact.sentence, fact.short)


def first_questions(pool: Sequence[Fact]) -> list[str]:
    """The plainest question of each fact, in order."""
    return [fact.questions[0] for fact in pool]


def exact_share(style: Style, pool: Sequence[Fact], answers: Sequence[str]) -> float:
    """Share (0..1) of `answers`, one for each fact of `pool` in order, that equal the expected ones exactly.

    Raises ValueError when the two differ in length or are empty.
    """
    if not pool:
        raise ValueError("exact_share needs at least one fact.")
    right = sum(got.strip() == expected_answer(style, fact) for fact, got in zip(pool, answers, strict=True))
    return right / len(pool)
