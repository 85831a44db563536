"""Merged variants: the loaded model's own parameters rewritten from the mapped base plus delta, all or nothing."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from core.deck_rewrite import Rewriter
from core.deck_variant import Loaded, Source, fill
from core.errors import Cancelled, DeltadeckError, SwitchFailed


class Parameters:
    """The parameters of a loaded model, and whose values they hold."""

    def __init__(self, model: nn.Module, loaded: Loaded, base: Source) -> None:
        self.model, self.loaded, self.base = model, loaded, base
        self.holds: Source = base
        self._modules = dict(model.named_modules())
        self._rewriter = Rewriter()
        self.broken = False
        self.replaced = 0
        """How often a parameter was replaced by another, of another size or no longer one with the embedding."""

    def get(self, key: str) -> Tensor:
        """A parameter (or buffer) by its name."""
        module, leaf = self.owner(key)
        tensor = module._parameters.get(leaf)
        return module.get_buffer(leaf) if tensor is None else tensor

    def owner(self, key: str) -> tuple[nn.Module, str]:
        """The module that holds a parameter, and the parameter's name there."""
        path, _, leaf = key.rpartition(".")
        return self._modules[path], leaf

    @torch.no_grad()
    def prepare(self, source: Source) -> None:
        """Find out how to write what a source changes, and how to undo it, so that its first switch is as fast as others."""
        keys = [k for k in self._keys(source) if source.shape(k) in (None, tuple(self.get(k).shape))]
        for one in (source, self.base):
            self._rewriter.prepare(one, [(k, self.get(k)) for k in keys])

    def forget(self, source: Source) -> None:
        """Let go of what is known of a source."""
        self._rewriter.forget(source.name)

    def _keys(self, target: Source, *others: Source) -> list[str]:
        """Parameters in which any of these differs from the base, in order; a head that is the embedding counts once."""
        keys = sorted(target.changed.union(*(o.changed for o in others)))
        return [k for k in keys if not (k == self.loaded.output_key and target.ties and self.loaded.input_key in keys)]

    @torch.no_grad()
    def become(self, target: Source) -> int:
        """Write `target`'s values wherever it or what is held now differs from the base; returns the parameters written.

        After a failure the parameters are what they were, or if that can't be had the base's; an exception of any kind
        is raised on as `SwitchFailed`, an interruption or `Cancelled` as it is. If not even the base can be had, the
        model is `broken` from then on, and every further call raises `SwitchFailed`.
        """
        self.check_sound()
        if target is self.holds:
            return 0
        held, keys = self.holds, self._keys(target, self.holds)
        self._check_files(target)
        kept = {k: self.get(k) for k in {*keys, self.loaded.input_key, self.loaded.output_key}}
        try:
            self._write(target, keys)
            target.check()
        except BaseException as error:
            outcome = self._undo(target, keys, kept)
            if isinstance(error, Cancelled) or not isinstance(error, Exception):
                raise
            cause = error.what if isinstance(error, DeltadeckError) else f"{str(error) or type(error).__name__}."
            raise SwitchFailed(f"'{target.name}' could not be switched on in place of '{held.name}': {cause}", outcome[0],
                               outcome[1]) from error
        self.holds = target
        return len(keys)

    def _check_files(self, target: Source) -> None:
        """Raise `SwitchFailed` before anything is touched where a file that the switch, or its undoing, reads is not whole."""
        try:
            target.check()
            self.holds.check()
        except DeltadeckError as error:
            raise SwitchFailed(f"'{target.name}' could not be switched on in place of '{self.holds.name}': {error.what}",
                               f"Nothing was touched: the parameters are those of '{self.holds.name}' as before.",
                               "Put the file back, or unload the base and load it again.") from error

    def check_sound(self) -> None:
        """Raise `SwitchFailed` if an earlier failure left parameters that are neither one thing nor the other."""
        if self.broken:
            raise SwitchFailed("The loaded model holds parts of different variants.",
                               "A switch failed, and so did putting back what was there.", "Unload the base and load it again.")

    def _undo(self, target: Source, keys: list[str], kept: dict[str, Tensor]) -> tuple[str, str]:
        """Put back what was there, else the base. Returns (what holds now, what to do)."""
        again = "Check that the files are whole and that memory is free, then switch again."
        try:
            for key, tensor in kept.items():
                self._set(key, tensor)
            for key in keys:
                fill(self.holds, key, kept[key])
            self.holds.check()
            return f"The parameters are those of '{self.holds.name}' again.", again
        except Exception:
            pass
        try:
            self._write(self.base, self._keys(self.base, self.holds, target))
            self.base.check()
            self.holds = self.base
            return "What was there before could not be put back either; the parameters are now the base's.", again
        except Exception:
            self.broken = True
            return ("Neither what was there before nor the base could be put back, so the model must not be used.",
                    "Unload the base and load it again.")

    def _write(self, target: Source, keys: Iterable[str]) -> None:
        in_place: list[tuple[str, Tensor]] = []
        for key in keys:
            current = self.get(key)
            shape = target.shape(key) or tuple(current.shape)
            head = key == self.loaded.output_key and self.loaded.tied
            if head and target.ties:
                continue
            if tuple(current.shape) != shape or (head and current is self.get(self.loaded.input_key)):
                fresh = nn.Parameter(torch.empty(shape, dtype=current.dtype, device=current.device), requires_grad=False)
                fill(target, key, fresh)
                self._set(key, fresh)
            else:
                in_place.append((key, current))
        self._rewriter.write(target, in_place)
        if target.ties and self.get(self.loaded.output_key) is not self.get(self.loaded.input_key):
            self._set(self.loaded.output_key, self.get(self.loaded.input_key))

    def _set(self, key: str, tensor: Tensor) -> None:
        """Put a tensor in a parameter's place, and let module and config know if it has another size."""
        module, leaf = self.owner(key)
        if getattr(module, leaf) is tensor:
            return
        setattr(module, leaf, tensor)
        self.replaced += 1
        if leaf == "weight" and isinstance(module, nn.Embedding):
            module.num_embeddings = len(tensor)
        elif leaf == "weight" and isinstance(module, nn.Linear):
            module.out_features = len(tensor)
        config = getattr(self.model, "config", None)
        if key == self.loaded.input_key and config is not None:
            config.get_text_config().vocab_size = len(tensor)
