"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Sequence

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


def shape(sides: Sequence[int]) -> str:
    """`576 x 1536`; `1` for a single value."""
    return " x ".join(str(s) for s in sides) or "1"


def count(number: int, one: str, many: str = "") -> str:
    """`1 block`, `30 blocks`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
