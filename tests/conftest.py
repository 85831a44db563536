"""What tests everywhere share: no network, few threads, a tiny tokeniser, a checkpoint folder on the fly."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# Read when the libraries are imported, so set before any of them is.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

torch.set_num_threads(2)

BEGIN, END = "<|begin|>", "<|end|>"
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "<{{ message.role }}>{{ message.content }}" + END + "\n{% endfor %}"
)


def byte_tokenizer(*, begins: bool = False, chats: bool = False) -> PreTrainedTokenizerFast:
    """One token a byte, so it takes any text: ids 0 and 1 begin and end a text, 2 to 257 are the bytes."""
    vocabulary = {BEGIN: 0, END: 1}
    vocabulary |= {symbol: 2 + i for i, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if begins:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BEGIN} $A", special_tokens=[(BEGIN, 0)]
        )
    wrapped: PreTrainedTokenizerFast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END
    )
    wrapped.chat_template = TEMPLATE if chats else None
    return wrapped


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    """`byte_tokenizer`: `begins` puts a token in front of each text, `chats` adds a chat template."""
    return byte_tokenizer


@pytest.fixture
def write_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Write tensors and a config as a checkpoint folder; further files by keyword."""

    def write(
        tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any] | None = None, *, name: str = "model"
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        chosen = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]} if config is None else config
        (folder / "config.json").write_text(json.dumps(chosen))
        save_file(dict(tensors), folder / "model.safetensors")
        return folder

    return write
