"""The contract of a method: how a codec's content is chosen for one matrix, within bytes that are fixed beforehand."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from core.moments import Evidence
from core.record import TensorRecord


class Method(Protocol):
    """How the change of a matrix is approximated under the moments of its inputs. Methods hold no state.

    Shapes follow the logical matrix (out, in), whatever way the stored tensor lies.
    """

    @property
    def name(self) -> str:
        """As a record's `method` holds it."""

    def plan(self, record: TensorRecord, nbytes: int) -> TensorRecord | None:
        """The record (codec, method and all that its codec's layout needs) of the best use of at most `nbytes`.

        Its layout's bytes are exactly those that `fit` will store; None where the method has nothing that small. Cheap:
        called for many sizes, from shapes alone.
        """

    def fit(self, record: TensorRecord, evidence: Evidence) -> tuple[TensorRecord, dict[str, Tensor]]:
        """A planned record with what was learnt (exponents and the like), and the stored tensors by suffix, complete.

        Never worse on held-out data than storing nothing useful: an approximation that lost more than all of the
        change is replaced by one of zeros.
        """
