"""Where a job gets its base and its calibration tokens: read anew, or shared by the jobs of one batch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any

from core.calibration import SampleParts
from core.checkpoint import Checkpoint, open_checkpoint
from core.errors import BadSafetensors
from core.request import Request, draw_samples, identity, sample_counts

_NOT_FOR_TOKENS = ("_name_or_path", "dtype", "torch_dtype", "transformers_version", "use_cache")
"""Entries of config.json that often differ between fine-tunes and that no tokeniser reads."""


@dataclass(frozen=True)
class Sources:
    """How a job opens its base and draws its tokens; without arguments: both anew."""

    open_base: Callable[[str], AbstractContextManager[Checkpoint]] = open_checkpoint
    draw: Callable[[Request, Checkpoint, Checkpoint, int, int], SampleParts] = draw_samples


FRESH = Sources()


class Shared:
    """What the jobs of one batch in one process read once: the base, mapped, with its hashes, and calibration tokens.

    Jobs get what they would have read themselves, so their bytes are those of single jobs. Safe from several threads.
    """

    def __init__(self) -> None:
        self._bases: dict[str, tuple[list[Any], Checkpoint]] = {}
        self._drawn: dict[str, SampleParts] = {}
        self._lock = Lock()

    def __enter__(self) -> Shared:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of everything."""
        with self._lock:
            for _, checkpoint in self._bases.values():
                checkpoint.close()
            self._bases.clear()
            self._drawn.clear()

    @property
    def sources(self) -> Sources:
        """For jobs of this batch."""
        return Sources(self.base, self.samples)

    @contextmanager
    def base(self, source: str) -> Iterator[Checkpoint]:
        """The opened base; opened anew where its files changed since the last job. Raises as `open_checkpoint`."""
        with self._lock:
            known = self._bases.get(source)
            if known is not None and not _is_same(*known):
                self._bases.pop(source)[1].close()     # first: what comes may not open
                known = None
            if known is None:
                fresh = open_checkpoint(source)
                known = self._bases[source] = (identity(fresh), fresh)
        yield known[1]

    def samples(self, request: Request, base: Checkpoint, tuned: Checkpoint, length: int, vocabulary: int) -> SampleParts:
        """Tokens as `draw_samples` draws them, once for all fine-tunes whose tokeniser files are the same."""
        key = _digest([request.calibration, _state(request.calibration), request.seed, sample_counts(request), length, vocabulary,
                       _tokenizer_parts(base), _tokenizer_parts(tuned)])
        with self._lock:
            if key not in self._drawn:
                self._drawn[key] = draw_samples(request, base, tuned, length, vocabulary)
            return self._drawn[key]


def _is_same(known: list[Any], checkpoint: Checkpoint) -> bool:
    try:
        checkpoint.check()
        return identity(checkpoint) == known
    except (OSError, BadSafetensors):
        return False


def _state(calibration: str) -> list[list[Any]]:
    """Names, sizes and times of the files of a local source of text; empty for others."""
    place = Path(calibration).expanduser()
    try:
        files = sorted(f for f in place.rglob("*") if f.is_file()) if place.is_dir() else [place]
        return [[str(f), (found := f.stat()).st_size, found.st_mtime_ns, found.st_ctime_ns] for f in files]
    except OSError:
        return []


def _tokenizer_parts(checkpoint: Checkpoint) -> list[list[str]]:
    """Name and hash of every small file that may bear on how text becomes tokens."""
    found = []
    for name, path in sorted(checkpoint.sidecars().items()):
        if name == "config.json":
            kept = {k: v for k, v in checkpoint.config.items() if k not in _NOT_FOR_TOKENS}
            found.append([name, _digest(kept)])
        elif name != "generation_config.json":
            found.append([name, hashlib.sha256(path.read_bytes()).hexdigest()])
    return found


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
