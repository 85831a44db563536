"""Ways to learn what a codec stores for one matrix: one file per method behind one contract (see `contract.py`)."""

from core.methods.coded import CODED_METHOD
from core.methods.contract import Method
from core.methods.lowrank import LOWRANK_H, LOWRANK_PLAIN
from core.methods.planes import PLANES
from core.methods.svdmix import DELTA_COME, DELTAMIX, DELTAMIX_H

METHODS: dict[str, Method] = {m.name: m for m in (DELTAMIX, DELTAMIX_H, DELTA_COME, LOWRANK_PLAIN, LOWRANK_H,
                                             CODED_METHOD, PLANES)}
"""By name, as a record's `method` holds it. Plain signs are not here: `core.fit` learns them itself."""

__all__ = ["METHODS", "Method"]
