"""The deck: a base that stays loaded, and variants that lie ready to be switched onto it in milliseconds.

A variant is put on in one of two ways. *Merged*: the model's own parameters are rewritten from the mapped base plus delta,
exactly what a merged checkpoint would hold. *Overlay*: the parameters stay the base's and layers make a variant's weights
as they need them, so that one batch can hold a row per variant. Both multiply with the very same weights. A vocabulary
that grew is held as a larger table while its variant is merged, and as the rows to add while it is laid over.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from core.checkpoint import open_checkpoint
from core.deck_merge import Parameters
from core.deck_model import (
    Memory,
    brings_tokenizer,
    give_back,
    is_one,
    key_of,
    load_generation_config,
    load_model,
    load_tokenizer,
    memory_now,
    skeleton_of,
)
from core.deck_spread import Places, devices_of, spread_words
from core.deck_variant import BASE, Base, Loaded, Source, Variant, WholeVariant, combined, expected_digest, group, open_variant
from core.devices import choose_device
from core.errors import BadOption, DeckBusy, NoSuchVariant
from core.overlay import NoOverlay, Overlay, Prepared
from core.shortage import in_words

__all__ = ["BASE", "WAYS", "Deck", "Switched"]

WAYS = ("auto", "merged", "overlay")
_SLOW = 1.0
"""Seconds of expected rewriting from which a variant is laid over instead."""
_RATE = 2e9
"""Bytes of parameters rewritten in a second, until the first switch has shown it."""


@dataclass(frozen=True)
class Switched:
    """What a switch did: the variant(s) that answer now, how ("merged" or "overlay"), why, parameters, and how long."""

    variant: str
    how: str
    reason: str
    tensors: int
    seconds: float


BASE_KEPT, SMALLER = "The loaded base stays as it was.", "Close other programs, unload what is not needed, or use another device."
"""What is said when memory runs out."""


class Deck:
    """A loaded base with its variants. `model` is a transformers model; use it inside `busy` only.

    One thing at a time may use the model: generating, switching, fitting. `busy` guards that, and the deck's own methods
    take it too; the thread that holds it may call them.
    """

    def __init__(self, base: str | Path, device: str = "auto", *, offline: bool | None = None,
                 places: Places | None = None) -> None:
        """Load a base (folder or hub id) for a device: auto, cuda, mps or cpu.

        Where that is a GPU with too little free memory, over all GPUs and the CPU; `places` says which module goes where instead.
        Raises what `open_checkpoint` and `choose_device` raise, `UnsupportedModel`, and `OutOfMemory`.
        """
        self.device = choose_device(device)
        self._lock, self._holder, self._depth, self._what = threading.Condition(), 0, 0, ""
        self.memory_before: Memory = memory_now(self.device)
        self.checkpoint = open_checkpoint(base, offline=offline)
        try:
            with in_words(self.checkpoint.folder, device=self.device, kept="Nothing was loaded.", remedy=SMALLER):
                self._loaded = self._load(places)
        except BaseException:
            self.checkpoint.close()
            raise
        self._base = Base(self._loaded)
        self._parameters = Parameters(self.model, self._loaded, self._base)
        self._overlay = Overlay(self.model, self._parameters, self._loaded)
        self._variants: dict[str, Variant] = {}
        self._prepared: dict[str, tuple[int, Prepared | NoOverlay]] = {}
        self._tokenizers: dict[str, Any] = {}
        self.kept: dict[int, Any] = {}
        """What a chat keeps of its last answers, by column; gone with a variant, and with the base."""
        self._rows: tuple[str, ...] = ()
        self._rate = _RATE
        self._generation_config = self.model.generation_config
        self.memory_after: Memory = memory_now(*self.devices)

    def _load(self, places: Places | None) -> Loaded:
        skeleton = skeleton_of(self.checkpoint)
        pieces, _ = group(skeleton.place({n: t.shape for n, t in self.checkpoint.tensors.items()}), skeleton)
        self.model: Any = load_model(self.checkpoint, self.device, places)
        self.devices: tuple[torch.device, ...] = devices_of(self.model)
        embedding, head = (key_of(self.model, module) for module in
                           (self.model.get_input_embeddings(), self.model.get_output_embeddings()))
        homes = {k: p.device for k, p in self.model.named_parameters(remove_duplicate=False)}
        return Loaded(self.checkpoint, pieces, embedding, head, is_one(self.model, embedding, head), self.device, skeleton, homes)

    def __enter__(self) -> Deck:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # ------------------------------------------------------------------------------------- one at a time
    @contextmanager
    def busy(self, what: str, *, wait: bool = False, timeout: float | None = None) -> Iterator[None]:
        """Use the model; `what` is a sentence that others are told meanwhile ("The base is generating an answer.").

        Raises `DeckBusy` with the other's sentence while somebody else does: at once, or after `timeout` seconds of
        waiting if `wait` is set. The thread that has it may take it again.
        """
        me = threading.get_ident()
        with self._lock:
            if self._holder != me:
                if self._depth and not (wait and self._lock.wait_for(lambda: not self._depth, timeout)):
                    raise DeckBusy(self._what, "Only one thing at a time can use the loaded model.",
                                   "Wait for its end, or stop it.")
                self._holder, self._what = me, what
            self._depth += 1
        try:
            with in_words(self.checkpoint.folder, device=self.device, kept=BASE_KEPT, remedy=SMALLER):
                yield
        finally:
            with self._lock:
                self._depth -= 1
                if not self._depth:
                    self._holder, self._what = 0, ""
                    self._lock.notify_all()

    @property
    def spread(self) -> str:
        """Over what the base lies, in words ("2 GPUs and the CPU"); empty where it is one device."""
        return spread_words(self.devices)

    @property
    def in_the_way(self) -> str:
        """What uses the model now, as its user put it; empty when nobody does."""
        return self._what

    # ------------------------------------------------------------------------------------------ variants
    @property
    def variants(self) -> tuple[str, ...]:
        """Names of the variants on the deck, in the order in which they came; the base is not among them."""
        return tuple(self._variants)

    @property
    def current(self) -> str:
        """The variant that answers; for rows of several, their names joined by a comma."""
        return ", ".join(dict.fromkeys(self._rows)) if self._rows else self._parameters.holds.name

    @property
    def how(self) -> str:
        """How the current variant is on: "merged" or "overlay"."""
        return "overlay" if self._rows else "merged"

    def add(self, folder: str | Path, name: str | None = None) -> str:
        """Put a delta, or a whole fine-tune of the base, on the deck; returns its name (by default its folder's).

        Every byte of a delta is checked against its record, and its base's hashes against the loaded base's (each of which
        is computed once). Its tensors are read into memory; a whole checkpoint stays mapped. Raises `NoSuchVariant` for a
        name that is taken, `WrongBase`, `NotADelta`, `DeltaCorrupt`, or what `open_checkpoint` raises.
        """
        folder = Path(folder)
        chosen = name or self._free_name(folder.resolve().name)
        if chosen == BASE or chosen in self._variants:
            raise NoSuchVariant(f"The name '{chosen}' is taken on this deck.", "", "Choose another name.")
        with in_words(folder, device=self.device, kept=BASE_KEPT, remedy=SMALLER):
            variant = open_variant(folder, chosen, self._loaded)
        with self.busy(f"'{chosen}' is being put on the deck.", wait=True):
            self._variants[chosen] = variant
            shown = self._overlay.take()
            try:
                self._parameters.prepare(variant)
            finally:
                self._overlay.put(*shown)
            if self._parameters.holds is self._base:
                self._prepare(chosen)
        return chosen

    def _free_name(self, stem: str) -> str:
        taken = {BASE, *self._variants}
        return next(n for n in (stem, *(f"{stem}-{i}" for i in range(2, len(taken) + 3))) if n not in taken)

    def remove(self, name: str) -> None:
        """Take a variant off the deck; if it answers now, the base does so from then on."""
        variant = self._variant(name)
        with self.busy(f"'{name}' is being taken off the deck."):
            if name in self._rows or self._parameters.holds.name == name:
                self.switch(BASE, "merged")
            for table in (self._variants, self._prepared, self._tokenizers):
                table.pop(name, None)
            self.kept.clear()
            self._overlay.forget()
            self._parameters.forget(variant)
            variant.close()

    def _variant(self, name: str) -> Variant:
        if name not in self._variants:
            known = ", ".join((BASE, *self._variants))
            raise NoSuchVariant(f"There is no variant '{name}' on this deck.", f"It has: {known}.",
                                "Add it, or choose one of those.")
        return self._variants[name]

    def _source(self, name: str) -> Source:
        return self._base if name == BASE else self._variant(name)

    # ------------------------------------------------------------------------------------------ switching
    def switch(self, name: str, how: str = "auto") -> Switched:
        """Let a variant (or `BASE`) answer, in all rows of whatever batch comes.

        `how`: merged, overlay, or auto, which chooses and says why. All or nothing: raises `SwitchFailed` after a failure,
        with what the parameters hold then; `NoSuchVariant`, `BadOption`, `DeckBusy` before anything is touched.
        """
        if how not in WAYS:
            raise BadOption(f"A variant can't be put on by '{how}'.", "", f"Choose one of: {', '.join(WAYS)}.")
        source = self._source(name)
        with self.busy(f"'{name}' is being switched on."):
            start = time.perf_counter()
            chosen, reason = self._choose(source, how)
            defaults = self.generation_config(name)
            tensors = self._show((name,)) if chosen == "overlay" else self._merge(source)
            self.model.generation_config = defaults
            return Switched(name, chosen, f"{chosen}: {reason}", tensors, time.perf_counter() - start)

    def assign(self, rows: Sequence[str]) -> Switched:
        """Lay a variant (or `BASE`) over each row of the batches to come, which must have as many rows.

        Raises `BadOption` where a variant can't be laid over, and as `switch` does.
        """
        names = tuple(rows)
        if not names:
            raise BadOption("No variant was assigned to any row.", "", "Name one variant per row of the batch.")
        for name in dict.fromkeys(names):
            self._source(name)
        with self.busy(f"{len(names)} rows are being assigned."):
            start = time.perf_counter()
            tensors = self._show(names)
            count = len(set(names))
            reason = f"{count} variants side by side" if count > 1 else "asked for by row"
            return Switched(self.current, "overlay", f"overlay: {reason}", tensors, time.perf_counter() - start)

    def _choose(self, source: Source, how: str) -> tuple[str, str]:
        """Merged or overlay, and why."""
        if how == "merged":
            return how, "asked for"
        problem = ""
        if source is not self._base:
            prepared = self._try_prepare(source.name)
            problem = str(prepared) if isinstance(prepared, NoOverlay) else ""
        if problem:
            return "merged", f"'{source.name}' can't be laid over, {problem}"
        if how == "overlay":
            return how, "asked for"
        if source is self._base:
            return "merged", "the base as it is"
        if isinstance(source, WholeVariant):
            return "overlay", "a whole checkpoint lies ready, so nothing has to be written"
        seconds = sum(self._parameters.get(k).nbytes for k in source.changed) / self._rate
        if seconds > _SLOW:
            return "overlay", f"rewriting its parameters would take some {seconds:.0f} seconds"
        return "merged", "one variant, fastest tokens"

    def _merge(self, source: Source) -> int:
        """Make the parameters a variant's, with nothing laid over them; after a failure all is as it was."""
        start = time.perf_counter()
        keys = source.changed | self._parameters.holds.changed
        shown = self._overlay.take()
        try:
            written = self._parameters.become(source)
        except BaseException:
            if not self._parameters.broken:
                self._overlay.put(*shown)
            raise
        self._rows = ()
        seconds = time.perf_counter() - start
        size = sum(self._parameters.get(k).nbytes for k in keys)
        if written and size > 1 << 24:
            self._rate = size / seconds
        return written

    def _show(self, names: tuple[str, ...]) -> int:
        """Lay variants over the rows; the parameters become the base's first where they are not."""
        self._parameters.check_sound()
        for name in dict.fromkeys(names):
            problem = None if name == BASE else self._try_prepare(name)
            if isinstance(problem, NoOverlay):
                raise BadOption(f"'{name}' can't be laid over the base: {problem}.", "", "Switch to it alone: it is merged then.")
        held = self._parameters.holds
        written = self._merge(self._base) if held is not self._base else 0
        try:
            prepared = [None if name == BASE else self._prepare(name) for name in names]
            shown = self._overlay.show([p for p in prepared if not isinstance(p, NoOverlay)])
        except BaseException:
            if held is not self._base:
                self._merge(held)
            raise
        self._rows = names
        return max(shown, written)

    def _try_prepare(self, name: str) -> Prepared | NoOverlay | None:
        """What is known of laying a variant over without going back to the base for it."""
        if self._parameters.holds is self._base:
            return self._prepare(name)
        variant = self._variant(name)
        stacked = any(variant.pieces[key][0].expert is not None for key in variant.changed)
        return NoOverlay("its experts are stacked in one parameter") if stacked else None

    def _prepare(self, name: str) -> Prepared | NoOverlay:
        version, prepared = self._prepared.get(name, (-1, None))
        if prepared is None or version != self._parameters.replaced:
            try:
                prepared = self._overlay.prepare(self._variant(name))
            except NoOverlay as error:
                prepared = error
            self._overlay.forget()
            self._prepared[name] = self._parameters.replaced, prepared
        return prepared

    # ------------------------------------------------------------------------------- what comes with a variant
    def _files(self, name: str) -> dict[str, Path]:
        own = {} if name == BASE else self._variant(name).sidecars
        return {**self.checkpoint.sidecars(), **own}

    def tokenizer(self, name: str = BASE) -> Any:
        """A variant's tokenizer with its chat template: the base's, unless the variant brings files of its own. Or None."""
        if name != BASE and not brings_tokenizer(self._variant(name).sidecars):
            name = BASE
        if name not in self._tokenizers:
            self._tokenizers[name] = load_tokenizer(self._files(name))
        return self._tokenizers[name]

    def generation_config(self, name: str = BASE) -> Any:
        """A variant's defaults for generating."""
        if name == BASE or "generation_config.json" not in self._variant(name).sidecars:
            return self._generation_config
        return load_generation_config(self._files(name), self._generation_config)

    # ------------------------------------------------------------------------------------------------ proof
    def fingerprint(self, name: str | None = None) -> str:
        """SHA-256 over all parameters as they take effect: of what answers now, or of one of the rows side by side."""
        rows = tuple(dict.fromkeys(self._rows)) or (self._parameters.holds.name,)
        if name is None and len(rows) > 1:
            raise BadOption(f"{len(rows)} variants answer side by side.", "", "Say which one's parameters to hash.")
        name = name or rows[0]
        if name not in rows:
            raise NoSuchVariant(f"'{name}' does not answer now.", f"Those that do: {self.current}.", "Switch to it first.")
        with self.busy("The parameters are being hashed.", wait=True):
            prepared = None
            if self._rows and name != BASE:
                found = self._prepare(name)
                prepared = found if isinstance(found, Prepared) else None
            return combined({key: self._overlay.digest(key, prepared) for key in self._loaded.pieces})

    def expected_fingerprint(self, name: str) -> str:
        """What `fingerprint` must be while this variant (or `BASE`) answers, made from files and not from the model."""
        source = self._source(name)
        return combined({key: expected_digest(source, key, self._parameters.get(key)) for key in self._loaded.pieces})

    def memory(self) -> Memory:
        """What is in use now."""
        return memory_now(*self.devices)

    def close(self) -> int:
        """Unload everything; returns how many bytes went back to the system."""
        with self.busy("The base is being unloaded."):
            before = memory_now(*self.devices)
            self._overlay.clear()
            for variant in self._variants.values():
                variant.close()
            for table in (self._variants, self._prepared, self._tokenizers, self.kept):
                table.clear()
            self._rows = ()
            self.checkpoint.close()
            self.model = None
            del self._overlay, self._parameters
            give_back()
            after = memory_now(*self.devices)
        return max(0, before.process - after.process) + max(0, before.device - after.device)
