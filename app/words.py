"""Numbers as people read them."""

from __future__ import annotations

import math
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

NAME = "deltadeck"

_MOST_DIGITS = 7
_UNSEEN = {i: None for i in (*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
"""Control characters but line ends and tabs, and those that turn the direction of writing: from a file, they could steer a
terminal or make a name look like another."""
_UNITS = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def size(count: float) -> str:
    """Bytes with a decimal unit: `1.84 MB`."""
    for unit, factor in _UNITS:
        if count >= factor:
            return f"{count / factor:,.2f} {unit}" if count < 100 * factor else f"{count / factor:,.0f} {unit}"
    return f"{count:,.0f} bytes"


def duration(seconds: float) -> str:
    """Seconds as `0.042 s`, `4.1 s`, `2 min 05 s` or `3 h 20 min`."""
    if seconds < 1:
        return f"{seconds:.3f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def about(seconds: float) -> str:
    """A time that is only an estimate: `40 s`, `16 min`, `2 h 10 min`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def ratio(full: float, part: float) -> str:
    """How many times smaller: `15.3 x smaller`."""
    return f"{full / part:,.1f} x smaller" if part > 0 else "nothing stored"


def smaller_than(full: float, part: float) -> str:
    """`15.3 x smaller than 269 MB`."""
    return f"{ratio(full, part)} than {size(full)}" if part > 0 else f"in place of {size(full)}"


def percent(share: float, digits: int = 1) -> str:
    """A share (0..1) as `98.7 %`, never rounded up to 100."""
    shown = f"{100 * share:.{digits}f}"
    if share < 1 and float(shown) >= 100:
        shown = f"{100 - 10**-digits:.{digits}f}"
    return f"{shown} %"


def recovered(recovery: float | None) -> str:
    """A recovery with two significant digits of what is lost, three decimals at least: `0.988`, `0.99975`; never rounded up
    to 1."""
    if recovery is None or not math.isfinite(recovery):
        return ""
    lost = abs(1 - recovery)
    digits = min(_MOST_DIGITS, max(3, 1 - math.floor(math.log10(lost) + 1e-9))) if lost > 0 else 3
    text = f"{recovery:.{digits}f}"
    return f"{1 - 10**-digits:.{digits}f}" if recovery < 1 <= float(text) else text


def shape(sides: Sequence[int]) -> str:
    """`576 x 1536`; `1` for a single value."""
    return " x ".join(str(s) for s in sides) or "1"


def count(number: int, one: str, many: str = "") -> str:
    """`1 block`, `30 blocks`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def printable(text: str) -> str:
    """A text from a file or a model without characters that steer a terminal; lines and tabs stay."""
    return text.translate(_UNSEEN)


def one_line(text: str) -> str:
    """A name from a file: as `printable`, and in a single line."""
    return " ".join(printable(text).split()) if not text.isprintable() else text


def listed(found: Mapping[str, Any]) -> str:
    """Names and values in a line: `seed 0, samples (fit 40, tune 150)`."""
    return ", ".join(f"{name.replace('_', ' ')} {f'({listed(x)})' if isinstance(x, Mapping) else x}" for name, x in found.items())


def short_path(path: Path) -> str:
    """A path as one would type it here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def program() -> str:
    """What to type to call this program: its name where PATH finds it, else the script beside the running Python."""
    if shutil.which(NAME):
        return NAME
    script = shutil.which(NAME, path=str(Path(sys.executable).parent))
    return shlex.quote(short_path(Path(script))) if script else NAME


def plain_tip(text: str) -> str:
    """A tooltip that shows a text as it is: names and notes come from elsewhere and are no mark-up."""
    return f"<p style='white-space:pre-wrap'>{escape(text)}</p>" if "<" in text or "&" in text else text
