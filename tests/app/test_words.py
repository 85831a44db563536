"""Numbers as words."""

from __future__ import annotations

import pytest

from app.words import count, duration, one_line, percent, printable, ratio, recovered, shape, size, smaller_than


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


@pytest.mark.parametrize(("recovery", "text"), [
    (None, ""), (float("nan"), ""), (1.0, "1.000"), (0.975, "0.975"), (0.5, "0.500"), (0.9998, "0.99980"), (0.99915, "0.99915"),
    (1 - 1e-12, "0.9999999"), (0.0, "0.000"), (-0.25, "-0.250"), (1.002, "1.0020"), (0.99996, "0.999960")])
def test_a_recovery_tells_what_is_lost_to_two_digits(recovery: float | None, text: str) -> None:
    assert recovered(recovery) == text


def test_names_of_files_steer_no_terminal() -> None:
    assert printable("a\x1b[31m\tb\n\x07\x7f\x9b\u202ec\u2069") == "a[31m\tb\nc"
    assert one_line(" a\x1b b\n\tc ") == "a b c"
    assert one_line("a  b") == "a  b"
