"""Whether a record that was read makes sense, before anything is read or allocated by it."""

from __future__ import annotations

import math

from core.codecs import CODECS
from core.codecs.scales import EXPONENTS
from core.record import TensorRecord

WEIGHT_TYPES = ("BF16", "F16", "F32")


def record_problem(record: TensorRecord) -> str:
    """What is wrong with a record of a known codec, in words that follow its name; empty when it makes sense."""
    shape, base = record.shape, record.base_shape
    if record.dtype not in WEIGHT_TYPES or (record.base is not None and record.base_dtype not in WEIGHT_TYPES):
        return "has an unknown type"
    if record.base is None and (record.codec != "full" or base):
        return "names no base tensor"
    if any(s < 0 for s in (*shape, *base)) or max(len(shape), len(base)) > 64:
        return "has an impossible shape"
    if any(math.prod(max(s, 1) for s in sizes) >= 2**63 for sizes in (shape, base)):
        return "has an impossible shape"
    if record.output_dimension not in (0, 1) or (record.output_dimension and len(shape) != 2):
        return "has an impossible output dimension"
    if record.base is not None and (len(base) != len(shape) or base[1:] != shape[1:]):
        return "does not fit its base"
    if record.codec not in ("same", "full") and 0 in (*shape, *base):
        return "has an impossible shape"
    if any(e not in EXPONENTS for e in record.exponents):
        return "has an impossible exponent"
    return CODECS[record.codec].problem(record)
