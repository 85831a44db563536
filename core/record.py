"""What is known of one tensor of a delta: the plan's choice before fitting, the outcome after it.

A record is what `delta_config.json` holds per tensor, and what codecs read. Everything in it is plain data.
"""

from __future__ import annotations

import math

import msgspec
import torch

AXES = ("scalar", "row", "column", "both")
"""How scales lie: one in all, one per output, one per input, or the product of the last two."""

DTYPES: dict[str, torch.dtype] = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32,
                                  "U8": torch.uint8, "I32": torch.int32, "I64": torch.int64}
"""Type names as safetensors writes them."""
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Slice(msgspec.Struct, frozen=True):
    """Outputs `start` to `stop` of a tensor, which share one choice of axis (a fused qkv has three).

    `axis` is one of AXES, or `auto` while row or column is still open. `slots` scales are stored for it: exactly as
    many as its axis needs, or the larger of both while and after it was open, so that the size is known beforehand.
    """

    start: int
    stop: int
    axis: str
    slots: int

    def used(self, inputs: int) -> int:
        """How many of the slots hold a scale."""
        outputs = self.stop - self.start
        return {"scalar": 1, "row": outputs, "column": inputs, "both": outputs + inputs,
                "auto": max(outputs, inputs)}[self.axis]


class Ranks(msgspec.Struct, frozen=True):
    """Singular vectors that follow one another with the same bits per entry: `count` pairs, one of each over the outputs
    and over the inputs."""

    count: int
    outputs: int
    inputs: int


class StoredTensor(msgspec.Struct, frozen=True):
    """One tensor in the delta's safetensors: its full name, type name and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


class Losses(msgspec.Struct, frozen=True, kw_only=True):
    """Layer losses of one slice on calibration text.

    `axis` and `guess` are the fit's objective on held-out text, relative to no delta: they tell axes apart. It counts the
    drift of earlier layers too, of which one matrix can remove little, so it stays well above 0 deep in a model.
    `training` and `held_out` are the share of the matrix's own change that is lost: 0 = the fine-tune's, 1 = the base's.
    """

    axis: dict[str, float] = {}
    """Fitted, per axis that was tried: with chosen signs where those lose less. Beside such an axis, `plain row` and the like
    hold the loss with the change's own signs."""
    guess: dict[str, float] = {}
    """Data-free first guess (mean |change|), per axis."""
    training: float | None = None
    held_out: float | None = None
    """Of the chosen scales as stored (FP16) and added in the target type."""

    @property
    def recovery(self) -> float | None:
        """1 - held-out loss."""
        return None if self.held_out is None else 1 - self.held_out


class TensorRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the change of one tensor is stored.

    `shape` and `dtype` are the fine-tune's; `base` names the base's tensor (another one where a head is tied on one
    side only), `base_shape` and `base_dtype` are its own. Rows beyond the base's are stored as they are.
    """

    name: str
    codec: str
    shape: tuple[int, ...]
    dtype: str
    base: str | None
    base_shape: tuple[int, ...] = ()
    base_dtype: str = ""
    base_sha256: str = ""
    sha256: str = ""
    """Of the stored tensors' bytes, one after the other in the order of the codec's layout."""
    kind: str = ""
    block: int | None = None
    output_dimension: int = 0
    """Which stored dimension is the output: 1 for Conv1D weights, stored [in, out]."""
    slices: tuple[Slice, ...] = ()
    planes: int = 1
    exponents: tuple[int, ...] = ()
    """Per sign plane, or one for factors or pairs' scales: what is stored is the value times 2**-exponent."""
    rank: int = 0
    count: int = 0
    """Rows or entries stored exactly."""
    change: float = 0.0
    """|W_ft - W_base| / |W_base|, Frobenius norms; 1 where the base is all zeros."""
    unchanged: float = 0.0
    """Share of entries that are equal in both."""
    losses: tuple[Losses, ...] = ()
    """One per slice, where the tensor was fitted."""
    note: str = ""
    levels: int = 0
    """Largest magnitude of an entropy-coded level; `count` is then the bytes of the stream."""
    method: str = ""
    """How what is stored was chosen, where a codec knows several ways; for people. Empty: plain."""
    packed: int = 0
    """Bytes of packed singular vectors, fixed before any is chosen."""
    ranks: tuple[Ranks, ...] = ()
    """What those bytes hold, in order; known once it is chosen."""

    @property
    def outputs(self) -> int:
        """Output features the base knows too: what signs are stored for."""
        size = self.shape[self.output_dimension]
        return min(size, self.base_shape[self.output_dimension]) if self.base_shape else size

    @property
    def inputs(self) -> int:
        """Input features."""
        return self.shape[1 - self.output_dimension]

    @property
    def tail(self) -> int:
        """Rows beyond the base's (an added vocabulary)."""
        return max(0, self.shape[0] - self.base_shape[0]) if self.base_shape and self.shape else 0

    @property
    def torch_dtype(self) -> torch.dtype:
        """The fine-tune's type."""
        return DTYPES[self.dtype]
