"""Numbers as words."""

from __future__ import annotations

import pytest

from app.words import count, duration, percent, ratio, shape, size, smaller_than


@pytest.mark.parametrize(("number", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.00 kB"), (158_054, "158 kB"),
                                              (1_837_312, "1.84 MB"), (16e9, "16.00 GB"), (2e12, "2.00 TB")])
def test_size(number: float, text: str) -> None:
    assert size(number) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.0421, "0.042 s"), (4.13, "4.1 s"), (59.97, "1 min 00 s"), (125, "2 min 05 s"),
                                               (12_000, "3 h 20 min")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_percent_never_claims_all_of_almost_all() -> None:
    assert percent(1) == "100.0 %"
    assert percent(0.99999) == "99.9 %"
    assert percent(0.12345, 2) == "12.35 %"


def test_ratios_shapes_and_counts() -> None:
    assert ratio(306, 20) == "15.3 x smaller"
    assert smaller_than(1e6, 0) == "in place of 1.00 MB"
    assert (shape((576, 1536)), shape(())) == ("576 x 1536", "1")
    assert (count(1, "block"), count(1300, "block"), count(2, "axis", "axes")) == ("1 block", "1,300 blocks", "2 axes")
