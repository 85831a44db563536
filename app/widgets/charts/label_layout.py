"""Places labels beside their marks so that they cover neither marks nor each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PySide6.QtCore import QLineF, QPointF, QRectF, QSizeF

_GAP = 5.0
_STEP = 14.0
_RINGS = 7
"""How many steps away from its mark a label may stand; from the second on a thin line leads to it."""


@dataclass(frozen=True)
class Wanted:
    """A label for the mark at `anchor` (radius in pixels). Labels that `may_go` are left out where no place is free."""

    anchor: QPointF
    radius: float
    size: QSizeF
    may_go: bool = False


@dataclass(frozen=True)
class Placed:
    """Where a label stands; `leader` leads from the mark to one that is far."""

    rect: QRectF
    leader: QLineF | None = None


def place_labels(wanted: Sequence[Wanted], within: QRectF, taken: Sequence[QRectF] = (),
                 lines: Sequence[QLineF] = ()) -> list[Placed | None]:
    """A place for each label, the first ones choosing first; None where one was left out.

    `taken` are rectangles that labels keep off (other words), as they do off the marks; crossing one of `lines` is
    allowed where nothing better is free.
    """
    marks = [QRectF(w.anchor.x() - w.radius, w.anchor.y() - w.radius, 2 * w.radius, 2 * w.radius) for w in wanted]
    blocked = [*taken, *marks]
    found: list[Placed | None] = []
    for one in wanted:
        best, least = None, float("inf")
        for price, place in _candidates(one):
            cost = price + _cost(place.rect, within, blocked, lines)
            if place.leader is not None:
                cost += sum(30.0 for m, w in zip(marks, wanted, strict=True) if w is not one and _hits(place.leader, m))
                cost += sum(6.0 for line in lines if _cross(line, place.leader))
            if cost < least:
                best, least = place, cost
        if best is None or (one.may_go and least >= 60.0):
            found.append(None)
            continue
        blocked.append(best.rect)
        found.append(best)
    return found


def _candidates(one: Wanted) -> list[tuple[float, Placed]]:
    """Places by price: beside the mark, above, below, at the corners, then the same further away."""
    w, h, r, x, y = one.size.width(), one.size.height(), one.radius, one.anchor.x(), one.anchor.y()
    found: list[tuple[float, Placed]] = []
    for ring in range(1 if one.may_go else _RINGS):
        d = r + _GAP + ring * _STEP
        near = 0.7 * r + 1 + ring * _STEP
        spots = [(x + d, y - h / 2), (x - d - w, y - h / 2), (x + near, y - near - h + 3), (x + near, y + near - 3),
                 (x - near - w, y - near - h + 3), (x - near - w, y + near - 3), (x - w / 2, y - d - h + 2),
                 (x - w / 2, y + d - 2)]
        if ring:                                    # further away, a label may stand beside its mark but higher or lower
            spots += [(x + r + _GAP, y - h / 2 - ring * _STEP), (x + r + _GAP, y - h / 2 + ring * _STEP),
                      (x - r - _GAP - w, y - h / 2 - ring * _STEP), (x - r - _GAP - w, y - h / 2 + ring * _STEP)]
        for order, (left, top) in enumerate(spots):
            rect = QRectF(left, top, w, h)
            leader = None
            if ring:
                end = QPointF(min(max(x, rect.left()), rect.right()), min(max(y, rect.top()), rect.bottom()))
                if not rect.center().y() - h / 2 <= y <= rect.center().y() + h / 2:
                    end.setY(rect.top() + 2 if y < rect.top() else rect.bottom() - 2)
                leader = QLineF(one.anchor, end)
            found.append((0.25 * order + 5.0 * ring, Placed(rect, leader)))
    return found


def _cost(rect: QRectF, within: QRectF, blocked: Sequence[QRectF], lines: Sequence[QLineF]) -> float:
    cost = 0.0
    if not within.contains(rect):
        cost += 400.0
    padded = rect.adjusted(-2, 1, 2, -1)
    for other in blocked:
        common = padded.intersected(other)
        if common.width() > 0 and common.height() > 0:
            cost += 60.0 + common.width() * common.height()
    return cost + sum(4.0 for line in lines if _hits(line, padded))


def _hits(line: QLineF, rect: QRectF) -> bool:
    if rect.contains(line.p1()) or rect.contains(line.p2()):
        return True
    corners = [rect.topLeft(), rect.topRight(), rect.bottomRight(), rect.bottomLeft()]
    return any(_cross(line, QLineF(corners[i], corners[(i + 1) % 4])) for i in range(4))


def _cross(a: QLineF, b: QLineF) -> bool:
    kind, _ = a.intersects(b)
    return bool(kind == QLineF.IntersectionType.BoundedIntersection)
