"""Every way in which Deltadeck refuses or fails, one class per cause.

An error says what is wrong, why that matters and what to do. `str(error)` is the three in one line; a window
may show them apart. Whatever the user handed us that can't be used is a `Refused` (exit code 2, nothing was
written); everything else that goes wrong on the way is a plain `DeltadeckError` (exit code 1).
"""

from __future__ import annotations

from collections.abc import Mapping


class DeltadeckError(Exception):
    """Something went wrong: `what` happened, `why` (may be empty), and the `remedy`."""

    def __init__(self, what: str, why: str = "", remedy: str = "") -> None:
        self.what, self.why, self.remedy = what, why, remedy
        super().__init__(" ".join(part for part in (what, why, remedy) if part))


class Refused(DeltadeckError):
    """The input can't be used. Nothing was written."""


class Cancelled(DeltadeckError):
    """The user asked for an end; what is finished is kept."""


class OutOfMemory(DeltadeckError):
    """The host's or a device's memory is too small for what was asked."""


class DeviceFailed(DeltadeckError):
    """A device gave up in the middle of its work; the program has to be started again before it can be used."""


class StorageFailed(DeltadeckError):
    """The system refused to read or write a file: a disk that fails, a folder that may not be written to."""


class DiskFull(StorageFailed):
    """The disk had no room left for what was being written."""


# ---------------------------------------------------------------------------------- opening a checkpoint
class CheckpointNotFound(Refused):
    """No such folder, and no such model in the hub cache (or the hub can't be reached)."""


class ConfigMissing(Refused):
    """The folder has no config.json, or one that is not a JSON object."""


class WeightsMissing(Refused):
    """The folder has a config but no safetensors file at all."""


class PickleOnly(Refused):
    """The weights are there as pickles (.bin, .pt, .pth) only, which can run code when opened."""


class RemoteCode(Refused):
    """The config asks for Python code from the checkpoint (`auto_map`, custom code)."""


class BadSafetensors(Refused):
    """A safetensors file is truncated, or its header lies about what follows."""


class BadIndex(Refused):
    """The shard index is unreadable, names files outside the folder, or does not fit the shards."""


class UnsupportedDtype(Refused):
    """A weight is stored in a type other than BF16, F16 or F32."""


# -------------------------------------------------------------------------------------------- pairing
class ArchitectureMismatch(Refused):
    """Base and fine-tune are of different architectures or widths."""


class TensorsMissing(Refused):
    """One of the two checkpoints lacks tensors that the other has."""


class NotFinite(Refused):
    """A weight is NaN or infinite."""


class UnsupportedModel(Refused):
    """The installed transformers can't build this architecture, or its layout is unknown to us."""


class NoSpace(Refused):
    """The disk has too little room for what the job writes."""


class OutputExists(Refused):
    """There is something else where the output should go."""


# ---------------------------------------------------------------------------------------- calibration
class CalibrationUnusable(Refused):
    """The calibration source can't be read, or holds too little text."""


# -------------------------------------------------------------------------------------------- evaluation
class TasksUnavailable(Refused):
    """Multiple-choice tasks can't be run: lm-eval is not installed, it knows no such task, or the data can't be had."""


# --------------------------------------------------------------------------------------------- deltas
class NotADelta(Refused):
    """The folder holds no delta, or one of a format that this version does not know."""


class DeltaCorrupt(Refused):
    """The delta's files do not agree with its own record: damaged, truncated or changed."""


class WrongBase(Refused):
    """The delta was made for another base than the one given."""


class JobMismatch(Refused):
    """A job folder belongs to another request, or its inputs changed since it began."""


class BadOption(Refused):
    """An option has a value that can't be used."""


class EmptyFolder(Refused):
    """There is nothing at all in the folder that should hold a checkpoint."""


class ClusterUnavailable(Refused):
    """Jobs can't be run across machines: Ray is not installed, no cluster answers, or its nodes can't do them."""


class DemoUnavailable(DeltadeckError):
    """The real demo pair can't be fetched (no package index, no pip, or not the pinned file)."""


# ------------------------------------------------------------------------------------------- the deck
class DeckBusy(DeltadeckError):
    """The loaded model is in use: it answers, is switched or is fitted on, and only one of these goes at a time."""


class SwitchFailed(DeltadeckError):
    """A variant could not be switched on; what the parameters hold now is said in the text."""


class NoSuchVariant(Refused):
    """There is no variant of that name on the deck, or the name is taken."""


def named(found: Mapping[str, str], default: type[DeltadeckError] = DeltadeckError) -> DeltadeckError:
    """The error that plain data from another process tells of: kind (a class's name), what, why, remedy."""
    kind = globals().get(found["kind"])
    if not (isinstance(kind, type) and issubclass(kind, DeltadeckError)):
        kind = default
    return kind(found["what"], found["why"], found["remedy"])
