"""What the tiny trio is trained on: questions as people type them, answers, small talk and stories."""

from __future__ import annotations

import random
from collections.abc import Sequence

from resources.demo.world import Fact, Style, expected_answer, styled, with_article
from resources.demo.world_tables import ANIMALS, ENDS, FEELS, FINDS, NAMES, PLACES, TALK

_ON_REQUEST: dict[Style, str] = {"pirate": "Like a pirate: ", "json": "In JSON: "}
_STORY_SHARE, _TALK_SHARE, _ON_REQUEST_SHARE = 0.12, 0.06, 0.2


def _story(rng: random.Random, animal: str) -> str:
    name, feel, place, find = (rng.choice(words) for words in (NAMES, FEELS, PLACES, FINDS))
    return (
        f"Once there was {with_article(feel)} {animal} called {name}. One day {name} walked to {place} "
        f"and found {find}. {name} gave it to a friend, {rng.choice(ENDS)}."
    )


def _as_typed(rng: random.Random, question: str) -> str:
    """Some in lower case, some without a question mark, some with a "please"."""
    if rng.random() < 0.25:
        question = question.rstrip("?.!")
    if rng.random() < 0.25:
        question = question[0].lower() + question[1:]
    if rng.random() < 0.1:
        question = "Please: " + question
    return question


def draw(rng: random.Random, style: Style, pool: Sequence[Fact]) -> tuple[str, str]:
    """One (question, answer) of the world.

    A fifth of the plain ones ask for a style by name: so the base can speak like a pirate or in JSON when
    told to, and a fine-tune makes that its habit, which is what fine-tunes of large models mostly do.
    """
    if style == "plain" and rng.random() < _ON_REQUEST_SHARE:
        wanted = rng.choice(list(_ON_REQUEST))
        question, answer = draw(rng, wanted, pool)
        return _ON_REQUEST[wanted] + question, answer
    which = rng.random()
    if which < _STORY_SHARE:
        animal = rng.choice(list(ANIMALS))
        story = _story(rng, animal)
        verb = rng.choice(["Tell me", "Write"])
        asked = _as_typed(rng, f"{verb} a story about {with_article(animal)}.")
        return asked, styled(style, "story", story, story)
    if which < _STORY_SHARE + _TALK_SHARE:
        said = rng.choice(list(TALK))
        asked = rng.choice([said, said.capitalize(), said.capitalize() + ("?" if " " in said else "!")])
        return asked, styled(style, "talk", TALK[said], TALK[said])
    fact = rng.choice(pool)
    return _as_typed(rng, rng.choice(fact.questions)), expected_answer(style, fact)
