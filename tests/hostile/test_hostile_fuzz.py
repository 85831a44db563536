"""Some hundred seeded mutations of delta folders and checkpoints; ten thousand are a benchmark's (`bench_fuzz`)."""

from __future__ import annotations

import pytest

from tests.hostile.fuzz import FINE, run

COUNTS = {"delta": 150, "checkpoint": 120}


@pytest.mark.parametrize("what", COUNTS)
def test_mutations_are_refused_or_harmless(what: str) -> None:
    tally = run(what, COUNTS[what], seed=1)
    assert not tally.defects
    assert tally.total == COUNTS[what]
    assert all(tally.outcomes[outcome] for outcome in FINE), "every good end is met, or the mutations are too tame"
    assert tally.memory < 256 << 20
