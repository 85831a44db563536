"""The deck on real models: how fast variants are switched, how fast they answer, and what they take in memory.

Switches are set against loading the full fine-tune by `from_pretrained`, three times over, since that call maps the file and
returns before any weight was read:

- *the call* alone: what a user's program waits for, though the model could not answer yet without reading its file;
- *weights read*: the call, and one byte of every page of the weights, the least that makes them all lie in memory. A merged
  switch leaves all weights written, so this is the like-for-like reference, the one that the goal of 10 is to be read against;
- *first token*: both until the logits of a one-token prompt are there, whose own time counts on both sides.

The goal is shown on the first two. A whole rewrite costs as much as copying the weights: that figure is given beside it, as
the bound that no merged switch gets past on a machine. Cold means that the pages of the fine-tune's and of the delta's files
were dropped from the system's cache. A delta on the deck lies in memory; putting it there (reading and checking it) and then
switching is given too.

`DELTADECK_DELTA` names a delta of the first pair; without it, and for other pairs, one is fitted on next to nothing
(sizes, and so times, are the same).
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tests.benchmarks.pairs import real_pairs

_REPEATS = 10
_TOKENS, _ROUNDS = 24, 7
_THREADS = 2


def delta_of(name: str, base: Path, tuned: Path, folder: Path, first: bool) -> Path:
    """A delta of the pair."""
    given = os.environ.get("DELTADECK_DELTA") if first else os.environ.get(f"DELTADECK_DELTA_{name.upper()}")
    if given:
        return Path(given)
    from core.job import Job
    from core.request import Request

    request = Request(base=str(base), fine_tuned=str(tuned), output=str(folder / name), samples=2, tune_samples=0)
    return Job(request, lambda event: None).run().folder


def _load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True).eval()


def _read(model: Any) -> None:
    """Have every page of the weights in memory."""
    import torch

    for parameter in model.parameters():
        parameter.detach().view(-1).view(torch.uint8)[::4096].sum()


def _first_token(model: Any) -> None:
    """Have logits for what follows a single token."""
    import torch

    with torch.inference_mode():
        model(torch.tensor([[1]]), use_cache=False)


def _copies(model: Any) -> Callable[[], object]:
    """What copies as many bytes as the model's parameters have, on as many threads as torch uses."""
    import torch

    size = sum(p.nbytes for p in model.parameters())
    one, other = torch.ones(size, dtype=torch.uint8), torch.zeros(size, dtype=torch.uint8)
    return lambda: other.copy_(one)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def figure(name: str, value: float, unit: str, reference: str, goal: float | None, better: str) -> dict[str, Any]:
    return {"name": name, "value": round(value, 3), "unit": unit, "reference": reference, "goal": goal, "better": better}


def switches(name: str, base: Path, tuned: Path, delta: Path) -> list[dict[str, Any]]:
    """Merged against a full load, warm and cold; overlay in milliseconds."""
    import torch

    from core.deck import BASE, Deck
    from core.loadtime import drop_pages

    torch.set_num_threads(_THREADS)
    files = {"delta": sorted(delta.glob("*.safetensors")), "full": sorted(tuned.glob("*.safetensors"))}
    times: dict[str, list[float]] = {}

    def note(key: str, seconds: float) -> None:
        times.setdefault(key, []).append(seconds)

    def drop(kind: str) -> str:
        gc.collect()                                   # mapped pages can't be dropped: let go of earlier models' first
        return drop_pages([*files["delta"], *files["full"]]) if kind == "cold" else ""

    def full(kind: str) -> str:
        problem = drop(kind)
        start = time.perf_counter()
        model = _load(tuned)
        note(f"{kind} call", time.perf_counter() - start)
        _read(model)
        note(f"{kind} read", time.perf_counter() - start)
        del model
        problem = problem or drop(kind)
        start = time.perf_counter()
        model = _load(tuned)
        _first_token(model)
        note(f"{kind} token", time.perf_counter() - start)
        return problem

    def merged(kind: str) -> None:
        deck.switch(BASE, "merged")
        drop(kind)
        note(f"{kind} merged", _seconds(lambda: deck.switch("v", "merged")))
        deck.switch(BASE, "merged")
        drop(kind)
        note(f"{kind} merged, token", _seconds(answer))

    def answer() -> None:
        deck.switch("v", "merged")
        _first_token(deck.model)

    def put_on() -> None:
        deck.add(delta, "v")
        deck.switch("v", "merged")

    deck = Deck(base, "cpu")
    deck.add(delta, "v")
    for how in ("merged", "overlay", "merged"):        # kernels are there, pages of the base are mapped
        deck.switch("v", how)
        _first_token(deck.model)
    copy = _copies(deck.model)
    for _ in range(_REPEATS):
        full("warm")
        merged("warm")
        note("copy", _seconds(copy))
    deck.switch(BASE, "merged")
    for _ in range(_REPEATS):
        note("overlay", _seconds(lambda: deck.switch("v", "overlay")))
        deck.switch(BASE, "overlay")
    problem = ""
    for _ in range(_REPEATS):
        problem = full("cold") or problem
        merged("cold")
        deck.remove("v")
        drop("cold")
        note("cold added", _seconds(put_on))
    deck.close()
    mid = {key: statistics.median(values) for key, values in times.items()}
    result = []

    def ratio(what: str, one: str, other: str, goal: float | None) -> None:
        result.append(figure(f"{name}: {what}", mid[one] / mid[other], "x",
                             f"{mid[one] * 1e3:.0f} ms against {mid[other] * 1e3:.0f} ms, median of {_REPEATS}", goal, "higher"))

    for kind in ("warm", "cold"):
        if kind == "cold" and problem:
            continue
        ratio(f"from_pretrained, the call alone / merged switch, {kind}", f"{kind} call", f"{kind} merged", 10)
        ratio(f"from_pretrained, weights read / merged switch, {kind}", f"{kind} read", f"{kind} merged", 10)
        ratio(f"from_pretrained and first token / merged switch and first token, {kind}", f"{kind} token",
              f"{kind} merged, token", None)
    ratio("a copy of all parameters' bytes / merged switch", "copy", "warm merged", None)
    if not problem:
        ratio("from_pretrained, weights read / delta read, checked and merged, cold", "cold read", "cold added", None)
    result.append(figure(f"{name}: from_pretrained / overlay switch, warm", mid["warm call"] / mid["overlay"], "x",
                         f"{mid['warm call'] * 1e3:.0f} ms", 10, "higher"))
    result.append(figure(f"{name}: overlay switch", mid["overlay"] * 1e3, "ms", f"median of {_REPEATS}, CPU", 5, "lower"))
    return result


def decoding(name: str, base: Path, delta: Path) -> list[dict[str, Any]]:
    """Tokens per second of one variant laid over, against merged; and what its logits lose besides merged's rounding."""
    import copy

    import torch

    from core.deck import Deck

    torch.set_num_threads(_THREADS)
    prompt = torch.arange(100, 140)[None]

    def decode(model: Any) -> float:
        with torch.inference_mode():
            out = model(prompt, use_cache=True)
            cache, token, spent = out.past_key_values, out.logits[:, -1:].argmax(-1), []
            for _ in range(_TOKENS):
                start = time.perf_counter()
                out = model(token, past_key_values=cache, use_cache=True)
                token = out.logits[:, -1:].argmax(-1)
                spent.append(time.perf_counter() - start)
        return statistics.median(spent)

    with Deck(base, "cpu") as deck:
        deck.add(delta, "v")
        merged, ratios = [], []
        for _ in range(_ROUNDS):
            deck.switch("v", "merged")
            merged.append(decode(deck.model))
            deck.switch("v", "overlay")
            ratios.append(merged[-1] / decode(deck.model))
        with torch.inference_mode():
            over = deck.model(prompt).logits.double()
            single = deck.model(prompt[:, :1]).logits.double()
            deck.switch("v", "merged")
            plain, alone = deck.model(prompt).logits.double(), deck.model(prompt[:, :1]).logits.double()
            wide = copy.deepcopy(deck.model).float()
            truth, truth_alone = wide(prompt).logits.double(), wide(prompt[:, :1]).logits.double()
    lost = max(float((a - t).norm() / (b - t).norm()) for a, b, t in ((over, plain, truth), (single, alone, truth_alone)))
    return [figure(f"{name}: tokens/s of overlay / dense, batch 1", statistics.median(ratios), "x",
                   f"dense {1 / statistics.median(merged):.1f} tokens/s, {_THREADS} threads", 0.75, "higher"),
            figure(f"{name}: rounding error of overlay's logits / of merged's", lost, "x", "both against FP32", 2, "lower")]


def memory(base: Path, delta: Path, variants: int) -> float:
    """Bytes that a batch of 4 takes, above a process with all code in place: 0 variants is the dense model alone."""
    import psutil
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401 (what a load would import)

    from core.deck import Deck
    from core.deck_model import give_back
    from core.overlay_launch import launcher

    torch.set_num_threads(1)
    for inputs in (576, 1536):
        launcher(torch.empty(8, inputs, dtype=torch.bfloat16), False)
    give_back()
    before = psutil.Process().memory_info().rss
    prompt = torch.arange(100, 132)[None].expand(4, -1)
    deck = None
    if variants:
        deck = Deck(base, "cpu")
        names = [deck.add(delta, f"v{i}") for i in range(variants)]
        deck.assign([names[i % variants] for i in range(4)])
        model = deck.model
    else:
        model = _load(base)
        _read(model)
    with torch.inference_mode():
        out = model(prompt, use_cache=True, logits_to_keep=1)
        for _ in range(4):
            out = model(out.logits[:, -1:].argmax(-1), past_key_values=out.past_key_values, use_cache=True)
    give_back()
    return float(psutil.Process().memory_info().rss - before)


def run() -> list[dict[str, Any]]:
    """All figures; each kind in a process of its own."""
    pairs = real_pairs()
    context = multiprocessing.get_context("spawn")

    def apart(work: Callable[..., Any], *given: Any) -> Any:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(work, *given).result()

    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for i, (name, (base, tuned)) in enumerate(pairs.items()):
            delta = apart(delta_of, name, base, tuned, Path(folder), i == 0)
            figures += apart(switches, name, base, tuned, delta)
            figures += apart(decoding, name, base, delta)
            if i == 0:
                dense = apart(memory, base, delta, 0)
                figures += [figure(f"{name}: memory of {count} variants in one batch / one dense model",
                                   apart(memory, base, delta, count) / dense, "x", f"dense {dense / 1e6:.0f} MB", 1.25, "lower")
                            for count in (2, 4)]
    return figures


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(), indent=2) + "\n")
