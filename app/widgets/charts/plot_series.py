"""Series of a `PlainPlot`: what they look like, and the points they hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyqtgraph as pg
from numpy.typing import ArrayLike, NDArray

from app.widgets.charts.plot_paint import line_pen

if TYPE_CHECKING:
    from app.widgets.charts.plot_base import PlainPlot

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """How a series looks: a role of the theme, pixels of width, solid, dash or dot, opacity; rings or dots on some points."""

    role: str
    width: float = 2.0
    dash: str = "solid"
    opacity: float = 1.0
    marks: str = ""
    """Empty, `ring` or `dot`."""
    most_marks: int = 16
    """Marks are thinned to this number; the first and the last point keep theirs."""
    z: int = 0


@dataclass(frozen=True)
class EndLabel:
    """Words at the right of a curve, at the height of `y`; a guide leads there from `guide_from` where that is set."""

    y: float
    text: str
    role: str = "text"
    guide_from: float | None = None
    weight: int = 600


class Series:
    """One curve of a plot. `set` takes plain values, whatever the axis; NaN makes a gap."""

    def __init__(self, plot: PlainPlot, name: str, line: Line) -> None:
        self.plot, self.name, self.line = plot, name, line
        self.x: Values = np.empty(0)
        self.y: Values = np.empty(0)
        self._curve = pg.PlotDataItem(connect="finite", autoDownsample=True, downsampleMethod="peak", clipToView=True,
                                      skipFiniteCheck=False, antialias=True)
        self._curve.setZValue(line.z)
        if line.width:
            plot.addItem(self._curve)
        self.marked: NDArray[np.intp] = np.empty(0, dtype=np.intp)
        """Positions of the points that carry a mark."""
        self.dress()

    def dress(self) -> None:
        """Take the theme's colours."""
        theme, line = self.plot.theme, self.line
        colour = theme.color(line.role)
        colour.setAlphaF(line.opacity)
        # Cosmetic, as curves are drawn in the units of their values; such a pen counts pixels of the device, not ours.
        pen = line_pen(colour, line.width * self.plot.dense, line.dash)
        pen.setCosmetic(True)
        self._curve.setPen(pen)

    def set(self, x: ArrayLike, y: ArrayLike) -> None:
        """Show other points (two equally long sequences)."""
        self.x, self.y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        self.apply()

    def clear(self) -> None:
        """Show nothing."""
        if len(self.x):
            self.set((), ())

    def keep(self, x: ArrayLike, y: ArrayLike) -> None:
        """Hold points to be read and saved that are drawn otherwise."""
        self.x, self.y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)

    def apply(self) -> None:
        """Hand the points to the drawing, on the axis in force."""
        y = self.plot.mapped(self.y)
        if self.line.width:
            self._curve.setData(self.x, y)
        if self.line.marks:
            at = np.flatnonzero(np.isfinite(y))
            if len(at) > self.line.most_marks:
                at = at[np.unique(np.linspace(0, len(at) - 1, self.line.most_marks).round().astype(int))]
            self.marked = at

    @property
    def last(self) -> tuple[float, float] | None:
        """The last finite point."""
        at = np.flatnonzero(np.isfinite(self.y))
        return (float(self.x[at[-1]]), float(self.y[at[-1]])) if len(at) else None
