"""How the change of one tensor is stored: one file per codec behind one contract (see `contract.py`)."""

from core.codecs.coded import CODED
from core.codecs.contract import Codec, Tunable
from core.codecs.exact import FULL, ROWS, SAME, SPARSE
from core.codecs.lowrank import LOWRANK
from core.codecs.sign import SIGN
from core.codecs.svdmix import SVDMIX

CODECS: dict[str, Codec] = {codec.name: codec for codec in (SAME, ROWS, SPARSE, LOWRANK, SIGN, SVDMIX, CODED, FULL)}

TUNABLE: dict[str, Tunable] = {"sign": SIGN, "svdmix": SVDMIX, "coded": CODED}
"""Those whose scales can be tuned end to end."""

__all__ = ["CODECS", "TUNABLE", "Codec", "Tunable"]
