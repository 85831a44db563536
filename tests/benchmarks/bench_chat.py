"""The chat on a real model: what streaming, stopping and drawing cost beside a bare `generate`, and how soon a stop takes effect.

Both decode the same prompt greedily to the same tokens, by turns. `DELTADECK_DELTA` names a delta of the first pair, to be
timed side by side with the base too.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.pairs import real_pairs

_TOKENS, _ROUNDS, _STOPS = 48, 7, 10
_THREADS = 2
_PROMPT = "Tell me a long story about a ship that was lost in the fog and found an island."


def figure(name: str, value: float, unit: str, reference: str, goal: float | None, better: str) -> dict[str, Any]:
    return {"name": name, "value": round(value, 3), "unit": unit, "reference": reference, "goal": goal, "better": better}


def run() -> list[dict[str, Any]]:
    """All figures."""
    import torch

    from core.chat import Message, Row, Sampling, answer
    from core.chat_prompt import end_tokens, tokens_of
    from core.deck import BASE, Deck

    torch.set_num_threads(_THREADS)
    name, (base, tuned) = next(iter(real_pairs().items()))
    messages = (Message("user", _PROMPT),)
    greedy = Sampling(temperature=0, repetition_penalty=1, max_new_tokens=_TOKENS)
    drawn = Sampling(max_new_tokens=_TOKENS, seed=1)
    with Deck(base, "cpu") as deck:
        given = os.environ.get("DELTADECK_DELTA")
        variant = deck.add(Path(given) if given else tuned)
        row = Row(BASE, messages)
        deck.switch(BASE, "merged")
        ids = torch.tensor([tokens_of(deck, BASE, messages)])
        ends = sorted(end_tokens(deck, BASE))

        def bare() -> tuple[float, int]:
            start = time.perf_counter()
            out = deck.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=_TOKENS, do_sample=False,
                                      eos_token_id=ends, pad_token_id=ends[0])
            return time.perf_counter() - start, out.shape[1] - ids.shape[1]

        def ours(sampling: Sampling, rows: list[Row]) -> tuple[float, int]:
            start = time.perf_counter()
            found = answer(deck, rows, sampling, lambda piece: None, lambda: False)
            return time.perf_counter() - start, max(a.tokens + (a.ended == "end") for a in found)

        bare()
        ours(greedy, [row])
        times: dict[str, list[float]] = {"bare": [], "greedy": [], "drawn": [], "both": []}    # seconds per token
        pair = [row, Row(variant, messages)]
        for _ in range(_ROUNDS):
            (slow, expected), (fast, tokens) = bare(), ours(greedy, [row])
            if tokens != expected:
                raise RuntimeError(f"generate made {expected} tokens and the chat {tokens}")
            times["bare"].append(slow / expected)
            times["greedy"].append(fast / tokens)
            for key, sampling, rows in (("drawn", drawn, [row]), ("both", greedy, pair)):
                seconds, tokens = ours(sampling, rows)
                times[key].append(seconds / tokens)
            deck.switch(BASE, "merged")
        chance = random.Random(0)
        waits = [_stop(deck, row, greedy, chance) for _ in range(_STOPS)]
    best = {key: min(values) for key, values in times.items()}      # other programs only ever make it slower
    reference = f"{1 / best['greedy']:.1f} tokens/s, {_TOKENS} tokens, {_THREADS} threads, fastest of {_ROUNDS}"
    beside = "a delta" if given else "the full fine-tune"
    return [figure("tokens/s of the chat / of generate, greedy", best["bare"] / best["greedy"], "x", reference, 0.95, "higher"),
            figure("tokens/s of the chat / of generate, drawn", best["bare"] / best["drawn"], "x",
                   "temperature .7, top-p .9, top-k 40, repetition 1.05; generate greedy", None, "higher"),
            figure("from stop to return", statistics.median(waits), "tokens", f"median of {_STOPS}", 1, "lower"),
            figure("from stop to return, longest", max(waits), "tokens", f"of {_STOPS}", None, "lower"),
            figure(f"seconds per step of base and {name} side by side / of one alone", best["both"] / best["greedy"], "x",
                   f"{beside} beside the base", None, "lower")]


def _stop(deck: Any, row: Any, sampling: Any, chance: random.Random) -> float:
    """Stop an answer at any moment from another thread; the time until it returns, in tokens."""
    from core.chat import answer

    stop, told = threading.Event(), [0.0]

    def ask() -> None:
        time.sleep(chance.uniform(0, 0.1))
        told[0] = time.perf_counter()
        stop.set()
    asker = threading.Thread(target=ask)
    count = 0

    def tell(piece: object) -> None:
        nonlocal count
        count += 1
        if count == 8:
            asker.start()
    found = answer(deck, [row], sampling, tell, stop.is_set)[0]
    waited = time.perf_counter() - told[0]
    asker.join()
    if found.ended != "stopped":
        raise RuntimeError("the answer ended before the stop")
    return waited * found.tokens_per_second


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(), indent=2) + "\n")
