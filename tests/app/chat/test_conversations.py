"""Conversations: what a side has heard, versions, files, exports."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.chat.conversations import (
    Answers,
    Choice,
    Conversation,
    Turn,
    Version,
    as_json,
    as_markdown,
    decode,
    encode,
    milliseconds,
    new_conversation,
    touched,
)


def said(text: str, variant: str = "base", **values: object) -> Answers:
    return Answers((Version(text=text, variant=variant, **values),))  # type: ignore[arg-type]


def talk(*turns: Turn, **values: object) -> Conversation:
    return touched(new_conversation(), turns=turns, **values)


def test_a_side_hears_its_own_answers() -> None:
    found = talk(Turn(prompt="Hi", answers={"A": said("Hello"), "B": said("Ahoy")}), system="Be brief.")
    assert found.messages("B", 1) == (("system", "Be brief."), ("user", "Hi"), ("assistant", "Ahoy"))
    assert found.messages("A", 1)[-1] == ("assistant", "Hello")
    assert found.messages("A", 0) == (("system", "Be brief."),)


def test_a_leading_side_is_heard_by_all_and_a_new_side_hears_the_first() -> None:
    turn = Turn(prompt="Hi", answers={"A": said("Hello"), "B": said("Ahoy")})
    assert talk(turn).messages("C", 1)[-1] == ("assistant", "Hello")
    assert talk(msgspec.structs.replace(turn, lead="B")).messages("A", 1)[-1] == ("assistant", "Ahoy")


def test_a_prompt_without_an_answer_is_not_heard() -> None:
    found = talk(Turn(prompt="Lost"), Turn(prompt="Hi", answers={"A": said("Hello")}))
    assert found.messages("A", 2) == (("user", "Hi"), ("assistant", "Hello"))


def test_versions_are_added_turned_and_removed() -> None:
    answers = said("one").plus(Version(text="two", variant="base")).plus(Version(text="three", variant="base"))
    assert answers.current is not None and answers.current.text == "three"
    assert answers.turned(1).chosen == 2
    assert answers.turned(-1).current == answers.versions[1]
    less = answers.turned(-1).less()
    assert [v.text for v in less.versions] == ["one", "three"] and less.chosen == 1
    assert Answers().current is None and said("x").less().current is None


def test_a_side_without_versions_leaves_and_takes_the_lead_with_it() -> None:
    turn = Turn(prompt="Hi", answers={"A": said("Hello"), "B": said("Ahoy")}, lead="B")
    left = turn.with_answers("B", turn.answers["B"].less())
    assert list(left.answers) == ["A"] and left.lead == ""


@pytest.mark.parametrize(("ended", "cut"), [("end", False), ("length", True), ("stopped", True), ("failed", False)])
def test_what_was_cut_can_go_on(ended: str, cut: bool) -> None:
    assert Version(text="x", variant="base", ended=ended).is_cut is cut


@given(st.text(), st.text(), st.text())
def test_any_text_comes_back_from_its_file(prompt: str, answer: str, system: str) -> None:
    found = talk(Turn(prompt=prompt, answers={"A": said(answer, "pirate")}), system=system, sides=("pirate", "base"),
                 sampling=Choice(temperature=0.1))
    try:
        data = encode(found)
    except UnicodeEncodeError:                         # half a surrogate pair is no text
        return
    assert decode(data) == found


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"id": "", "created": 1, "changed": 1}', b'{"id": 3}', b"\xff\xfe",
                                  b'{"id":"x","created":1,"changed":1,"sides":[]}'])
def test_damaged_files_are_refused(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(data)


def test_the_title_is_the_first_prompt_cut_to_a_line() -> None:
    assert talk(Turn(prompt="  What is\nthis? ")).title == "What is this?"
    assert len(talk(Turn(prompt="x" * 500)).title) == 60
    assert new_conversation().title == "New chat"


def test_markdown_has_prompts_and_chosen_answers() -> None:
    both = {"A": said("Oslo.", tokens=3), "B": said("Arr \U0001f99c \u5965\u65af\u9646", "pirate", tokens=1)}
    text = as_markdown(talk(Turn(prompt="Capital?", answers=both), base_name="tiny", system="Be brief."))
    assert "# Capital?" in text and "on tiny" in text and "Be brief." in text
    assert "### A: base (3 tokens)\n\nOslo." in text
    assert "### B: pirate (1 token)\n\nArr \U0001f99c \u5965\u65af\u9646" in text


def test_json_has_every_version() -> None:
    answers = said("one").plus(Version(text="two", variant="base"))
    found = json.loads(as_json(talk(Turn(prompt="Hi", answers={"A": answers}))))
    assert [v["text"] for v in found["turns"][0]["answers"]["A"]["versions"]] == ["one", "two"]
    assert found["title"] == "Hi"


def test_search_needs_every_word_anywhere() -> None:
    found = talk(Turn(prompt="Capital of Norway", answers={"A": said("OSLO, of course")}), base_name="tiny")
    assert found.has_words(["oslo", "norway"]) and found.has_words([]) and not found.has_words(["oslo", "sweden"])


@pytest.mark.parametrize(("seconds", "text"), [(0.0971, "97 ms"), (0.0004, "0.4 ms"), (2.14, "2.1 s"), (31.0, "31 s")])
def test_short_times(seconds: float, text: str) -> None:
    assert milliseconds(seconds) == text
