"""The chat on a real model: what streaming, stopping and drawing cost beside a bare `generate`, and how soon a stop takes effect.

Both decode the same prompt greedily to the same tokens, by turns. `DELTADECK_DELTA` names a delta of the first pair, to be
timed side by side with the base too. Turns of a conversation are timed with what the turn before has read, and without.
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
_ASKED = (_PROMPT, "Who was on board?", "What did they eat there?", "Did anybody come back?", "Write the last sentence.")


def figure(name: str, value: float, unit: str, reference: str, goal: float | None, better: str) -> dict[str, Any]:
    return {"name": name, "value": round(value, 3), "unit": unit, "reference": reference, "goal": goal, "better": better}


def run() -> list[dict[str, Any]]:
    """All figures."""
    import torch

    from core.chat import Message, Row, Sampling, answer, forget
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
            forget(deck)                               # `generate` knows nothing of the last round either
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
        turns = _turns(deck, greedy)
        chance = random.Random(0)
        waits = [_stop(deck, row, greedy, chance) for _ in range(_STOPS)]
    early, late = turns[0], turns[-1]
    best = {key: min(values) for key, values in times.items()}      # other programs only ever make it slower
    reference = f"{1 / best['greedy']:.1f} tokens/s, {_TOKENS} tokens, {_THREADS} threads, fastest of {_ROUNDS}"
    beside = "a delta" if given else "the full fine-tune"
    return [figure("tokens/s of the chat / of generate, greedy", best["bare"] / best["greedy"], "x", reference, 0.95, "higher"),
            figure("tokens/s of the chat / of generate, drawn", best["bare"] / best["drawn"], "x",
                   "temperature .7, top-p .9, top-k 40, repetition 1.05; generate greedy", None, "higher"),
            figure("from stop to return", statistics.median(waits), "tokens", f"median of {_STOPS}", 1, "lower"),
            figure("from stop to return, longest", max(waits), "tokens", f"of {_STOPS}", None, "lower"),
            figure(f"seconds per step of base and {name} side by side / of one alone", best["both"] / best["greedy"], "x",
                   f"{beside} beside the base", None, "lower"),
            figure(f"first token at turn {len(turns) + 1}, what was read kept / read again", late[1] / late[2], "x",
                   f"{late[1] * 1000:.0f} and {late[2] * 1000:.0f} ms for {late[0]} tokens, median of {_ROUNDS}", 0.5, "lower"),
            figure(f"first token at turn {len(turns) + 1} / at turn 2, kept", late[1] / early[1], "x",
                   f"prompts of {late[0]} and {early[0]} tokens; read again {late[2] / early[2]:.1f} x", None, "lower")]


def _turns(deck: Any, sampling: Any) -> list[tuple[int, float, float]]:
    """Turns 2 to 5 of a conversation: tokens of the prompt, seconds to the first token with what was read kept, and without."""
    from core.chat import Message, Row, answer, forget
    from core.chat_types import Sampling
    from core.deck import BASE

    once = Sampling(temperature=0, repetition_penalty=1, max_new_tokens=1)

    def ask(messages: tuple[Any, ...], how: Any) -> Any:
        return answer(deck, [Row(BASE, messages)], how, lambda piece: None, lambda: False)[0]
    forget(deck)
    heard: tuple[Any, ...] = ()
    found = []
    for number, prompt in enumerate(_ASKED):
        heard = (*heard, Message("user", prompt))
        before = dict(deck.kept)
        if number:
            kept, anew = [], []
            for _ in range(_ROUNDS):
                deck.kept.update(before)
                kept.append(ask(heard, once))
                forget(deck)
                anew.append(ask(heard, once))
                if kept[-1].text != anew[-1].text or not kept[-1].reused or anew[-1].reused:
                    raise RuntimeError("what was kept was not used, or changed the answer")
            found.append((anew[0].prompt_tokens, *(statistics.median(a.first_token_seconds for a in x) for x in (kept, anew))))
        forget(deck)
        deck.kept.update(before)
        heard = (*heard, Message("assistant", ask(heard, sampling).text))
    return found


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
