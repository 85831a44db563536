"""Ways to learn what a codec stores for one matrix: one file per method behind one contract (see `contract.py`)."""

from core.methods.contract import Method

METHODS: dict[str, Method] = {}
"""By name, as a record's `method` holds it. Plain signs are not here: `core.fit` learns them itself."""

__all__ = ["METHODS", "Method"]
