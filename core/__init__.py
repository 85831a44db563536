"""Deltadeck's engine: checkpoints, codecs, fitting, deltas. No Qt in here."""

__version__ = "0.1.0"
