"""`deltadeck chat`: a conversation with the variants of a deck, in a terminal or over a pipe (a message a line)."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from app.commands import prepare
from app.console import CANCELLED, Failed, Terminal, to_json
from app.progress import showing
from app.words import count, one_line, printable, size
from core.errors import BadOption, Cancelled, DeltadeckError, NoSuchVariant, OutputExists

if TYPE_CHECKING:
    from core.chat import Answer, Row, Sampling
    from core.deck import Deck, Switched

HELP = """\
/switch NAME     let another variant answer (base: the base itself)
/variants        what is on the deck
/both A B        let several answer every message, one after another, until the next /switch
/system TEXT     set the system prompt; without a text, take it away
/new             begin a new conversation
/save FILE.md    write the conversation to a file
/memory          what the model takes in memory
/help            this list
/quit            leave (as Ctrl-D does)
Ctrl-C           stop the answer that is being given (not the program)"""
STOP = "While an answer is being given, Ctrl-C stops it; what was said is kept."
_STOPPING = "Stopping. Press Ctrl-C again to end the program."


@dataclass
class Turn:
    """What the user said, and what each variant answered."""

    text: str
    answers: dict[str, str] = field(default_factory=dict)


@dataclass
class Talk:
    """A conversation as it stands, and who answers."""

    deck: Deck
    sampling: Sampling
    speakers: tuple[str, ...]
    system: str = ""
    turns: list[Turn] = field(default_factory=list)
    problems: int = 0

    def row(self, variant: str, text: str) -> Row:
        """What a variant is asked: where it did not answer itself, it reads what another said."""
        from core.chat import Message, Row

        messages = [Message("system", self.system)] if self.system else []
        for turn in self.turns:
            said = turn.answers.get(variant) or next(iter(turn.answers.values()), "")
            messages.append(Message("user", turn.text))
            if said:
                messages.append(Message("assistant", said))
        return Row(variant, (*messages, Message("user", text)))

    def markdown(self) -> str:
        """The conversation as a document."""
        parts = [f"# Conversation with {', '.join(dict.fromkeys(n for t in self.turns for n in t.answers))}"]
        if self.system:
            parts.append(f"**System:** {self.system}")
        for turn in self.turns:
            parts += ["## You", turn.text]
            for name, text in turn.answers.items():
                parts += [f"## {name}", text]
        return "\n\n".join(parts) + "\n"


class Interrupts:
    """Ctrl-C by what is going on: at the prompt it is a `KeyboardInterrupt`; in an answer it asks for its end."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal, self.answering, self.leave = terminal, False, False

    def handle(self, number: int, _: FrameType | None) -> None:
        """A signal came."""
        self.leave = self.leave or number == signal.SIGTERM
        if not self.answering:
            raise KeyboardInterrupt
        if self.terminal.stopping:
            os._exit(CANCELLED)
        self.terminal.stopping = True
        os.write(2, f"\n{_STOPPING}\n".encode())

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Signals come here for as long as this lasts."""
        former = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(ValueError):                 # not the main thread
                former[number] = signal.signal(number, self.handle)
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    @contextmanager
    def answer(self) -> Iterator[None]:
        """For the time of an answer, Ctrl-C stops only that."""
        self.terminal.stopping, self.answering = False, True
        try:
            yield
        finally:
            self.terminal.stopping, self.answering = False, False


def chat(terminal: Terminal, base: str, deltas: Sequence[Path], device: str, system: str, options: dict[str, Any]) -> None:
    """Load a base with its deltas and talk until the input ends. `options` are those of `Sampling`."""
    prepare(terminal)
    from core.chat import Sampling, mode_of
    from core.deck import BASE, Deck

    sampling = Sampling(**options)
    sampling.check()
    with showing(terminal) as display:
        display.stage("Loading", 1 + len(deltas), "models")
        deck = Deck(base, device)
    with deck:
        with showing(terminal) as display:
            display.stage("Loading", 1 + len(deltas), "models")
            for i, delta in enumerate(deltas):
                display.advance(1 + i)
                deck.add(delta)
        names = deck.variants
        talk = Talk(deck, sampling, (names[0] if names else BASE,), system)
        before, after = deck.memory_before, deck.memory_after
        taken = after.device - before.device if after.device else after.process - before.process
        terminal.say(f"[bold]{escape(Path(base).name)}[/] on {deck.device}, {size(max(0, taken))} in memory, "
                     f"{count(len(names), 'variant')}: {escape(', '.join((BASE, *names)))}")
        if mode_of(deck, BASE) == "completion":
            terminal.say("The base has no chat template: it goes on with your text.", style="dim")
        interrupts = Interrupts(terminal)
        with interrupts.heard():
            if names:
                _switch(terminal, talk, (names[0],))
            _converse(terminal, talk, interrupts)
    if interrupts.leave:
        raise Cancelled("The chat was ended.")
    if talk.problems and not sys.stdin.isatty():
        raise Failed


def _converse(terminal: Terminal, talk: Talk, interrupts: Interrupts) -> None:
    """Line by line to the end of the input, or /quit."""
    typed = sys.stdin.isatty() and terminal.live
    if typed:
        terminal.say("Type a message, or /help.", style="dim")
        with suppress(ImportError):
            import readline  # noqa: F401 (arrows and history at the prompt)
    elif hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")
    while not interrupts.leave:
        try:
            line = _read(f"\nYou > {one_line(', '.join(talk.speakers))}: " if typed else None)
            if line is None:
                break
            if not line.strip():
                continue
            line = line.strip()
            if line.lower() in ("/quit", "/exit"):
                break
            if line.startswith("/") and not line.startswith("//"):
                _command(terminal, talk, line)
            else:
                _say(terminal, talk, interrupts, line.removeprefix("/") if line.startswith("//") else line)
        except KeyboardInterrupt:
            if not typed or interrupts.leave:
                raise
            terminal.say("\nTo leave, type /quit or press Ctrl-D.", style="dim")
        except DeltadeckError as error:
            talk.problems += 1
            terminal.fail(type(error).__name__, error.what, error.why, error.remedy)


def _read(prompt: str | None) -> str | None:
    """The next line; None at the input's end."""
    if prompt is not None:
        try:
            return input(prompt)
        except EOFError:
            sys.stdout.write("\n")
            return None
    line = sys.stdin.readline()
    return line if line else None


# ------------------------------------------------------------------------------------------------ commands
def _command(terminal: Terminal, talk: Talk, line: str) -> None:
    """Carry out a line that begins with a slash."""
    name, _, rest = line.partition(" ")
    found = _COMMANDS.get(name.lower())
    if found is None:
        raise BadOption(f"There is no command '{name}'.", "", "See /help. To send a text that begins with /, write two.")
    found(terminal, talk, rest.strip())


def _switch(terminal: Terminal, talk: Talk, names: tuple[str, ...]) -> None:
    switched = talk.deck.switch(names[0])
    talk.speakers = names
    terminal.say(escape(switch_line(switched)), style="dim")


def switch_line(switched: Switched) -> str:
    """`switched to pirate in 41 ms, 211 tensors`."""
    return (f"switched to {switched.variant} in {switched.seconds * 1e3:.0f} ms, {count(switched.tensors, 'tensor')} "
            f"({switched.reason})")


def _switch_to(terminal: Terminal, talk: Talk, rest: str) -> None:
    if not rest:
        raise BadOption("/switch needs a name.", "", f"Choose one of: {', '.join(_known(talk))}.")
    _switch(terminal, talk, (rest,))


def _both(terminal: Terminal, talk: Talk, rest: str) -> None:
    names = tuple(dict.fromkeys(rest.replace(",", " ").split()))
    known = _known(talk)
    if len(names) < 2:
        raise BadOption("/both needs two names or more.", "", f"Choose from: {', '.join(known)}.")
    for name in names:
        if name not in known:
            raise NoSuchVariant(f"There is no variant '{name}' on this deck.", f"It has: {', '.join(known)}.",
                                "Choose from those.")
    talk.speakers = names
    terminal.say(f"{escape(' and '.join(names))} answer from now on; /switch NAME goes back to one.", style="dim")


def _known(talk: Talk) -> tuple[str, ...]:
    from core.deck import BASE

    return (BASE, *talk.deck.variants)


def _variants(terminal: Terminal, talk: Talk, _: str) -> None:
    from core.chat import mode_of

    for name in _known(talk):
        mark = "[green]*[/]" if name in talk.speakers else " "
        mode = "" if mode_of(talk.deck, name) == "chat" else "  [dim](no chat template: goes on with your text)[/]"
        terminal.say(f"{mark} {escape(name)}{mode}")


def _system(terminal: Terminal, talk: Talk, rest: str) -> None:
    talk.system = rest
    terminal.say("System prompt set." if rest else "No system prompt.", style="dim")


def _new(terminal: Terminal, talk: Talk, _: str) -> None:
    talk.turns.clear()
    terminal.say("A new conversation.", style="dim")


def _save(terminal: Terminal, talk: Talk, rest: str) -> None:
    if not rest or not talk.turns:
        raise BadOption("/save needs a file's name." if talk.turns else "There is nothing to save yet.", "",
                        "Type: /save conversation.md")
    path = Path(rest).expanduser()
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(talk.markdown())
    except FileExistsError as error:
        raise OutputExists(f"'{path}' exists already.", "", "Choose another name.") from error
    except OSError as error:
        raise DeltadeckError(f"'{path}' can't be written: {error.strerror}.", "", "Choose another place.") from error
    terminal.say(f"Saved {count(len(talk.turns), 'turn')} to {escape(str(path))}.", style="dim")


def _memory(terminal: Terminal, talk: Talk, _: str) -> None:
    deck = talk.deck
    for when, memory in (("before loading", deck.memory_before), ("after loading", deck.memory_after), ("now", deck.memory())):
        there = f", {size(memory.device)} on {deck.device}" if memory.device else ""
        terminal.say(f"{when:<15}{size(memory.process)}{there}")


def _help(terminal: Terminal, talk: Talk, _: str) -> None:
    terminal.say(escape(HELP))


def _stop(terminal: Terminal, talk: Talk, _: str) -> None:
    terminal.say(STOP)


_COMMANDS: dict[str, Callable[[Terminal, Talk, str], None]] = {
    "/switch": _switch_to, "/variants": _variants, "/both": _both, "/system": _system, "/new": _new, "/save": _save,
    "/memory": _memory, "/help": _help, "/stop": _stop}


# ------------------------------------------------------------------------------------------------- answers
def _say(terminal: Terminal, talk: Talk, interrupts: Interrupts, text: str) -> None:
    """Send a message to whoever speaks, one after another. The turn is kept if anybody answered."""
    from core.chat import answer

    turn = Turn(text)
    try:
        for name in talk.speakers:
            if len(talk.speakers) > 1 and not terminal.as_json:
                _write(terminal, f"\n## {one_line(name)}\n")
            row = talk.row(name, text)
            with interrupts.answer():
                found = answer(talk.deck, [row], talk.sampling, lambda p: _piece(terminal, p.text), terminal.wants_stop)[0]
            turn.answers[name] = found.text
            _show(terminal, talk, found, text)
            if found.ended == "stopped":
                break
    finally:
        if any(turn.answers.values()):
            talk.turns.append(turn)


def _piece(terminal: Terminal, text: str) -> None:
    if not terminal.as_json:
        _write(terminal, printable(text) if terminal.out.is_terminal else text)


def _write(terminal: Terminal, text: str) -> None:
    """Text to stdout as it comes; what its encoding can't write becomes a question mark."""
    out = terminal.out.file
    try:
        out.write(text)
    except UnicodeEncodeError:
        known = getattr(out, "encoding", None) or "ascii"
        out.write(text.encode(known, "replace").decode(known))
    out.flush()


def _show(terminal: Terminal, talk: Talk, found: Answer, text: str) -> None:
    """What is known of an answer, behind it."""
    import msgspec

    if terminal.as_json:
        _write(terminal, to_json({"prompt": text, **msgspec.to_builtins(found)}) + "\n")
    else:
        _write(terminal, "\n")
        terminal.say(escape(figures(found)), style="dim")
    if found.dropped:
        terminal.say(f"[yellow]Note:[/] the {count(found.dropped, 'oldest message')} did not fit and went unread.")
    if found.ended == "failed":
        talk.problems += 1
        terminal.say(f"[bold red]Error:[/] {escape(found.problem)}")


def figures(found: Answer) -> str:
    """`pirate (merged): 18 tokens, 24.1 tokens/s, first after 0.21 s, context 412 of 2,048 tokens`."""
    parts = [count(found.tokens, "token")]
    if found.tokens:
        parts += [f"{found.tokens_per_second:.1f} tokens/s", f"first after {found.first_token_seconds:.2f} s"]
    of = f" of {found.context:,}" if found.context else ""
    parts.append(f"context {found.prompt_tokens + found.tokens:,}{of} tokens")
    ends = {"length": "cut at the length limit", "stopped": "stopped", "failed": "failed"}
    return f"{found.variant} ({found.how}): {', '.join(parts)}" + (f"; {ends[found.ended]}" if found.ended in ends else "")
