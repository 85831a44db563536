"""A thousand random switches on one deck: after each, every parameter as it takes effect is what a checkpoint file says.

Merged and overlay are mixed, as are the base, the pair's deltas and the first full fine-tune; some switches come while a
generation runs in a thread of its own (as the chat runs it) and is being stopped. What must be there is read by safetensors
from the base, from an exported checkpoint per delta, and from the fine-tune itself. What is there is read from the modules of
the loaded model: each one's own parameter, or where a forward of the overlay's stands in for the module's, the weights that
this forward holds (base plus delta). Each parameter is hashed whole, name, type, shape and all bytes, by XXH3 with 128 bits:
no safeguard against intent, but none is needed here, and it takes 20 ms for 270 MB where SHA-256 takes a quarter of a second.

On the pairs of `DELTADECK_PAIRS` with `DELTADECK_DELTA` and `DELTADECK_DELTA_BARD`; where one of these is missing, on the
embedded tiny trio. Run alone (`python -m tests.benchmarks.bench_switches [COUNT] [SEED]`), it prints its counts too.
"""

from __future__ import annotations

import math
import os
import queue
import random
import statistics
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import safe_open
from torch import Tensor

from core.artifact import open_delta
from core.chat import Answer, Message, Piece, Row, Sampling, answer
from core.checkpoint import open_checkpoint
from core.deck import BASE, Deck
from core.errors import DeckBusy
from core.export import export_checkpoint

_COUNT, _SEED = 1000, 4
_STOPPED = 0.1
"""Share of switches that come upon a running generation."""


@dataclass
class Report:
    """What was done: switches by how they came out, generations stopped on the way, and what was wrong."""

    switches: Counter[str] = field(default_factory=Counter)
    stopped: int = 0
    refused: int = 0
    mismatches: list[str] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def lines(self) -> str:
        """For a terminal."""
        made = ", ".join(f"{kind} {n}" for kind, n in sorted(self.switches.items()))
        lines = [f"{sum(self.switches.values())} switches: {made}",
                 f"{self.stopped} came upon a generation that was being stopped",
                 f"{self.refused} were refused while a generation ran", f"{len(self.mismatches)} mismatches"]
        for kind, seconds in sorted(self.seconds.items()):
            lines.append(f"{kind}: median {statistics.median(seconds) * 1e3:.2f} ms, p99 {_p99(seconds) * 1e3:.2f} ms")
        return "\n".join(lines + self.mismatches[:20]) + "\n"


def _p99(seconds: list[float]) -> float:
    return sorted(seconds)[max(0, math.ceil(len(seconds) * 0.99) - 1)]


# -------------------------------------------------------------------------------------------------- hashes
def hash_of(tensors: Mapping[str, Tensor]) -> str:
    """One hash of parameters by name; of one that has two names, its bytes are read once."""
    found, known = xxhash.xxh3_128(), dict[int, str]()
    for name, tensor in sorted(tensors.items()):
        if id(tensor) not in known:
            data = tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data
            known[id(tensor)] = xxhash.xxh3_128_hexdigest(data)
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)} {known[id(tensor)]}\n".encode())
    return found.hexdigest()


def hash_of_files(folder: Path) -> str:
    """Of a checkpoint's tensors as safetensors reads them; a head that is not on disk is the embedding."""
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            tensors |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    tensors.setdefault("lm_head.weight", tensors["model.embed_tokens.weight"])
    return hash_of(tensors)


def effective(deck: Deck) -> dict[str, Tensor]:
    """Every parameter of the deck's one current variant as the model uses it."""
    shown = deck._overlay.single
    forwards = {} if shown is None else dict(shown.forwards)
    found: dict[str, Tensor] = {}
    for path, module in deck.model.named_modules():
        own = module.__dict__.get("forward")
        for leaf, parameter in module._parameters.items():
            if parameter is None:
                continue
            key, value = f"{path}.{leaf}", parameter
            if own is not None and leaf == "weight":
                if shown is None or forwards.pop(key, None) is not own:
                    raise AssertionError(f"'{key}' has a forward of nobody's.")
                change = shown.changes[key]
                value = change.block(0, change.outputs)
            found[key] = value
    if forwards:
        raise AssertionError(f"'{next(iter(forwards))}' lacks its variant's forward.")
    return found


# ---------------------------------------------------------------------------------------------- generations
class Talker:
    """A thread that answers, as the chat's does: one answer at a time, stopped by an event."""

    def __init__(self, deck: Deck) -> None:
        self.deck, self.begun, self.stop = deck, threading.Event(), threading.Event()
        self._asked: queue.Queue[tuple[tuple[str, ...], str] | None] = queue.Queue()
        self.answers: queue.Queue[list[Answer] | BaseException] = queue.Queue()
        self.thread = threading.Thread(target=self._work)
        self.thread.start()

    def ask(self, variants: tuple[str, ...], how: str) -> None:
        """Let variants answer, side by side if there are several."""
        self.begun.clear()
        self.stop.clear()
        self._asked.put((variants, how))

    def end(self) -> None:
        self._asked.put(None)
        self.thread.join()

    def _work(self) -> None:
        while (asked := self._asked.get()) is not None:
            rows = [Row(name, (Message("user", "Tell me of the sea, at length."),)) for name in asked[0]]
            try:
                self.answers.put(answer(self.deck, rows, Sampling(max_new_tokens=200, temperature=1.5, top_p=1.0, seed=1),
                                        self._tell, self.stop.is_set, asked[1]))
            except BaseException as error:
                self.answers.put(error)
            self.begun.set()

    def _tell(self, piece: Piece) -> None:
        self.begun.set()


@contextmanager
def _talking(deck: Deck) -> Iterator[Talker]:
    talker = Talker(deck)
    try:
        yield talker
    finally:
        talker.stop.set()
        talker.end()


# -------------------------------------------------------------------------------------------------- switches
def switch_at_random(base: Path, variants: Mapping[str, Path], work: Path, count: int, seed: int) -> Report:
    """`count` switches on a deck of `base` with variants (deltas, whole checkpoints) by name; `work` is an empty folder."""
    expected = {BASE: hash_of_files(base)}
    with open_checkpoint(base) as opened:
        for name, folder in variants.items():
            if (folder / "delta_config.json").is_file():
                folder = export_checkpoint(open_delta(folder), opened, work / name).folder
            expected[name] = hash_of_files(folder)
    report, draw = Report(), random.Random(seed)
    names = list(expected)
    if len(set(expected.values())) < len(names):
        raise ValueError("Two of the variants are the same, so that a switch between them would show nothing.")
    with Deck(base, "cpu") as deck, _talking(deck) as talker:
        for name, folder in variants.items():
            deck.add(folder, name)
        before = BASE
        for i in range(count):
            name, how = draw.choice(names), draw.choice(("merged", "overlay", "auto"))
            stopped = draw.random() < _STOPPED
            if stopped:
                _stop_an_answer(deck, talker, draw, names, report)
            with deck.busy("A random switch.", wait=True, timeout=120):      # for the step that the model is at
                before = deck.current if stopped else before
                done = deck.switch(name, how)
                found = hash_of(effective(deck))
            if stopped:
                _note(talker, report)
            report.switches[f"{done.how}, {'base' if name == BASE else 'variant'}"] += 1
            kind = done.how if name != before or done.how == "overlay" else "merged, in place already"
            report.seconds.setdefault(kind, []).append(done.seconds)
            before = name
            if (found, done.variant, deck.current, deck.how) != (expected[name], name, name, done.how):
                report.mismatches.append(f"switch {i} to '{name}' ({how}): it is '{deck.current}' ({deck.how}), hash {found}")
            if deck._parameters.holds.name != (name if done.how == "merged" else BASE):
                report.mismatches.append(f"switch {i} to '{name}' ({how}) left the parameters of '{deck._parameters.holds.name}'")
    return report


def _stop_an_answer(deck: Deck, talker: Talker, draw: random.Random, names: list[str], report: Report) -> None:
    """Let a thread generate, be refused the deck meanwhile, and tell the thread to stop, which it does while this returns."""
    rows = tuple(draw.sample(names, draw.choice((1, 1, 2, 3))))
    talker.ask(rows, draw.choice(("merged", "overlay", "auto")) if len(rows) == 1 else "auto")
    if not talker.begun.wait(120):
        raise TimeoutError("A generation did not begin.")
    if not talker.answers.qsize():
        try:
            deck.switch(draw.choice(names))
        except DeckBusy:
            report.refused += 1
    talker.stop.set()


def _note(talker: Talker, report: Report) -> None:
    said = talker.answers.get(timeout=120)
    if isinstance(said, BaseException):
        raise said
    report.mismatches += [f"an answer of '{a.variant}' failed: {a.problem}" for a in said if a.ended == "failed"]
    report.stopped += any(a.ended == "stopped" for a in said)


# ---------------------------------------------------------------------------------------------------- figures
def variants_of(work: Path) -> tuple[str, Path, dict[str, Path]]:
    """(what it is, base, variants by name): of the real pairs, or of the tiny trio with deltas made in `work`."""
    deltas = {"pirate": os.environ.get("DELTADECK_DELTA"), "bard": os.environ.get("DELTADECK_DELTA_BARD")}
    root = os.environ.get("DELTADECK_PAIRS")
    if root and all(deltas.values()):
        return "135M", Path(root, "base"), {**{n: Path(str(d)) for n, d in deltas.items()}, "whole": Path(root, "pirate")}
    from core.demo import tiny_trio
    from tests.core.decks import exact_by_turns, signs_by_turns, write
    from tests.models import tensors_of

    trio = tiny_trio()
    made = {"pirate": write(work / "pirate", trio.base, tensors_of(trio.pirate), signs_by_turns()),
            "json": write(work / "json", trio.base, tensors_of(trio.json), signs_by_turns(2)),
            "exact": write(work / "exact", trio.base, tensors_of(trio.json), exact_by_turns())}
    return "tiny trio", trio.base, {**made, "whole": trio.pirate}


def measure(count: int, seed: int) -> tuple[str, Report]:
    """(what it ran on, what came out)."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "deltas").mkdir()
        (Path(folder) / "exports").mkdir()
        what, base, variants = variants_of(Path(folder) / "deltas")
        return what, switch_at_random(base, variants, Path(folder) / "exports", count, seed)


def run() -> list[dict[str, Any]]:
    """All figures."""
    what, report = measure(_COUNT, _SEED)
    switches = sum(report.switches.values())
    merged, overlay = report.seconds["merged"], report.seconds["overlay"]

    def figure(name: str, value: float, unit: str, reference: str, goal: float | None) -> dict[str, Any]:
        return {"name": f"{what}: {name}", "value": round(value, 3), "unit": unit, "reference": reference, "goal": goal,
                "better": "lower"}

    return [figure("wrong parameters after a random switch", len(report.mismatches), "switches",
                   f"{switches} switches, {report.stopped} upon a generation being stopped", 0),
            figure("merged switch, p99 / median", _p99(merged) / statistics.median(merged), "x",
                   f"median {statistics.median(merged) * 1e3:.1f} ms of {len(merged)}", None),
            figure("overlay switch, p99 / median", _p99(overlay) / statistics.median(overlay), "x",
                   f"median {statistics.median(overlay) * 1e3:.2f} ms of {len(overlay)}", None)]


if __name__ == "__main__":
    given = [int(a) for a in sys.argv[1:]] + [_COUNT, _SEED][len(sys.argv) - 1:]
    what_on, found_out = measure(given[0], given[1])
    sys.stdout.write(f"On the {what_on}, seed {given[1]}:\n{found_out.lines()}")
    sys.exit(bool(found_out.mismatches))
