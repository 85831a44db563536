"""Tiny random checkpoints of many architectures, and fine-tunes of them, as folders that a job can open."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase

VOCABULARY = 260
"""Room for the 258 ids of the byte tokeniser."""

_GROUPED: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
                            "num_key_value_heads": 2}

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **_GROUPED},
    "llama-tied": {"model_type": "llama", **_GROUPED, "tie_word_embeddings": True},
    "qwen2": {"model_type": "qwen2", **_GROUPED},
    "qwen2-tied": {"model_type": "qwen2", **_GROUPED, "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", **_GROUPED, "head_dim": 8},
    "mistral": {"model_type": "mistral", **_GROUPED, "sliding_window": 5},
    "gemma": {"model_type": "gemma", **_GROUPED, "head_dim": 8},
    "gemma2": {"model_type": "gemma2", **_GROUPED, "head_dim": 8, "sliding_window": 6},
    "gemma3": {"model_type": "gemma3_text", **_GROUPED, "head_dim": 8, "sliding_window": 6, "num_hidden_layers": 3,
               "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "phi3": {"model_type": "phi3", **_GROUPED, "pad_token_id": 0},
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "opt": {"model_type": "opt", "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "max_position_embeddings": 64, "word_embed_proj_dim": 16},
    "neox": {"model_type": "gpt_neox", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
             "num_attention_heads": 4},
    "mixtral": {"model_type": "mixtral", **_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3moe": {"model_type": "qwen3_moe", **_GROUPED, "head_dim": 8, "moe_intermediate_size": 32, "num_experts": 4,
                 "num_experts_per_tok": 2},
}
"""Small enough for a job to take a second, and wide enough (1024 entries) for most matrices to be coded as signs."""

TEXT = "".join(f"{n} times {n + 1} makes {n * (n + 1)}; the {w} sees what comes next, and says so to {v}.\n"
               for n in range(60) for w, v in (("owl", "nobody"), ("miller", "the queen"), ("clock", "all of us")))
"""Some 10,000 characters to calibrate on."""

Tensors = dict[str, Tensor]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices this small gain nothing from a second thread, and lose much by waiting for it on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_model(architecture: str, seed: int = 0, **changes: Any) -> torch.nn.Module:
    """A random model; `changes` go into its config."""
    # Special tokens within the vocabulary; weights large enough for a change of a hundredth to show in the logits.
    settings = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1, "initializer_range": 0.15, "init_std": 0.15,
                **CONFIGS[architecture], **changes}
    torch.manual_seed(seed)
    model: torch.nn.Module = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings)).eval()
    return model


def save_model(folder: Path, model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase | None = None) -> Path:
    """Save as transformers does; experts end up 2-D on disk."""
    model.save_pretrained(folder)  # type: ignore[operator]
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


def tensors_of(folder: Path) -> Tensors:
    """All tensors of a saved checkpoint."""
    found: Tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def save_beside(folder: Path, base: Path, tensors: Mapping[str, Tensor], **config: Any) -> Path:
    """A checkpoint of other tensors with the files of `base`; `config` is put into its config.json (None removes)."""
    folder.mkdir(parents=True)
    for file in base.iterdir():
        if file.suffix != ".safetensors" and not file.name.endswith(".index.json"):
            (folder / file.name).write_bytes(file.read_bytes())
    path = folder / "config.json"
    settings = {**json.loads(path.read_text()), **config}
    path.write_text(json.dumps({k: v for k, v in settings.items() if v is not None}))
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


def perturb(tensors: Mapping[str, Tensor], share: float = 0.01, seed: int = 1,
            only: Callable[[str, Tensor], bool] = lambda name, tensor: tensor.dim() == 2) -> Tensors:
    """Copies of the tensors, those that `only` picks moved by noise of `share` of their own norm, in their own type."""
    generator = torch.Generator().manual_seed(seed)
    result: Tensors = {}
    for name, tensor in sorted(tensors.items()):
        noise = torch.randn(tensor.shape, generator=generator)
        moved = tensor.float() + share * tensor.float().square().mean().sqrt() * noise
        result[name] = moved.to(tensor.dtype) if only(name, tensor) else tensor.clone()
    return result


def is_linear(name: str, tensor: Tensor) -> bool:
    """Matrices inside the blocks."""
    return tensor.dim() == 2 and any(part.isdigit() for part in name.split("."))


def make_pair(folder: Path, architecture: str, tokenizer: PreTrainedTokenizerBase | None = None, *, share: float = 0.01,
              dtype: torch.dtype = torch.float32, only: Callable[[str, Tensor], bool] = is_linear,
              **changes: Any) -> tuple[Path, Path]:
    """Folders of a random base and of a fine-tune whose matrices moved a little."""
    base = save_model(folder / "base", make_model(architecture, **changes).to(dtype), tokenizer)
    return base, save_beside(folder / "tuned", base, perturb(tensors_of(base), share, only=only))


def write_text(folder: Path) -> Path:
    """A small text file to calibrate on."""
    path = folder / "text.txt"
    path.write_text(TEXT)
    return path
