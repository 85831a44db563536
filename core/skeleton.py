"""The shape of a model without its weights: which tensor on disk is which parameter, and how to run one piece.

A model is cut into stages: the *outer* stage (embeddings, final norm, head) and one stage per decoder block. The
skeleton holds a transformers model whose parameters are on the meta device; weights are handed in per call, so
that one block at a time is in memory. Whatever a backbone computes before its blocks (masks, rotary tables) is
recorded by running it once with its blocks replaced by recorders; whatever it computes after them (final norm,
projections, soft caps, head) by running it with the first block replaced by an injector. So no architecture
needs code of its own here.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from torch.func import functional_call
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, apply_renamings

from core.errors import TensorsMissing, UnsupportedModel

BUILDING = threading.RLock()
"""Held while a transformers model is made. What makes one swaps settings of the whole process meanwhile (torch's default type,
how modules take up parameters) and puts back what it found: two at once leave each other's behind."""

OUTER = -1
"""Stage number of everything that is not inside a decoder block."""

# Experts are 2-D per expert on disk and stacked in memory; where, follows from the names (Mixtral; Qwen-MoE,
# OLMoE, DeepSeek and their kin). `part` orders the matrices that are concatenated along the outputs.
_EXPERT = re.compile(r"^(?P<head>.*\.)(?:block_sparse_moe|mlp|feed_forward)\.experts\.(?P<expert>\d+)\."
                     r"(?P<matrix>w1|w2|w3|gate_proj|up_proj|down_proj)\.weight$")
_EXPERT_PART = {"w1": ("gate_up_proj", 0), "w3": ("gate_up_proj", 1), "w2": ("down_proj", 0),
                "gate_proj": ("gate_up_proj", 0), "up_proj": ("gate_up_proj", 1), "down_proj": ("down_proj", 0)}

@dataclass(frozen=True)
class Placement:
    """Where a tensor on disk goes: `stage`, the parameter's path in the model, and for an expert its place in it."""

    tensor: str
    stage: int
    parameter: str
    expert: int | None = None
    part: int = 0


@dataclass
class BlockCall:
    """What a backbone hands to one block besides the hidden states."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass
class Prologue:
    """Hidden states (batch, tokens, width) before block 0, and the call of every block."""

    hidden: Tensor
    calls: list[BlockCall] = field(default_factory=list)


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Parameters that this thread's modules take up lose their values; buffers keep theirs. Needs `BUILDING`.

    Other threads' modules are left alone: one that loads weights meanwhile would be without them.
    """
    plain, me = nn.Module.register_parameter, threading.get_ident()

    def register(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and threading.get_ident() == me:
            param = nn.Parameter(param.to("meta"), requires_grad=param.requires_grad)
        plain(module, name, param)

    nn.Module.register_parameter = register  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = plain  # type: ignore[method-assign]


class _Standin(nn.Module):
    """Takes a block's place: notes how it was called, and returns the hidden states (or the injected ones)."""

    def __init__(self, block: nn.Module, log: list[tuple[Tensor, BlockCall]], inject: Tensor | None) -> None:
        super().__init__()
        object.__setattr__(self, "block", block)       # not a submodule: its parameters must not show up
        self.log, self.inject = log, inject

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:                         # e.g. `attention_type`, which some backbones ask blocks for
            return getattr(object.__getattribute__(self, "block"), name)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.log.append((hidden_states, BlockCall(args, kwargs)))
        return hidden_states if self.inject is None else self.inject


class Skeleton:
    """A causal language model on the meta device, cut into stages.

    `config` is the content of a config.json. Raises `UnsupportedModel` when the installed transformers can't build
    it as a causal language model or when its blocks can't be told.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        model_type = str(config.get("model_type", ""))
        try:
            loaded = AutoConfig.for_model(**dict(config))
            with BUILDING, _parameters_on_meta():
                self.model: Any = AutoModelForCausalLM.from_config(
                    loaded, experts_implementation="eager", dtype=torch.float32).eval()
        except (ValueError, KeyError, TypeError, ImportError, AttributeError, RuntimeError, ZeroDivisionError,
                StrictDataclassError) as e:
            raise UnsupportedModel(
                f"The installed transformers can't build a causal language model of type '{model_type}'.",
                f"It said: {str(e).splitlines()[0] if str(e) else type(e).__name__}.",
                "Check config.json, or update transformers.") from e
        self.model.requires_grad_(False)
        self.config: Any = self.model.config
        self.blocks_path, self.blocks = self._find_blocks()
        self.keys = set(self.model.state_dict().keys())
        self.input_name = self._weight_name(self.model.get_input_embeddings())
        self.output_name = self._weight_name(self.model.get_output_embeddings())
        text = self.config.get_text_config()
        self.tied = bool(getattr(text, "tie_word_embeddings", False))
        self.vocabulary = int(text.vocab_size)
        self.levels: dict[Any, Any] = {}
        """What `core.stream.levels` has found, by kind of block."""

    def _find_blocks(self) -> tuple[str, nn.ModuleList]:
        count = int(getattr(self.config.get_text_config(), "num_hidden_layers", 0) or 0)
        found = [(name, module) for name, module in self.model.named_modules()
                 if isinstance(module, nn.ModuleList) and len(module) == count and count]
        if not found:
            raise UnsupportedModel(f"The decoder blocks of '{self.config.model_type}' can't be told.",
                                   "Its model holds no list of `num_hidden_layers` blocks.",
                                   "Deltadeck reads decoder-only language models.")
        return max(found, key=lambda pair: sum(p.numel() for p in pair[1].parameters()))

    def _weight_name(self, module: nn.Module | None) -> str | None:
        names = (name for name, m in self.model.named_modules() if m is module)
        return f"{next(names)}.weight" if module is not None else None

    @property
    def depth(self) -> int:
        """Number of decoder blocks."""
        return len(self.blocks)

    def place(self, tensors: Mapping[str, tuple[int, ...]]) -> dict[str, Placement]:
        """Placement of every tensor on disk, {name: shape} -> {name: Placement}; derived buffers have no part in it.

        Raises `UnsupportedModel` for a tensor that has no place, `TensorsMissing` for a parameter that no tensor fills.
        """
        shapes = {k: tuple(v.shape) for k, v in self.model.state_dict().items()}
        prefix = f"{getattr(self.model, 'base_model_prefix', '')}."
        # Names on disk are often older than those in memory; transformers knows the renamings.
        renamings = [r for r in get_model_conversion_mapping(self.model) if isinstance(r, WeightRenaming)]
        placements: dict[str, Placement] = {}
        for name, shape in tensors.items():
            key, expert, part = name, None, 0
            if (match := _EXPERT.match(name)) and name not in shapes:
                matrix, part = _EXPERT_PART[match["matrix"]]
                key, expert = f"{match['head']}mlp.experts.{matrix}", int(match["expert"])
                if key not in shapes:
                    key = f"{match['head']}feed_forward.experts.{matrix}"
            renamed = key if key in shapes else apply_renamings(key, renamings)
            candidates = (key, renamed, prefix + renamed, renamed.removeprefix(prefix))
            key = next((c for c in candidates if c in shapes), "")
            if not key:
                if name.endswith("lm_head.weight") and self.tied:
                    continue
                raise UnsupportedModel(
                    f"Tensor '{name}' has no place in a '{self.config.model_type}' model.",
                    "The checkpoint's layout is not one that the installed transformers has for it.",
                    "Save it again with save_pretrained, or update transformers.")
            wanted = shapes[key] if expert is None else shapes[key][1:]
            if (expert is None and shape != wanted) or (expert is not None and shape[1:] != wanted[1:]):
                raise UnsupportedModel(f"Tensor '{name}' has shape {list(shape)}, but config.json asks for {list(wanted)}.",
                                       "Config and weights belong to different models.", "Use a matching config.json.")
            placements[name] = Placement(name, self.stage_of(key), key, expert, part)
        filled = {p.parameter for p in placements.values()}
        buffers = {k for k, _ in self.model.named_buffers()}    # what is not on disk, the model computes for itself
        missing = sorted(k for k in shapes if k not in filled and k not in buffers
                         and not (k == self.output_name and self.tied))
        entries: dict[str, int] = {}                            # of stacked experts: one of them may be missing
        for placement in placements.values():
            if placement.expert is not None:
                entries[placement.parameter] = entries.get(placement.parameter, 0) + math.prod(tensors[placement.tensor])
        missing += sorted(k for k, count in entries.items() if count != math.prod(shapes[k]))
        if missing:
            raise TensorsMissing(f"The checkpoint lacks {len(missing)} tensor(s), first '{missing[0]}'.",
                                 f"A '{self.config.model_type}' model with this config needs them.",
                                 "Get the checkpoint again; a shard may be missing.")
        return placements

    def stage_of(self, parameter: str) -> int:
        """Block number of a parameter's path, or OUTER."""
        if not parameter.startswith(self.blocks_path + "."):
            return OUTER
        return int(parameter[len(self.blocks_path) + 1:].split(".", 1)[0])

    def prefix(self, stage: int) -> str:
        """What a stage's parameter paths start with."""
        return "" if stage == OUTER else f"{self.blocks_path}.{stage}."

    def assemble(self, placements: Sequence[Placement], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Parameters of one stage from its tensors, {path inside the stage: tensor}. Stacks experts; differentiable."""
        grouped: dict[str, list[Placement]] = {}
        for placement in placements:
            grouped.setdefault(placement.parameter, []).append(placement)
        result: dict[str, Tensor] = {}
        for key, members in grouped.items():
            path = key.removeprefix(self.prefix(members[0].stage))
            if members[0].expert is None:
                result[path] = tensors[members[0].tensor]
                continue
            experts: dict[int, list[Placement]] = {}
            for member in sorted(members, key=lambda m: (m.expert or 0, m.part)):
                experts.setdefault(member.expert or 0, []).append(member)
            result[path] = torch.stack([torch.cat([tensors[m.tensor] for m in parts]) for parts in experts.values()])
        if (placements and placements[0].stage == OUTER and self.output_name and self.input_name in result
                and self.output_name not in result):            # a tied head
            result[self.output_name] = result[self.input_name]
        return result

    @contextmanager
    def _replaced(self, log: list[tuple[Tensor, BlockCall]], inject: Tensor | None) -> Iterator[None]:
        parent = self.model.get_submodule(self.blocks_path.rpartition(".")[0])
        leaf = self.blocks_path.rpartition(".")[2]
        standins = nn.ModuleList(_Standin(b, log, inject if i == 0 else None) for i, b in enumerate(self.blocks))
        setattr(parent, leaf, standins)
        try:
            yield
        finally:
            setattr(parent, leaf, self.blocks)

    def _run_outer(self, outer: Mapping[str, Tensor], ids: Tensor, log: list[tuple[Tensor, BlockCall]],
                   inject: Tensor | None) -> Tensor:
        with self._replaced(log, inject):
            out = functional_call(self.model, dict(outer), (), {"input_ids": ids, "use_cache": False},
                                  tie_weights=False)
        logits: Tensor = out.logits
        return logits

    def prologue(self, outer: Mapping[str, Tensor], ids: Tensor, cache: Any = None) -> Prologue:
        """Embed `ids` (batch, tokens) and record how each block is called. With a transformers `cache`, the ids follow those
        whose keys and values it holds, and blocks run with these calls add their own to it."""
        log: list[tuple[Tensor, BlockCall]] = []
        backbone = self.model.base_model
        if backbone is self.model:
            self._run_outer(outer, ids, log, None)
        else:
            prefix = f"{self.model.base_model_prefix}."   # the head's product is not wanted here
            inner = {k.removeprefix(prefix): v for k, v in outer.items() if k.startswith(prefix)}
            with self._replaced(log, None):
                functional_call(backbone, inner, (), {"input_ids": ids, "use_cache": cache is not None,
                                                      "past_key_values": cache}, tie_weights=False)
        return Prologue(log[0][0], [call for _, call in log])

    def run_block(self, block: int, parameters: Mapping[str, Tensor], hidden: Tensor, call: BlockCall) -> Tensor:
        """Hidden states (batch, tokens, width) after one block."""
        out = functional_call(self.blocks[block], dict(parameters), (hidden, *call.args), call.kwargs)
        result: Tensor = out[0] if isinstance(out, tuple) else out
        return result

    def epilogue(self, outer: Mapping[str, Tensor], ids: Tensor, hidden: Tensor) -> Tensor:
        """Logits (batch, tokens, vocabulary) from the hidden states after the last block."""
        return self._run_outer(outer, ids, [], hidden)
