"""Runs mutations in a process of its own, which may neither reach the network nor much memory, and sorts what comes of them.

`run(kind, numbers)` starts that process and watches it: one that dies or is silent for ten seconds is a defect, and another
goes on behind it. In the child, each mutation ends as one of OUTCOMES; all but the first three are defects of the product.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from tests.hostile.mutate import (
    join_weights,
    read_files,
    reduced,
    split_weights,
    spoil_checkpoint,
    spoil_delta,
    write_files,
)
from tests.hostile.reader import (
    CODECS,
    COMPUTED,
    Array,
    Broken,
    judge_checkpoint,
    judge_delta,
    read_safetensors,
    same_values,
)

OUTCOMES = ("refused", "correct", "another valid file", "crash", "hang", "untyped error", "out of memory", "wrong weights",
            "left its folder", "ran or fetched something", "bad message")
FINE = OUTCOMES[:3]
PATIENCE = 10.0
"""Seconds that one mutation may take."""
MEMORY = 1 << 30
"""Bytes of address space beyond what the process has before the first mutation."""
GOLDEN = Path(__file__).parents[1] / "golden"
_ROOT = os.path.realpath(Path(__file__).parents[2])
_DANGERS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "subprocess.Popen", "os.system",
            "os.exec", "os.posix_spawn", "os.fork", "pickle.find_class", "urllib.Request", "ctypes.dlopen")


# ------------------------------------------------------------------------------------------------------------ parent
@dataclass
class Tally:
    """What came of a run: how many mutations by outcome, and by (kind, outcome); defects as texts; the child's memory."""

    outcomes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[tuple[str, str]] = field(default_factory=Counter)
    defects: list[str] = field(default_factory=list)
    stricter: list[str] = field(default_factory=list)
    """Sealed deltas that were refused although the judge would take them."""
    memory: int = 0
    """Bytes by which the largest resident size of the child grew."""
    seconds: float = 0.0
    slowest: tuple[float, int, str] = (0.0, -1, "")
    """Seconds of the slowest mutation, its number and kind."""

    @property
    def total(self) -> int:
        """Mutations that were made."""
        return sum(self.outcomes.values())

    def take(self, number: int, outcome: str, kind: str, detail: str) -> None:
        """Count one."""
        self.outcomes[outcome] += 1
        self.kinds[kind, outcome] += 1
        if outcome not in FINE:
            self.defects.append(f"{number} ({kind}): {outcome}: {detail}")


def run(what: str, count: int, *, seed: int = 0, first: int = 0) -> Tally:
    """Make `count` mutations of `what` ("delta" or "checkpoint"), from number `first` on."""
    tally, last, began = Tally(), first + count, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz") as root:
        while first < last:
            first = _watch(what, seed, first, last, Path(root), tally)
    tally.seconds = time.monotonic() - began
    return tally


def _watch(what: str, seed: int, first: int, last: int, root: Path, tally: Tally) -> int:
    """One child; the number at which the next one has to go on."""
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.hostile.fuzz", what, *map(str, (seed, first, last, root))]
    limits = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "QT_QPA_PLATFORM": "offscreen",
              "PYTHONDONTWRITEBYTECODE": "1"}
    with (root / "errors").open("w+b") as errors, subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, env=os.environ | limits, cwd=Path(__file__).parents[2]) as child:
        assert child.stdout is not None
        current, patience, lines = first, 300.0, _Lines(child.stdout.fileno())
        while (line := lines.next(patience)) != b"":
            if line is None:
                child.kill()
                tally.take(current, "hang", "", f"no answer within {patience:.0f} s")
                return current + 1
            told = json.loads(line)
            if "peak" in told:
                tally.memory = max(tally.memory, told["peak"])
            elif "outcome" in told:
                tally.take(told["number"], told["outcome"], told["kind"], told["detail"])
                tally.stricter += [f"{told['number']} ({told['kind']}): {told['detail']}"] if told["stricter"] else []
                tally.slowest = max(tally.slowest, (told["seconds"], told["number"], told["kind"]))
                current = told["number"] + 1
            patience = PATIENCE
        code = child.wait()
        if current >= last and code == 0:
            return last
        errors.seek(0)
        said = errors.read()[-600:].decode("utf-8", "replace")
        if current == first and patience > PATIENCE:
            raise RuntimeError(f"the child could not start: {said}")
        tally.take(current, "crash", "", f"exit code {code}: {said}")
        return current + 1


class _Lines:
    """Lines of a pipe as they come."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._whole: list[bytes] = []
        self._rest = b""

    def next(self, patience: float) -> bytes | None:
        """The next line; None when it does not come in time, nothing at the end."""
        until = time.monotonic() + patience
        while not self._whole:
            ready, _, _ = select.select([self._handle], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                return None
            part = os.read(self._handle, 65536)
            if not part:
                return b""
            *self._whole, self._rest = (self._rest + part).split(b"\n")
        return self._whole.pop(0)


# ------------------------------------------------------------------------------------------------------------- child
class _Guard:
    """Notes what a mutation must not make the program do; set up once, it can't be taken away."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[tuple[str, str]] = []
        self.roots: tuple[str, ...] = ()
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "pickle.find_class" and "/numba/" in sys._getframe(1).f_code.co_filename:
            return                                     # its own index of compiled kernels, in its own cache
        if event == "ctypes.dlopen" and args[0] is None:
            return                                     # the process itself: the guard of mapped files asks its C library
        if event in _DANGERS:
            self.seen.append(("ran or fetched something", f"{event} {args!r}"[:200]))
            raise PermissionError(f"{event} is not allowed here")
        if event == "open" and isinstance(args[0], str | bytes):
            self.on = False
            path = os.path.realpath(os.fsdecode(args[0]))
            self.on = True
            if not path.startswith(self.roots):
                self.seen.append(("left its folder", f"{args[0]!r} is {path}"))
            elif isinstance(args[1], str) and set(args[1]) & set("wax+") and not _keeps_a_kernel(path):
                self.seen.append(("ran or fetched something", f"wrote {path}"))


def _keeps_a_kernel(path: str) -> bool:
    """Whether it is Numba that writes a kernel compiled just now to its cache, or tries whether it could."""
    folder = path if path.endswith("__pycache__") else os.path.dirname(path)
    if not folder.startswith(os.path.join(_ROOT, "core")) or not (folder == path or ".nbi" in path or ".nbc" in path):
        return False
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and os.path.join("numba", "core", "caching") not in frame.f_code.co_filename:
        frame = frame.f_back
    return frame is not None


def _folders(home: Path) -> tuple[Path, Path]:
    """Two sound checkpoints: one file, and three with an index and small files beside them."""
    one, many = home / "one", home / "many"
    shutil.copytree(GOLDEN / "base", one)
    (one / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512}')
    many.mkdir()
    shutil.copy(one / "config.json", many)
    (many / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}}, "added_tokens": []}')
    (many / "chat_template.jinja").write_text("{{ messages[0].content }}")
    (many / "generation_config.json").write_text('{"eos_token_id": [0, 1], "temperature": 0.7}')
    held = read_safetensors((one / "model.safetensors").read_bytes())
    header = split_weights((one / "model.safetensors").read_bytes())[0]
    places = {}
    for i in range(3):
        name, part, data = f"model-{i + 1:05d}-of-00003.safetensors", {}, b""
        for tensor in sorted(held)[i::3]:
            raw = held[tensor][2]
            part[tensor] = {**header[tensor], "data_offsets": [len(data), len(data) + len(raw)]}
            data, places[tensor] = data + raw, name
        (many / name).write_bytes(join_weights(part, data))
    (many / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return one, many


def _sane(error: Exception) -> str:
    """What is wrong with a refusal's words."""
    what, remedy = getattr(error, "what", ""), getattr(error, "remedy", "")
    bad = not what.endswith(".") or not remedy.endswith(".") or "\n" in str(error) or len(str(error)) > 1500
    return f"{type(error).__name__}: {error!s:.300}" if bad else ""


class _Bench:
    """Both kinds of mutation, the folders they are made in, and what the sound originals hold."""

    def __init__(self, root: Path, guard: _Guard) -> None:
        from core.checkpoint import open_checkpoint

        self.home = Path(tempfile.mkdtemp(dir=root))
        self.guard, self.case = guard, self.home / "case" / "folder"
        self.outside = self.home / "case" / "outside"
        self.outside.mkdir(parents=True)
        self.checkpoints = [read_files(folder) for folder in _folders(self.home)]
        self.deltas = [reduced(read_files(GOLDEN / name), CODECS) for name in ("delta", "sharded")]
        for files in (*self.checkpoints, *self.deltas):
            for name, content in files.items():
                assert isinstance(content, bytes)
                (self.outside / name).write_bytes(content)
        self.weights = judge_checkpoint(self.home / "one")
        self.base = open_checkpoint(self.home / "one")
        self.variants = []
        for sound in self.deltas:
            write_files(self.case, sound)
            self.variants.append(judge_delta(self.case, self.weights))
        libraries = {sys.prefix, sys.base_prefix, os.path.dirname(os.__file__), str(Path(__file__).parents[2])}
        allowed = (str(self.case), str(self.home / "one"), *libraries)
        self.guard.roots = ("/dev/null", *(os.path.realpath(p) + os.sep for p in allowed))

    def delta(self, rng: Random) -> tuple[str, str, str, bool]:
        """One mutation of a delta: (outcome, kind, detail, whether the judge would have taken what was refused)."""
        from app.library.reading import read_card, read_delta, read_rows
        from core.artifact import check_base, check_whole, open_delta
        from core.errors import DeltadeckError

        at = rng.randrange(2)
        files, sealed, kind = spoil_delta(rng, self.deltas[at], str(self.outside))
        write_files(self.case, files)
        listed = rng.randrange(3) == 0

        def act() -> dict[str, tuple[str, Array]]:
            if listed:                                 # every third: it opens the folder again
                entry = read_delta(self.case)
                if "can't be read (" in entry.problem and "contradicts itself" not in entry.problem:
                    raise AssertionError(f"the library did not foresee: {entry.problem}")
            read_card(self.case)
            delta = open_delta(self.case)
            check_whole(delta)
            check_base(delta, self.base)
            made = {n: (r.dtype, _array(delta.variant(self.base, n))) for n, r in delta.records.items()}
            if listed:
                read_rows(self.case)
            return made
        outcome, detail, made = self._tried(act, DeltadeckError)
        if outcome:
            stricter = False
            if outcome == "refused" and sealed:
                try:
                    judge_delta(self.case, self.weights)
                    stricter = True
                    detail = f"the judge would take it: {detail}"
                except Broken:
                    pass
            return outcome, kind, detail, stricter
        if _alike(made, self.variants[at]):
            return "correct", kind, "", False
        if not sealed:
            return "wrong weights", kind, "accepted though its hashes do not fit", False
        try:
            other = judge_delta(self.case, self.weights)
        except Broken as error:
            return "wrong weights", kind, f"accepted, but it breaks a rule: {error}", False
        if _alike(made, other, slack=True):
            return "another valid file", kind, "", False
        return "wrong weights", kind, "other values than the judge's", False

    def checkpoint(self, rng: Random) -> tuple[str, str, str, bool]:
        """One mutation of a checkpoint; returns as `delta`."""
        import llvmlite.binding  # noqa: F401 (which the guard of mapped files would load at the first map)

        from app.checkpoints import facts_of
        from core.checkpoint import open_checkpoint
        from core.errors import DeltadeckError

        at = rng.randrange(2)
        files, _, kind = spoil_checkpoint(rng, self.checkpoints[at], str(self.outside))
        write_files(self.case, files)

        def act() -> dict[str, tuple[str, tuple[int, ...], bytes]]:
            with open_checkpoint(self.case, offline=True) as opened:
                facts_of(opened, str(self.case))
                for path in opened.sidecars().values():
                    path.read_bytes()
                found = {}
                for name, info in opened.tensors.items():
                    copied, mapped = _raw(opened.read(name)), _raw(opened.view(name))
                    if copied != mapped or opened.sha256(name) != _sha256(copied):
                        raise AssertionError(f"{name!r} is read in two ways")
                    found[name] = (str(info.dtype).rpartition(".")[2], info.shape, copied)
                return found
        outcome, detail, made = self._tried(act, DeltadeckError)
        if outcome:
            return outcome, kind, detail, False
        try:
            true = judge_checkpoint(self.case)
        except Broken as error:
            return "wrong weights", kind, f"accepted, but: {error}", False
        left_out = true.keys() - made.keys()
        if not all(map(COMPUTED.fullmatch, left_out)) or any(
                made[n] != (_NAMES[true[n][0]], *true[n][1:]) for n in made.keys() & true.keys()) or made.keys() - true.keys():
            return "wrong weights", kind, "other values than the judge's", False
        return "correct" if true == self.weights else "another valid file", kind, "", False

    def _tried(self, act: Callable[[], Any], typed: type[Exception]) -> tuple[str, str, Any]:
        """(outcome, detail, None), or ("", "", the result) of what came to an end as it should."""
        self.guard.seen.clear()
        self.guard.on = True
        made, outcome, detail = None, "", ""
        try:
            made = act()
        except typed as error:
            outcome, detail = "refused", str(error)[:200]
            if problem := _sane(error):
                outcome, detail = "bad message", problem
        except MemoryError as error:
            outcome, detail = "out of memory", str(error)[:200]
        except BaseException as error:
            trace, place = error.__traceback__, ""
            while trace is not None:
                place, trace = f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}", trace.tb_next
            outcome, detail = "untyped error", f"{type(error).__name__} at {place}: {error!s:.200}"
        finally:
            self.guard.on = False
        if self.guard.seen:
            outcome, detail = self.guard.seen[0]
        return outcome, detail, made


_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


def _sha256(raw: bytes) -> str:
    import hashlib

    return hashlib.sha256(raw).hexdigest()


def _raw(tensor: Any) -> bytes:
    import torch

    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()) if tensor.numel() else b""


def _array(tensor: Any) -> Array:
    import torch

    array: Array = (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array.view("<u2") if tensor.dtype == torch.bfloat16 else array


def _alike(one: Mapping[str, tuple[str, Array]], other: Mapping[str, tuple[str, Array]], slack: bool = False) -> bool:
    return one.keys() == other.keys() and all(one[n][0] == other[n][0] and same_values(*one[n], other[n][1], slack) for n in one)


def work(what: str, seed: int, first: int, last: int, root: Path) -> None:
    """The child: every mutation from `first` to `last` in turn, each told as a line of JSON."""
    import torch

    torch.set_num_threads(1)
    guard = _Guard()
    bench = _Bench(root, guard)
    act: Callable[[Random], tuple[str, str, str, bool]] = {"delta": bench.delta, "checkpoint": bench.checkpoint}[what]
    for warm in range(30):                             # what is imported or compiled at first use is no mutation's doing
        act(Random(f"warm {warm}"))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, resource.RLIM_INFINITY))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = sys.stdout.fileno()
    os.write(said, b"{}\n")
    for number in range(first, last):
        began = time.monotonic()
        outcome, kind, detail, stricter = act(Random(f"{seed} {what} {number}"))
        told = {"number": number, "outcome": outcome, "kind": kind, "detail": detail, "stricter": stricter,
                "seconds": time.monotonic() - began}
        os.write(said, json.dumps(told).encode() + b"\n")
        if number % 500 == 499:
            gc.collect()
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    os.write(said, json.dumps({"peak": peak}).encode() + b"\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="One child of the fuzzer; see `run`.")
    parser.add_argument("what", choices=("delta", "checkpoint"))
    for number in ("seed", "first", "last"):
        parser.add_argument(number, type=int)
    parser.add_argument("root", type=Path)
    given = parser.parse_args()
    work(given.what, given.seed, given.first, given.last, given.root)
