"""The deck among other threads: switches upon generations, beside a job, while another model is made; and every bit is seen."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from core.artifact import open_delta
from core.checkpoint import open_checkpoint
from core.deck import BASE, Deck
from core.demo import tiny_trio
from core.job import Job
from core.overlay_weights import Signs
from core.request import Request
from core.skeleton import Skeleton
from tests.benchmarks import bench_switches
from tests.core.decks import make_base, signs_by_turns, write
from tests.models import one_thread, tensors_of  # noqa: F401 (the first takes effect by being here)

IDS = torch.tensor([[5, 9, 100, 7, 3, 250, 17, 30]])


def logits(deck: Deck, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        result: torch.Tensor = deck.model(ids).logits
    return result


def test_switches_between_generations_that_are_being_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DELTADECK_PAIRS", raising=False)
    (tmp_path / "deltas").mkdir()
    (tmp_path / "exports").mkdir()
    _, base, variants = bench_switches.variants_of(tmp_path / "deltas")
    report = bench_switches.switch_at_random(base, variants, tmp_path / "exports", 60, seed=4)
    assert report.mismatches == []
    assert sum(report.switches.values()) == 60
    assert set(report.switches) == {f"{how}, {what}" for how in ("merged", "overlay") for what in ("base", "variant")}
    assert report.stopped >= 5


@pytest.mark.parametrize("how", ["merged", "overlay"])
def test_those_switches_would_show_wrong_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.delenv("DELTADECK_PAIRS", raising=False)
    _, base, variants = bench_switches.variants_of(tmp_path)
    with Deck(base, "cpu") as deck:
        deck.add(variants["pirate"])
        deck.switch("pirate", how)
        right = bench_switches.hash_of(bench_switches.effective(deck))
        change = deck._overlay.single.changes["model.layers.1.mlp.up_proj.weight"] if deck._overlay.single else None
        wrong = change.signs if isinstance(change, Signs) else deck.model.model.layers[1].mlp.up_proj.weight.data
        bits = wrong.view(torch.uint8).flatten()[:1 if how == "merged" else None]    # a single sign may be rounded away
        bits ^= 1
        assert bench_switches.hash_of(bench_switches.effective(deck)) != right
        bits ^= 1
        assert bench_switches.hash_of(bench_switches.effective(deck)) == right


def test_a_job_in_one_thread_and_switches_in_another(tmp_path: Path) -> None:
    """Kernels, OpenMP and what makes models serve both at once: answers and parameters stay what they are alone."""
    trio = tiny_trio()
    tuned = {"one": write(tmp_path / "one", trio.base, tensors_of(trio.pirate), signs_by_turns()),
             "two": write(tmp_path / "two", trio.base, tensors_of(trio.json), signs_by_turns(2))}
    request = Request(base=str(trio.base), fine_tuned=str(trio.pirate), output=str(tmp_path / "out"), samples=2, tune_samples=2)
    job = ThreadPoolExecutor(1)
    torch.set_num_threads(2)                           # put back by `one_thread`
    with Deck(trio.base, "cpu") as deck:
        for delta in tuned.values():
            deck.add(delta)
        expected = {name: deck.expected_fingerprint(name) for name in (BASE, *tuned)}
        asked = [(name, how, count) for name in expected for how in ("merged", "overlay") for count in (1, 8)]
        alone: dict[tuple[str, str, int], torch.Tensor] = {}
        running = None
        while running is None or not running.done():
            for name, how, count in asked:
                deck.switch(name, how)
                found = logits(deck, IDS[:, :count])
                assert torch.equal(found, alone.setdefault((name, how, count), found)), (name, how, count)
                assert deck.fingerprint() == expected[name]
            running = running or job.submit(Job(request, lambda event: None).run)
        assert open_delta(running.result().folder).records.keys() == tensors_of(trio.pirate).keys()
    job.shutdown()


def test_a_base_is_loaded_whole_while_another_thread_looks_at_a_model(tmp_path: Path) -> None:
    base = make_base(tmp_path, "llama", torch.bfloat16)
    with open_checkpoint(base) as opened:
        config = dict(opened.config)
    end = threading.Event()

    def look() -> list[str]:
        found = []
        while not end.is_set():
            found += [f"{p.device} {p.dtype}" for p in Skeleton(config).model.parameters()]
        return found
    with ThreadPoolExecutor(1) as pool:
        looked = pool.submit(look)
        try:
            for _ in range(3):
                with Deck(base, "cpu") as deck:
                    assert {f"{p.device} {p.dtype}" for p in deck.model.parameters()} == {"cpu torch.bfloat16"}
        finally:
            end.set()
    assert set(looked.result()) == {"meta torch.float32"}
    assert torch.get_default_dtype() == torch.float32
