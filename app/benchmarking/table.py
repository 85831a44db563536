"""The outcome of a benchmark as CSV, Markdown and an SVG curve."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from html import escape
from typing import Any

FIELDS = (
    "method",
    "size",
    "bytes",
    "ratio",
    "kl_mean",
    "kl_se",
    "kl_p99",
    "top1",
    "recovery",
    "ppl",
    "fit_seconds",
    "peak_memory",
    "expected_kl",
)
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#4D4D4D", "#7B61B8", "#000000",
            "#882255", "#999933")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 960, 560, 76, 270, 56, 60


def kl_words(value: float, error: float) -> str:
    """A KL and its standard error, to the error's first digit; five decimals at least."""
    places = min(9, max(5, -math.floor(math.log10(error)))) if 0 < error < 1 else 5
    return f"{value:.{places}f} ± {error:.{places}f}"


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """One line per method and size."""
    out = io.StringIO()
    writer = csv.DictWriter(out, FIELDS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def as_markdown(rows: Sequence[dict[str, Any]], facts: dict[str, Any]) -> str:
    """Methods down, sizes across: KL with its standard error and bytes; the lowest of a size in bold; then cost."""
    sizes = sorted({int(r["size"]) for r in rows})
    methods = list(dict.fromkeys(str(r["label"]) for r in rows))
    best = {s: min((r["kl_mean"] for r in rows if r["size"] == s), default=math.nan) for s in sizes}
    found = {(r["label"], r["size"]): r for r in rows}
    lines = [
        f"# {facts['fine_tuned']} on {facts['base']}",
        "",
        f"KL(fine-tune || variant) in nats per token, mean and standard error over {facts['tokens']:,} tokens of "
        f"{facts['text']}; the base alone: {facts['base_kl']:.4f}. Sizes: so many times smaller than the linear layers in "
        "FP16, scales counted; "
        f"{facts['samples']} calibration samples, {facts['tune_samples']} for tuning.",
        "",
        "| method | " + " | ".join(f"1/{s}" for s in sizes) + " |",
        "|---|" + "---|" * len(sizes),
    ]
    for method in methods:
        cells = []
        for s in sizes:
            r = found.get((method, s))
            text = "" if r is None else kl_words(r["kl_mean"], r["kl_se"])
            cells.append(f"**{text}**" if r is not None and r["kl_mean"] == best[s] else text)
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "| method | size | weights MB | top-1 | recovery | seconds | peak memory MB | expected KL |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['label']} | 1/{r['size']} | {r['bytes'] / 1e6:.2f} | {r['top1']:.4f} | {r['recovery']:.4f} | "
        f"{r['fit_seconds']:.0f} | {r['peak_memory'] / 1e6:.0f} | "
        f"{'' if r['expected_kl'] is None else format(r['expected_kl'], '.2g')} |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


def as_svg(rows: Sequence[dict[str, Any]], facts: dict[str, Any]) -> str:
    """KL against bytes, both logarithmic, a line per method with its standard errors; self-contained."""
    if not rows:
        return ""
    xs = [math.log10(r["bytes"]) for r in rows]
    ys = [math.log10(max(r["kl_mean"], 1e-9)) for r in rows]
    x0, x1, y0, y1 = min(xs) - 0.05, max(xs) + 0.05, min(ys) - 0.1, max(ys) + 0.1

    def at(nbytes: float, kl: float) -> tuple[float, float]:
        x = _LEFT + (math.log10(nbytes) - x0) / (x1 - x0) * (_WIDTH - _LEFT - _RIGHT)
        y = _TOP + (y1 - math.log10(max(kl, 1e-9))) / (y1 - y0) * (_HEIGHT - _TOP - _BOTTOM)
        return x, y

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="Inter, Helvetica, Arial, sans-serif">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        f'<text x="{_LEFT}" y="30" font-size="17" font-weight="600">'
        f'{escape(facts["fine_tuned"])} on {escape(facts["base"])}: size and fidelity</text>',
    ]
    parts += _grid(at, (x0, x1), (y0, y1))
    for i, method in enumerate(dict.fromkeys(str(r["label"]) for r in rows)):
        colour = _COLOURS[i % len(_COLOURS)]
        own = sorted((r for r in rows if r["label"] == method), key=lambda r: r["bytes"])
        line = [at(r["bytes"], r["kl_mean"]) for r in own]
        if len(line) > 1:
            parts.append(
                f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="'
                + " ".join(f"{x:.1f},{y:.1f}" for x, y in line)
                + '"/>'
            )
        for r, (x, y) in zip(own, line, strict=True):
            _, low = at(r["bytes"], max(r["kl_mean"] - r["kl_se"], 10**y0))
            _, high = at(r["bytes"], r["kl_mean"] + r["kl_se"])
            parts += [
                f'<path d="M{x:.1f} {low:.1f}V{high:.1f}" stroke="{colour}"/>',
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"><title>{escape(method)}, '
                f'{r["bytes"] / 1e6:.2f} MB: KL {kl_words(r["kl_mean"], r["kl_se"])}</title></circle>',
            ]
        y = _TOP + 8 + 24 * i
        parts += [
            f'<circle cx="{_WIDTH - _RIGHT + 24}" cy="{y}" r="5" fill="{colour}"/>',
            f'<text x="{_WIDTH - _RIGHT + 36}" y="{y + 4}" font-size="13">{escape(method)}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _grid(at: Any, xs: tuple[float, float], ys: tuple[float, float]) -> list[str]:
    parts = []
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for value in _ticks(*xs):
        x, _ = at(value, 1.0)
        parts += [
            f'<path d="M{x:.1f} {_TOP}V{bottom}" stroke="#e4e4e4"/>',
            f'<text x="{x:.1f}" y="{bottom + 20}" font-size="12" text-anchor="middle" fill="#555">{value / 1e6:g}</text>',
        ]
    for value in _ticks(*ys):
        _, y = at(10 ** xs[0], value)
        parts += [
            f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="#e4e4e4"/>',
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" font-size="12" text-anchor="end" fill="#555">{value:g}</text>',
        ]
    middle = (_LEFT + right) / 2
    return [
        *parts,
        f'<text x="{middle}" y="{_HEIGHT - 16}" font-size="13" text-anchor="middle" fill="#333">Weights of the delta, MB</text>',
        f'<text transform="translate(20 {(_TOP + bottom) / 2}) rotate(-90)" font-size="13" text-anchor="middle" fill="#333">'
        "KL to the fine-tune, nats per token</text>",
    ]


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two logarithms."""
    return [
        m * 10.0**e
        for e in range(math.floor(low), math.ceil(high) + 1)
        for m in (1, 2, 5)
        if low <= math.log10(m * 10.0**e) <= high
    ]
