"""A report as one HTML file: nothing is loaded, nothing runs, everything from a delta is escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from app.report.content import Band, BarLine, Report, Table, footer, ink_on, legend_colour, mixed, roles
from app.widgets.charts.axis_data import letter_of

_CELL, _GAP, _LABEL, _TICK = 22, 2, 64, 18

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: $surface; color: $text; font: 14px/1.45 Inter, "Segoe UI", system-ui, sans-serif;
  font-variant-numeric: tabular-nums; }
main { max-width: 1040px; margin: 0 auto; padding: 32px 24px 48px; }
h1 { font-size: 24px; margin: 0; } h2 { font-size: 15px; margin: 0 0 10px; }
.faded { color: $faded; } .small { font-size: 12px; }
section { background: $raised; border: 1px solid $line; border-radius: 8px; padding: 14px 18px; margin-top: 12px;
  break-inside: avoid; }
section.long { break-inside: auto; }
.figures { display: flex; flex-wrap: wrap; gap: 8px 40px; } .figures b { font-size: 22px; font-weight: 600; display: block; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 12px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 16px; margin: 0; } dt { color: $faded; }
dd { margin: 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; } th { color: $faded; font-weight: 400; font-size: 12px; }
th, td { text-align: right; padding: 4px 8px; border-bottom: 1px solid $line; } th.w, td.w { text-align: left; }
thead { display: table-header-group; } tr { break-inside: avoid; }
svg { display: block; max-width: 100%; height: auto; } svg text { font-family: inherit; }
.key { display: inline-block; min-width: 17px; height: 17px; border-radius: 3px; text-align: center; font-size: 11px;
  font-weight: 600; line-height: 17px; margin: 0 6px 0 14px; } ul { margin: 0; padding-left: 18px; }
@media print { body { background: #fff; font-size: 11px; } main { max-width: none; padding: 0; } section { border-color: #ccc; }
  @page { margin: 14mm; } * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


def to_html(report: Report) -> str:
    """The whole page."""
    style = _STYLE
    for name, role in (("$surface", "surface"), ("$raised", "surface-raised"), ("$line", "line"), ("$faded", "text-faded"),
                       ("$text", "text")):
        style = style.replace(name, roles()[role])
    parts = [
        "<!doctype html>", '<html lang="en"><head><meta charset="utf-8">',
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src \'unsafe-inline\'">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(report.title)}: delta report</title><style>{style}</style></head><body><main>",
        f"<h1>{escape(report.title)}</h1>",
        f'<div class="faded">{escape(", ".join(x for x in (report.line, report.date) if x))}</div>',
        f"<p>{escape(report.note)}</p>" if report.note else "",
        f'<section><div class="figures">{"".join(_figure(*f) for f in report.figures)}</div></section>',
        _section("Axis map", _key(report) + _map(report)) if report.bands or report.outer else "",
        '<div class="pair">', _section("Size", bars(report.sizes, "Size")), _section("Load time", _times(report)), "</div>",
        _section("Fidelity", _table(report.fidelity)),
        '<div class="pair">', _section("What it is", _facts(report.facts)), _section("How it was made", _facts(report.settings)),
        "</div>",
        _section("Warnings", f"<ul>{''.join(f'<li>{escape(w)}</li>' for w in report.warnings)}</ul>") if report.warnings else "",
        _section("By kind of layer", _table(report.kinds)), _section("Layers", _table(report.layers), "long"),
        f'<p class="faded small">{escape(footer())}</p></main></body></html>']
    return "\n".join(p for p in parts if p) + "\n"


def _section(title: str, body: str, look: str = "") -> str:
    return f'<section class="{look}"><h2>{escape(title)}</h2>{body}</section>'


def _figure(value: str, caption: str) -> str:
    return f'<div><b>{escape(value)}</b><span class="faded small">{escape(caption)}</span></div>'


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    return f"<dl>{''.join(f'<dt>{escape(n)}</dt><dd>{escape(v)}</dd>' for n, v in facts)}</dl>"


def _table(table: Table) -> str:
    def line(cells: Iterable[str], tag: str) -> str:
        made = (f'<{tag}{" class=w" if i < table.words else ""}>{escape(c)}</{tag}>' for i, c in enumerate(cells))
        return f"<tr>{''.join(made)}</tr>"
    return f"<table><thead>{line(table.heads, 'th')}</thead><tbody>{''.join(line(r, 'td') for r in table.rows)}</tbody></table>"


def _key(report: Report) -> str:
    """Which letter is what, and how often: the map reads without colour."""
    items = []
    for axis, words, number in report.counts:
        ground = legend_colour(axis)
        items.append(f'<span class="key" style="background:{ground};color:{ink_on(ground)}">{escape(letter_of(axis))}</span>'
                     f"{escape(words)} {number:,}")
    return (f'<div style="margin:0 0 10px -14px">{"".join(items)}</div><div class="faded small" style="margin-bottom:8px">'
            "Blocks across, kinds of layers down. The stronger the colour, the more clearly that axis won, up to 30 %; "
            "of other codecs, the more bits they take.</div>")


def _map(report: Report) -> str:
    return "".join(_band(b) for b in report.bands) + _outer(report)


def _band(band: Band) -> str:
    pitch = _CELL + _GAP
    wide, high = _LABEL + pitch * len(band.blocks), pitch * len(band.kinds) + _TICK
    name = f"Axis map, blocks {band.blocks[0]} to {band.blocks[-1]}"
    parts = [f'<svg role="img" aria-label="{name}" width="{wide}" height="{high}" viewBox="0 0 {wide} {high}">']
    faded = roles()["text-faded"]
    for line, kind in enumerate(band.kinds):
        parts.append(f'<text x="{_LABEL - 8}" y="{line * pitch + 15}" font-size="12" fill="{faded}" text-anchor="end">'
                     f"{escape(kind)}</text>")
    for i, block in enumerate(band.blocks):
        if block % 5 == 0 or i == len(band.blocks) - 1:
            parts.append(f'<text x="{_LABEL + i * pitch + _CELL / 2:g}" y="{high - 4}" font-size="11" fill="{faded}" '
                         f'text-anchor="middle">{block}</text>')
    for c in band.cells:
        x, y = _LABEL + c.column * pitch, c.line * pitch
        parts.append(f'<g><title>{escape(c.title)}</title>'
                     f'<rect x="{x}" y="{y}" width="{_CELL}" height="{_CELL}" rx="3" fill="{c.ground}"/>'
                     f'<text x="{x + _CELL / 2:g}" y="{y + 15}" font-size="11" font-weight="600" fill="{c.ink}" '
                     f'text-anchor="middle">{escape(c.letter)}</text></g>')
    return "".join(parts) + "</svg>"


def _outer(report: Report) -> str:
    if not report.outer:
        return ""
    items = "".join(f'<span class="key" style="background:{c.ground};color:{c.ink}">{escape(c.letter)}</span>{escape(c.title)}'
                    for c in report.outer)
    return f'<div class="small" style="margin:8px 0 0 {_LABEL - 14}px">{items}</div>'


def bars(lines: Iterable[BarLine], name: str, label: int = 190) -> str:
    """Bars from 0 on as an inline drawing, whiskers where there is a spread."""
    found, line, wide, room = list(lines), 24, 470, 470 - label - 84
    parts = [f'<svg role="img" aria-label="{escape(name)}" width="{wide}" height="{line * len(found)}" '
             f'viewBox="0 0 {wide} {line * len(found)}">']
    for i, bar in enumerate(found):
        y, length = i * line, max(2.0, room * bar.share)
        colour = roles()["accent"] if bar.accent else mixed("text-faded", 0.42)
        parts.append(f'<text x="0" y="{y + 16}" font-size="12" fill="{roles()["text-faded"]}">{escape(bar.name)}</text>'
                     f'<rect x="{label}" y="{y + 7}" width="{length:.1f}" height="10" rx="2" fill="{colour}"/>'
                     f'<text x="{wide}" y="{y + 16}" font-size="12" font-weight="600" fill="{roles()["text"]}" '
                     f'text-anchor="end">{escape(bar.text)}</text>')
        if bar.low is not None and bar.high is not None:
            low, high = label + room * bar.low, label + room * bar.high
            whisker = f"M{low:.1f} {y + 12}H{high:.1f}M{low:.1f} {y + 9}v6M{high:.1f} {y + 9}v6"
            parts.append(f'<path d="{whisker}" stroke="{roles()["text"]}" fill="none"/>')
    return "".join(parts) + "</svg>"


def _times(report: Report) -> str:
    head = '<div class="small" style="margin-top:6px">'
    groups = (f"{head}{escape(name)}</div>{bars(lines, name)}" for name, lines in report.times)
    return f'{"".join(groups)}<div class="faded small">{escape(report.times_note)}</div>'
