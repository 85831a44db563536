"""Variants beside each other on one base: layers of the loaded model answer with a variant's weights, made on the fly.

No weight of the base is written. Each changed module gets a forward of its own for as long as a variant is on: linear
layers multiply with sign bits (few tokens: a kernel; many: blocks of weights for torch), embeddings make the rows they are
asked for, whatever is small and dense (norms, biases) changes places with the base's. Names, modules and transformers'
code stay as they are, so `generate` knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from core.deck_merge import Parameters
from core.deck_spread import set_forward
from core.deck_variant import DeltaVariant, Loaded, Variant, digest
from core.overlay_forward import EmbeddingRows, Group, forward_of_embedding, forward_of_linear, forward_of_other
from core.overlay_weights import Change, Dense, change_of
from core.record import DTYPES

_ASSIGNMENTS = 8
"""Side-by-side assignments whose forwards are kept ready."""


class NoOverlay(Exception):
    """A variant can't be laid over the base; the text says why, in words that follow its name."""


@dataclass(frozen=True)
class Prepared:
    """A variant's changes by parameter name: of matrices, and small dense tensors that stand in for the base's.

    `forwards` keeps the forwards made for this variant alone.
    """

    name: str
    changes: Mapping[str, Change]
    dense: Mapping[str, nn.Parameter]
    forwards: dict[str, Callable[..., Any]] = field(default_factory=dict)

    @property
    def keys(self) -> set[str]:
        """Parameters that differ from the base's."""
        return self.changes.keys() | self.dense.keys()


class Overlay:
    """The variants that answer now, and how to go back. The parameters must be the base's while any does."""

    def __init__(self, model: nn.Module, parameters: Parameters, loaded: Loaded) -> None:
        self.model, self.parameters, self.loaded = model, parameters, loaded
        self.single: Prepared | None = None
        self._swaps: list[tuple[nn.Module, str, nn.Parameter]] = []       # what stands in for a parameter now
        self._wraps: list[tuple[nn.Module, Callable[..., Any]]] = []
        self._made: dict[tuple[int, ...], tuple[Sequence[Prepared | None], list[tuple[nn.Module, Callable[..., Any]]]]] = {}
        self._kept: dict[tuple[nn.Module, str], nn.Parameter | None] = {}   # the base's own

    def prepare(self, variant: Variant) -> Prepared:
        """What is needed to lay a variant over the base, while the parameters are the base's.

        Raises `NoOverlay` where a change sits in stacked experts.
        """
        shown = self.take()
        try:
            prepared = self._prepare(variant)
            self._single(prepared)                     # its forwards, and with them the kernels, are then there
            return prepared
        finally:
            self.put(*shown)

    def _prepare(self, variant: Variant) -> Prepared:
        changes: dict[str, Change] = {}
        dense: dict[str, nn.Parameter] = {}
        made: dict[tuple[str, torch.device], Change] = {}
        for key in sorted(variant.changed):
            pieces = variant.pieces[key]
            if pieces[0].expert is not None:
                raise NoOverlay("its experts are stacked in one parameter")
            tensor = pieces[0].tensor
            parameter = self.parameters.get(key)
            at = tensor, parameter.device
            if at not in made and (self._is_matrix(key) or not isinstance(variant, DeltaVariant)):
                made[at] = self._change(variant, tensor, parameter)
            if self._is_matrix(key):
                changes[key] = made[at]
                continue
            value = torch.empty(variant.shape(key) or (), dtype=parameter.dtype, device=parameter.device)
            variant.write(tensor, value)
            dense[key] = nn.Parameter(value, requires_grad=False)
        return Prepared(variant.name, changes, dense)

    def _is_matrix(self, key: str) -> bool:
        module, leaf = self.parameters.owner(key)
        plain = type(module) in (nn.Linear, Conv1D) or (key == self.loaded.input_key and isinstance(module, nn.Embedding))
        return leaf == "weight" and plain

    def _change(self, variant: Variant, tensor: str, parameter: Tensor) -> Change:
        by_input = isinstance(parameter, Tensor) and self._by_input(parameter)
        if not isinstance(variant, DeltaVariant):
            return Dense(variant.checkpoint.view(tensor).to(parameter.device, parameter.dtype), by_input)
        record = variant.records[tensor]
        base = None
        if record.base is not None:
            holder = next((k for k, p in self.loaded.pieces.items() if p[0].tensor == record.base and p[0].expert is None), None)
            held = None if holder is None else self.parameters.get(holder).detach()
            # Where types differ a sum is made, once, and from what the file holds.
            plain = held is not None and held.dtype == DTYPES[record.base_dtype] == record.torch_dtype
            base = held.to(parameter.device) if held is not None and plain else variant.base_view(record, parameter.device)
        return change_of(record, variant.stored_on(tensor, parameter.device), base, parameter.dtype)

    def _by_input(self, parameter: Tensor) -> bool:
        return any(isinstance(m, Conv1D) and m.weight is parameter for m in self.model.modules())

    def show(self, rows: Sequence[Prepared | None]) -> int:
        """Let the variants answer, one per row of the coming batches (None is the base); returns parameters concerned.

        Where all rows are one variant, batches may have any size. Nothing is changed if this fails.
        """
        groups: dict[int, tuple[Prepared | None, list[int]]] = {}
        for i, prepared in enumerate(rows):
            groups.setdefault(id(prepared), (prepared, []))[1].append(i)
        chosen = list(groups.values())
        single = chosen[0][0] if len(chosen) == 1 else None
        before = self.take()
        try:
            wraps, swaps = self._single(single) if len(chosen) == 1 else (self._side_by_side(rows, chosen), [])
        except BaseException:
            self.put(*before)
            raise
        self.put(wraps, swaps, single)
        return len(set().union(*(p.keys for p, _ in chosen if p is not None)))

    def _single(self, prepared: Prepared | None) -> tuple[list[tuple[nn.Module, Callable[..., Any]]],
                                                          list[tuple[nn.Module, str, nn.Parameter]]]:
        """Forwards and parameters that make all rows one variant. Dense weights simply change places."""
        if prepared is None:
            return [], []
        swaps = dict(prepared.dense)
        for key, change in prepared.changes.items():
            if isinstance(change, Dense):
                swaps[key] = nn.Parameter(change.weight, requires_grad=False)
            elif key not in prepared.forwards:
                module, _ = self.parameters.owner(key)
                bias = prepared.dense.get(f"{key.rpartition('.')[0]}.bias", getattr(module, "bias", None))
                prepared.forwards[key] = self._forward(key, module, [Group(change, bias, None)], 1)
        return ([(self.parameters.owner(key)[0], forward) for key, forward in prepared.forwards.items()],
                [(*self.parameters.owner(key), tensor) for key, tensor in swaps.items()])

    def _side_by_side(self, rows: Sequence[Prepared | None],
                      chosen: Sequence[tuple[Prepared | None, list[int]]]) -> list[tuple[nn.Module, Callable[..., Any]]]:
        """Forwards that give each row its variant; those of the last few assignments are kept."""
        same = tuple(id(prepared) for prepared in rows)    # stays theirs, since what is kept holds on to them
        if same in self._made:
            return self._made[same][1]
        keys = set().union(*(p.keys for p, _ in chosen if p is not None))
        modules = sorted({key.rpartition(".")[0] for key in keys})
        homes = {path: self.loaded.home(f"{path}.weight") for path in modules}
        index = {home: [torch.tensor(found, device=home) for _, found in chosen] for home in set(homes.values())}
        made = [(self.parameters.owner(f"{path}.weight")[0],
                 self._mixed_forward(path, [p for p, _ in chosen], index[home], len(rows))) for path, home in homes.items()]
        while len(self._made) >= _ASSIGNMENTS:
            del self._made[next(iter(self._made))]
        self._made[same] = list(rows), made
        return made

    def forget(self) -> None:
        """Drop what is kept for assignments, and with it all hold on variants that answer no more."""
        self._made.clear()

    def _forward(self, key: str, module: nn.Module, groups: list[Group], batch: int) -> Callable[..., Any]:
        if isinstance(module, nn.Embedding):
            return forward_of_embedding(module, [EmbeddingRows(g.change, g.rows) for g in groups], batch)
        return forward_of_linear(groups, batch, isinstance(module, Conv1D))

    def _mixed_forward(self, path: str, chosen: Sequence[Prepared | None], index: Sequence[Tensor],
                       batch: int) -> Callable[..., Any]:
        key = f"{path}.weight"
        module, _ = self.parameters.owner(key)
        if self._is_matrix(key):
            own = Dense(self.parameters.get(key).detach(), isinstance(module, Conv1D))
            bias = module._parameters.get("bias")
            groups = []
            for prepared, rows in zip(chosen, index, strict=True):
                if prepared is None:
                    groups.append(Group(own, bias, rows))
                else:
                    groups.append(Group(prepared.changes.get(key, own), prepared.dense.get(f"{path}.bias", bias), rows))
            return self._forward(key, module, groups, batch)
        leaves = [{k.rpartition(".")[2]: v for k, v in (p.dense.items() if p else ()) if k.rpartition(".")[0] == path}
                  for p in chosen]
        return forward_of_other(module, list(zip(leaves, index, strict=True)), batch)

    def take(self) -> tuple[Any, Any, Prepared | None]:
        """Back to the base; returns what was on, for `put`."""
        shown = self._wraps, self._swaps, self.single
        for (module, leaf), tensor in self._kept.items():
            module._parameters[leaf] = tensor
        for module, _ in self._wraps:
            set_forward(module, None)
        self._wraps, self._swaps, self._kept, self.single = [], [], {}, None
        return shown

    def put(self, wraps: list[tuple[nn.Module, Callable[..., Any]]], swaps: list[tuple[nn.Module, str, nn.Parameter]],
            single: Prepared | None) -> None:
        """Put on what `take` took off; cannot fail."""
        for module, forward in wraps:
            set_forward(module, forward)
        for module, leaf, tensor in swaps:
            self._kept[module, leaf] = module._parameters[leaf]
            module._parameters[leaf] = tensor
        self._wraps, self._swaps, self.single = wraps, swaps, single

    def clear(self) -> None:
        """Back to the base."""
        self.take()

    def digest(self, key: str, prepared: Prepared | None) -> str:
        """Hash of a parameter as a variant has it (None: as it lies), see `core.deck_variant.digest`."""
        if prepared is not None and key in prepared.changes:
            return _digest_change(prepared.changes[key], self.parameters.get(key))
        tensor = prepared.dense[key] if prepared is not None and key in prepared.dense else self.parameters.get(key)
        return digest(iter([tensor]), tensor.dtype, tuple(tensor.shape))


def _digest_change(change: Change, like: Tensor) -> str:
    step = 4096
    blocks = (change.block(i, min(i + step, change.outputs)) for i in range(0, change.outputs, step))
    if getattr(change, "by_input", False):
        whole = torch.cat(list(blocks), 1)
        return digest(iter([whole]), like.dtype, tuple(whole.shape))
    return digest(blocks, like.dtype, (change.outputs, like.shape[1]))
