"""Results as tables at the width of a small terminal: nothing that tells rows apart is cut."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from app.evaluating import layers_table
from app.tables import KindSummary, fidelity_table, figure, kinds_table

WIDTH = 80


def shown(grid: Table, width: int = WIDTH) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(grid)
    assert all(len(line) <= width for line in out.getvalue().splitlines())
    return out.getvalue()


def _figures(ppl: float) -> dict[str, Any]:
    return {"kl_mean": 0.19012, "kl_se": 0.0097, "kl_median": 0.03, "kl_median_se": 0.001, "kl_p99": 1.2345, "kl_p99_se": 0.123,
            "kl_max": 13.4, "top1": 0.8765, "top1_se": 0.0012, "ppl": ppl, "ppl_se": ppl / 20, "ppl_gap": 1.1, "ppl_gap_se": 0.1}


@pytest.mark.parametrize("ppl", [30.1, 31234.567, 4.2e9])
def test_fidelity_names_every_row_in_80_columns(ppl: float) -> None:
    own = {"ppl": ppl, "ppl_se": ppl / 20}
    text = shown(fidelity_table({"base": _figures(ppl), "variant": _figures(ppl), "fine_tuned": own}))
    for name in ("KL mean", "KL median", "KL 99th percentile", "KL largest", "Top-1 agreement", "Perplexity gap"):
        assert sum(line.strip().startswith(f"{name} ") for line in text.splitlines()) == 1
    assert "..." not in text and "\u2026" not in text


@pytest.mark.parametrize("planned", [True, False])
def test_kinds_are_broken_between_words_only(planned: bool) -> None:
    kinds = [KindSummary("gate_up", 28, {"sign": 20}, {"row": 10, "column": 18, "auto": 3}, 12345678, 123456789, 0.012, 0.1, 0.99,
                         {"sign x 2 (planes)": 12, "svdmix (deltamix-h)": 10, "same (left out)": 6}),
             KindSummary("q", 30, {"sign": 30}, {"auto": 30}, 1234567, 12345678, 0.0123, 0.12, None, {"sign": 30})]
    text = shown(kinds_table(kinds, WIDTH, planned=planned))
    assert "\u2026" not in text
    for word in ("row|column", "(deltamix-h)", "gate_up", "12.35 MB", "all"):
        assert word in text
    assert "Of full" in shown(kinds_table(kinds, 120, planned=planned), 120)


def test_a_long_layer_name_goes_on_in_the_next_line() -> None:
    name = "model.layers.10.self_attn.q_proj.weight.and_more_of_it_in_a_long_long_name"
    text = shown(layers_table({"fitted": 9, "recovery_mean": 0.9, "recovery_median": 0.9,
                               "worst": [{"name": name, "codec": "svdmix", "recovery": 0.8}]}))
    assert name in "".join(line[1:].partition(" ")[0] for line in text.splitlines())


@pytest.mark.parametrize(("value", "text"), [(0.19012, "0.19012"), (12.34567, "12.3457"), (31234.567, "31234.6"),
                                             (4.2e9, "4.2e+09"), (0.0, "0.00000")])
def test_a_figure_is_never_wider_than_its_column(value: float, text: str) -> None:
    assert figure(value, 5) == text
