"""Every call to the system that a piece of work makes is made to fail once: how often was a promise broken?

`python -m tests.benchmarks.bench_faults --most 0` goes through all writes, renames, syncs, openings, mappings and removals of
a job (by the default recipe, and by size), an export and a deck; `--most N` takes N of each kind, and always does for tensor
operations, of which there are thousands (`--tensors N`). After each fault: whole deltas only in the library, an error of ours
that names the number that was short, a resumed job of the same bytes, a loaded base with the parameters it had.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.faults.scenes import (
    FILES,
    TENSORS,
    Begin,
    DeckCase,
    ExportCase,
    Pair,
    attempt,
    faults_of,
    job_scene,
    run_job,
)
from tests.models import make_pair, write_text

MOST = 3
"""Of each kind, where no number is asked for."""


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte."""
    vocabulary = {"<|begin|>": 0, "<|end|>": 1} | {c: 2 + i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    found = Tokenizer(models.BPE(vocabulary, []))
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made: PreTrainedTokenizerFast = PreTrainedTokenizerFast(tokenizer_object=found, bos_token="<|begin|>", eos_token="<|end|>")
    return made


def scenes(place: Path) -> dict[str, Begin]:
    """What faults fall into, by name."""
    base, tuned = make_pair(place, "llama", tokenizer(), num_hidden_layers=1)
    pair = Pair(base, tuned, write_text(place), place / "made" / "delta")
    (place / "made").mkdir()
    run_job(pair, place / "made")
    return {"job": job_scene(pair, place / "job"), "job by size": job_scene(pair, place / "sized", budget="4x"),
            "export": lambda folder: ExportCase(folder, pair), "deck": lambda folder: DeckCase(folder, pair)}


def go_through(most: int, tensors: int, seed: int = 0, only: Sequence[str] = ()) -> dict[str, tuple[int, list[str]]]:
    """(faults, broken promises) by scene; `most` 0 takes all."""
    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name, begin in scenes(place).items():
            if only and name not in only:
                continue
            faults = [*faults_of(begin, place / "case", FILES, most or sys.maxsize, seed),
                      *faults_of(begin, place / "case", TENSORS, tensors, seed)]
            found[name] = len(faults), [p for fault in faults if (p := attempt(begin, place / "case", fault))]
    return found


def run() -> list[dict[str, Any]]:
    """Figures for the runner."""
    return [{"name": f"Faults in a {name}: broken promises", "value": len(problems), "unit": f"of {total}",
             "reference": f"{MOST} of each kind", "goal": 0, "better": "lower"}
            for name, (total, problems) in go_through(MOST, MOST).items()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Go through the faults that are asked for; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description="Let every call to the system fail once.")
    parser.add_argument("--most", type=int, default=0, help="calls of each kind (default: all)")
    parser.add_argument("--tensors", type=int, default=20, help="tensor operations of each kind (default: 20)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", default=[], help="job, job by size, export or deck")
    given = parser.parse_args(arguments)
    found = go_through(given.most, max(2, given.tensors), given.seed, given.only)
    for name, (total, problems) in found.items():
        print(f"{name}: {total} faults, {len(problems)} broken promises")
        for problem in problems:
            print(f"  {problem}")
    return 1 if any(problems for _, problems in found.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
