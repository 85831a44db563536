"""`deltadeck chat` as it is typed and piped: answers, commands, figures, stops, exit codes."""

from __future__ import annotations

import io
import json
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app import chatting
from app.chatting import figures
from app.cli import main
from app.console import Terminal
from core.chat import Answer
from core.demo import tiny_trio
from tests.core.decks import write
from tests.models import (
    one_thread,  # noqa: F401 (takes effect by being here)
    tensors_of,
)

TRIO = tiny_trio()
FRANCE, COW = "What is the capital of France?", "What does a cow say?"
IS_PARIS, BE_PARIS = "The capital of France is Paris.", "Arr! Th' capital o' France be Paris, matey!"
GREEDY = ("--temperature", "0", "--repetition-penalty", "1", "--device", "cpu")


@pytest.fixture(scope="module")
def delta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pirate as a delta that keeps everything."""
    return write(tmp_path_factory.mktemp("delta") / "pirate", TRIO.base, tensors_of(TRIO.pirate), lambda n, t: {"codec": "full"})


Chat = Callable[..., tuple[int, str, str]]


@pytest.fixture
def chat(delta: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Chat]:
    """Chat over a pipe: lines, options -> exit code, stdout, stderr."""
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]

    def run(*lines: str, options: tuple[str, ...] = GREEDY,
            deltas: tuple[Path, ...] = (delta, TRIO.json)) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        code = main(["chat", str(TRIO.base), *map(str, deltas), *options])
        out, err = capsys.readouterr()
        return code, out, err
    yield run
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_lines_are_messages_and_the_first_delta_answers(chat: Chat) -> None:
    code, out, err = chat(FRANCE)
    assert (code, out) == (0, f"{BE_PARIS}\n")
    assert re.search(r"switched to pirate in \d+ ms, \d+ tensors \(", err)
    assert re.search(r"pirate \(merged\): 18 tokens, [\d.]+ tokens/s, first after [\d.]+ s, context 39 of 512 tokens", err)
    assert "2 variants: base, pirate, tiny-json" in err


def test_a_base_alone(chat: Chat) -> None:
    code, out, err = chat(FRANCE, deltas=())
    assert (code, out) == (0, f"{IS_PARIS}\n")
    assert "switched" not in err


def test_switch_new_and_both(chat: Chat) -> None:
    code, out, err = chat(FRANCE, "/new", "/switch base", FRANCE, "/new", "/both base, tiny-json", FRANCE, "/quit", "unread")
    assert code == 0
    assert out == (f"{BE_PARIS}\n{IS_PARIS}\n" f"\n## base\n{IS_PARIS}\n"
                   '\n## tiny-json\n{"topic": "capital", "answer": "Paris"}\n')
    assert "switched to base in" in err


def test_json_is_one_object_per_answer(chat: Chat) -> None:
    code, out, _ = chat("/both base pirate", FRANCE, options=(*GREEDY, "--json", "--max-tokens", "5", "--seed", "4"))
    said = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [(s["variant"], s["prompt"], s["ended"], s["tokens"], s["seed"]) for s in said] == [
        (name, FRANCE, "length", 5, 4) for name in ("base", "pirate")]
    assert IS_PARIS.startswith(said[0]["text"])


def test_every_command_answers(chat: Chat) -> None:
    code, out, err = chat("/help", "/variants", "/stop", "/memory", "/system Be kind.", "/system")
    assert (code, out) == (0, "")
    for command in ("/switch", "/variants", "/both", "/system", "/new", "/save", "/memory", "/help", "/quit"):
        assert command in err
    assert "* pirate" in err
    assert "Ctrl-C stops it" in err
    assert re.search(r"before loading +[\d,.]+ [MG]B", err)
    assert "System prompt set." in err
    assert "No system prompt." in err


def test_the_system_prompt_is_read(chat: Chat) -> None:
    lengths = [re.findall(r"context (\d+) of", chat(*lines)[2]) for lines in (("/system You are kind.", COW), (COW,))]
    assert int(lengths[0][0]) != int(lengths[1][0])
    assert "context" in chat(COW, options=(*GREEDY, "--system", "You are kind."))[2]


def test_save_writes_markdown_and_overwrites_nothing(chat: Chat, tmp_path: Path) -> None:
    file = tmp_path / "talk.md"
    nowhere = tmp_path / "no" / "x.md"
    code, _, err = chat("/save", "/system Be kind.", FRANCE, f"/save {file}", f"/save {file}", f"/save {nowhere}")
    assert code == 1
    text = file.read_text(encoding="utf-8")
    assert text.startswith("# Conversation with pirate\n\n**System:** Be kind.\n\n## You\n\n" + FRANCE + "\n\n## pirate\n\n")
    assert "nothing to save" in err
    assert "exists already" in err
    assert "can't be written" in err


@pytest.mark.parametrize(("line", "words"), [("/switch nobody", "no variant 'nobody'"), ("/switch", "needs a name"),
                                             ("/both base", "two names"), ("/both base ghost", "no variant 'ghost'"),
                                             ("/dance", "no command '/dance'"), ("word " * 600, "too long")])
def test_what_goes_wrong_is_told_and_the_chat_goes_on(chat: Chat, line: str, words: str) -> None:
    code, out, err = chat(line, FRANCE)
    assert code == 1, "a script must notice"
    assert words in err.replace("\n", " ")
    assert "Traceback" not in err
    assert out == f"{BE_PARIS}\n"


def test_a_message_may_begin_with_a_slash(chat: Chat) -> None:
    _, out, _ = chat("//dance", options=(*GREEDY, "--json"))
    assert json.loads(out)["prompt"] == "/dance"


def test_bad_input_ends_before_anything_is_said(chat: Chat, tmp_path: Path, delta: Path) -> None:
    for options, deltas, words in ((("--temperature", "-1"), (), "Temperature"), (("--device", "abacus"), (), "abacus"),
                                   ((), (tmp_path / "no",), "no"), (("--top-p", "7"), (), "Top p")):
        code, out, err = chat(FRANCE, options=options, deltas=deltas)
        assert (code, out) == (2, "")
        assert words in err


def interrupt(monkeypatch: pytest.MonkeyPatch, number: int, after: int = 2) -> None:
    """A signal comes when the answer's piece number `after` is written."""
    write, seen = chatting._piece, [0]

    def signalling(terminal: Terminal, text: str) -> None:
        write(terminal, text)
        seen[0] += 1
        if seen[0] == after:
            signal.raise_signal(number)
    monkeypatch.setattr(chatting, "_piece", signalling)


def test_ctrl_c_stops_the_answer_and_not_the_program(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(monkeypatch, signal.SIGINT)
    code, out, err = chat("/both pirate base", FRANCE, "/new", "/switch base", FRANCE)
    assert code == 0
    assert out == f"\n## pirate\nArr!\n{IS_PARIS}\n", "the second of both is not asked, the next message is"
    assert "2 tokens" in err
    assert "; stopped" in err


def test_a_request_to_end_ends_it_after_the_answer(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(monkeypatch, signal.SIGTERM)
    code, out, err = chat(FRANCE, FRANCE)
    assert (code, out) == (130, "Arr!\n")
    assert "Stopped: The chat was ended." in err


class Keyboard(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_at_the_prompt_ctrl_c_says_how_to_leave(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    typed: Iterator[Any] = iter([KeyboardInterrupt(), "", FRANCE, "/switch ghost", EOFError()])
    prompts: list[str] = []

    def read(prompt: str) -> str:
        prompts.append(prompt)
        given = next(typed)
        if isinstance(given, BaseException):
            raise given
        return str(given)
    monkeypatch.setattr(sys, "stdin", Keyboard())
    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setattr(Terminal, "live", property(lambda self: sys.stdin.isatty()))
    assert main(["chat", str(TRIO.base), *GREEDY]) == 0, "who sits there has seen what went wrong"
    out, err = capsys.readouterr()
    assert "type /quit" in err
    assert "no variant 'ghost'" in err
    assert IS_PARIS in out
    assert prompts[0] == "\nYou > base: "


def test_what_a_model_says_does_not_steer_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, said = Terminal(), io.StringIO()
    terminal.out.file = said
    chatting._piece(terminal, "a\x1b[2J\tb\n")
    monkeypatch.setattr(type(terminal.out), "is_terminal", property(lambda self: True))
    chatting._piece(terminal, "a\x1b[2J\tb\n👍")
    assert said.getvalue() == "a\x1b[2J\tb\na[2J\tb\n👍"
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    terminal.out.file = narrow
    chatting._write(terminal, "é 👍")
    narrow.seek(0)
    assert narrow.read() == "? ?"


def test_the_line_under_an_answer() -> None:
    found = Answer(variant="v", text="x", tokens=1, seconds=1, first_token_seconds=0.5, tokens_per_second=2, how="merged",
                   switch_seconds=0, ended="length", prompt_tokens=1411, context=2048)
    assert figures(found) == ("v (merged): 1 token, 2.0 tokens/s, first after 0.50 s, context 1,412 of 2,048 tokens; "
                              "cut at the length limit")
