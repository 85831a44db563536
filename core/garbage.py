"""Python's cyclic collector, asked for when memory is to be given back.

A window says how (`collect_by`): what the collector finds may be Qt objects, and these must be destroyed on the main thread.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

_way: Callable[[], object] = gc.collect


def collect() -> None:
    """Destroy what only refers to itself; from any thread."""
    _way()


def collect_by(way: Callable[[], object] = gc.collect) -> None:
    """Let `way` do it from now on."""
    global _way
    _way = way
