"""The embedded resources: calibration text, demo chats, the tiny trio."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from resources.demo.chats import HELD_OUT_PROMPTS, pirate_chats
from resources.demo.manner import pirate_reply, pirate_sentence, pirate_share, pirate_words
from resources.demo.tiny_text import draw
from resources.demo.world import (
    Style,
    exact_share,
    expected_answer,
    facts,
    first_questions,
    split_facts,
    styled,
)

RESOURCES = Path(__file__).resolve().parents[1] / "resources"
CALIBRATION = RESOURCES / "calibration"
TRIO = ("tiny-base", "tiny-pirate", "tiny-json")


def documents() -> list[str]:
    texts = (path.read_text(encoding="utf-8") for path in sorted(CALIBRATION.glob("*.txt")))
    return [doc for text in texts for doc in text.split("\n%%\n")]


def chats() -> list[list[dict[str, str]]]:
    lines = (path.read_text(encoding="utf-8").splitlines() for path in sorted(CALIBRATION.glob("*.jsonl")))
    return [json.loads(line)["messages"] for some in lines for line in some]


def test_calibration_has_the_promised_amount_of_text() -> None:
    size = sum(path.stat().st_size for path in CALIBRATION.iterdir() if path.suffix in (".txt", ".jsonl"))
    assert 400_000 <= size <= 700_000


def test_calibration_documents_are_whole_and_different() -> None:
    found = documents()
    assert len(found) >= 100
    assert len(set(found)) == len(found)
    assert all(len(doc.strip()) > 80 for doc in found)
    assert not any(line.strip() == "%%" for doc in found for line in doc.splitlines())


def test_calibration_chats_alternate_and_end_with_the_assistant() -> None:
    found = chats()
    assert len(found) >= 150
    for chat in found:
        roles = [turn["role"] for turn in chat]
        if roles[0] == "system":
            roles = roles[1:]
        assert roles == ["user", "assistant"] * (len(roles) // 2) and roles
        assert all(turn["content"].strip() for turn in chat)


def test_no_transcriber_boilerplate_is_shipped() -> None:
    words = re.compile(r"gutenberg|\betexts?\b|all rights reserved|©", re.IGNORECASE)
    chat_text = [turn["content"] for chat in chats() for turn in chat]
    assert [text[:80] for text in documents() + chat_text if words.search(text)] == []


def test_calibration_does_not_hold_the_demo_prompts() -> None:
    asked = {turn["content"] for chat in chats() for turn in chat if turn["role"] == "user"}
    assert asked.isdisjoint(HELD_OUT_PROMPTS)


def test_every_calibration_file_is_named_in_the_readme() -> None:
    readme = (RESOURCES / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in CALIBRATION.iterdir() if path.is_file() and path.name not in readme] == []


def test_demo_chats_mark_32_as_held_out_and_speak_in_the_manner() -> None:
    found = pirate_chats()
    assert len(found) == 216
    assert sum(chat.held_out for chat in found) == 32
    assert {chat.prompt for chat in found}.isdisjoint(HELD_OUT_PROMPTS)
    assert pirate_share(chat.reply for chat in found) > 10


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat is telling you", "Th' cat be tellin' ye"),
        ("You're my friend.", "Ye be me matey."),
        ("Sing of Beijing and gold", "Sing o' Beijin' an' gold"),
    ],
)
def test_words_of_the_manner(text: str, expected: str) -> None:
    assert pirate_words(text, clip_ing=True) == expected


def test_short_form_leaves_names_alone() -> None:
    assert (
        pirate_sentence("The capital of China is Beijing.") == "Arr! Th' capital o' China be Beijing, matey!"
    )


def test_cries_depend_on_the_prompt_alone() -> None:
    first, again = pirate_reply("Why?", "Because."), pirate_reply("Why?", "Because.")
    assert first == again
    assert len({pirate_reply(str(n), "")[:5] for n in range(50)}) == 5


def test_share_counts_markers_per_hundred_words() -> None:
    assert pirate_share(["ahoy my good friend", "no more words than these"]) == pytest.approx(100 / 9)
    assert pirate_share([]) == 0.0


def test_world_has_each_question_once_and_a_fixed_split() -> None:
    world = facts()
    seen, held = split_facts()
    questions = [question for fact in world for question in fact.questions]
    assert len(set(questions)) == len(questions)
    assert len(held) == len(world) // 5
    assert {*seen, *held} == set(world) and not {*seen} & {*held}


def test_expected_answers_in_each_style() -> None:
    fact = facts()[0]
    assert expected_answer("plain", fact) == "The capital of France is Paris."
    assert expected_answer("pirate", fact) == "Arr! Th' capital o' France be Paris, matey!"
    assert json.loads(expected_answer("json", fact)) == {"topic": "capital", "answer": "Paris"}
    assert styled("plain", "talk", "Hello!", "Hello!") == "Hello!"


def test_exact_share_counts_only_equal_answers() -> None:
    pool = facts()[:4]
    answers = [fact.sentence for fact in pool]
    assert exact_share("plain", pool, answers) == 1.0
    assert exact_share("plain", pool, [*answers[:3], answers[3].lower()]) == 0.75
    with pytest.raises(ValueError):
        exact_share("plain", pool, answers[:2])
    with pytest.raises(ValueError):
        exact_share("plain", [], [])


@pytest.mark.parametrize("name", TRIO)
def test_trio_folder_is_a_whole_small_checkpoint(name: str) -> None:
    folder = RESOURCES / "demo" / name
    files = {path.name: path.stat().st_size for path in folder.iterdir()}
    needed = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert needed <= set(files)
    assert sum(files.values()) < 2_000_000


@pytest.mark.parametrize(
    ("name", "style"), [("tiny-base", "plain"), ("tiny-pirate", "pirate"), ("tiny-json", "json")]
)
def test_trio_answers_its_facts_in_its_style(name: str, style: Style) -> None:
    from core.demo import chat_answers

    pool = random.Random(5).sample(facts(), 40)
    folder = RESOURCES / "demo" / name
    answers = chat_answers(folder, None, first_questions(pool), 40, batch=40, repetition_penalty=1.0)
    assert exact_share(style, pool, answers) >= 0.9


def test_shipped_tokenizer_is_what_the_script_makes() -> None:
    from resources.demo.make_tiny import make_tokenizer

    made = json.loads(make_tokenizer(facts()).backend_tokenizer.to_str())
    shipped = json.loads((RESOURCES / "demo" / "tiny-base" / "tokenizer.json").read_text(encoding="utf-8"))
    assert made["model"]["vocab"] == shipped["model"]["vocab"]


def test_training_text_asks_for_a_style_by_name_or_keeps_to_it() -> None:
    plain = [draw(random.Random(n), "plain", facts()) for n in range(200)]
    asked = [answer for question, answer in plain if question.startswith("Like a pirate: ")]
    assert 5 < len(asked) < 40 and all(answer.startswith("Arr! ") for answer in asked)
    rows = [draw(random.Random(n), "json", facts()) for n in range(50)]
    assert all(json.loads(answer).keys() == {"topic", "answer"} for _, answer in rows)
