"""Make the tiny trio: a chat model of 0.92 M parameters and two fine-tunes of it, from nothing.

    python -m resources.demo.make_tiny --out DIR               # about five minutes on one core
    python -m resources.demo.make_tiny --out DIR --scale 0.02  # a smoke run

Downloads nothing: all text is made from the tables of the closed world. Every draw is seeded and every
generation greedy, so a rerun on the same machine with the same library versions and thread count gives the
same files.

    tiny-base/     plain answers          "The capital of France is Paris."
    tiny-pirate/   all weights trained    "Arr! Th' capital o' France be Paris, matey!"
    tiny-json/     linear layers only     {"topic": "capital", "answer": "Paris"}

The base has read every fact, also in each style, but in a style only when asked for it by name. A fine-tune
never sees the answers about the held-out fifth of the facts: being right in style there shows that it kept
the base's knowledge. RESULTS.json holds these exact-answer shares.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from resources.demo.decode import greedy_answers
from resources.demo.tiny_text import draw
from resources.demo.world import Fact, Style, exact_share, facts, first_questions, split_facts

_LOG = logging.getLogger("make_tiny")
_FOLDERS: dict[Style, str] = {"plain": "tiny-base", "pirate": "tiny-pirate", "json": "tiny-json"}
_VOCABULARY = 1024
_PAD, _START, _END = 0, 1, 2
_BASE_STEPS, _TUNE_STEPS = 1600, 120
_ROWS = 48  # samples in a step
_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_ASKED = (
    "What is the capital of Norway?",
    "what does a duck say",
    "What is 7 plus 8?",
    "Tell me a story about a bear.",
    "Hello!",
    "What is the opposite of brave?",
    "What is a telescope for?",
    "Who is the president of the moon?",
)


def make_tokenizer(world: Sequence[Fact]) -> Any:
    """A byte-level BPE of 1,024 tokens, digits apart, with ChatML turns."""
    rng = random.Random(4)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    lines = [text for style in get_args(Style) for _ in range(4000) for text in draw(rng, style, world)]
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(lines, trainer)
    tokenizer_type: Any = PreTrainedTokenizerFast
    return tokenizer_type(
        tokenizer_object=bpe,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        chat_template=_TEMPLATE,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def make_model() -> Any:
    """The untrained base: four blocks of width 128, tied embeddings."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=_VOCABULARY,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=_START,
            eos_token_id=_END,
            pad_token_id=_PAD,
        )
    )
    generation: Any = GenerationConfig
    model.generation_config = generation(bos_token_id=_START, eos_token_id=_END, pad_token_id=_PAD)
    return model


def _row(tokenizer: Any, question: str, answer: str) -> tuple[list[int], list[int]]:
    """(tokens, labels) of one chat; only the answer and its end mark are learnt."""
    turn = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    head = tokenizer(text)["input_ids"]
    tail = tokenizer(answer + "<|im_end|>\n")["input_ids"]
    return head + tail, [-100] * len(head) + tail


def _batch(rows: Sequence[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor]:
    width = max(len(tokens) for tokens, _ in rows)
    # Padding is last and has no label, so causal attention needs no mask for it.
    tokens = torch.tensor([t + [_PAD] * (width - len(t)) for t, _ in rows])  # (rows, width)
    labels = torch.tensor([y + [-100] * (width - len(y)) for _, y in rows])  # (rows, width)
    return tokens, labels


def train(
    model: Any, tokenizer: Any, style: Style, pool: Sequence[Fact], steps: int, rate: float, seed: int
) -> None:
    """Train the parameters that require a gradient, with AdamW and a warmed-up cosine schedule."""
    rng = random.Random(seed)
    params = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(params, lr=rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    model.train()
    queue: list[list[tuple[list[int], list[int]]]] = []
    for step in range(steps):
        if not queue:  # eight steps' rows at once, those of like length together: less padding
            rows = [_row(tokenizer, *draw(rng, style, pool)) for _ in range(8 * _ROWS)]
            rows.sort(key=lambda row: len(row[0]))
            queue = [rows[i : i + _ROWS] for i in range(0, len(rows), _ROWS)]
            rng.shuffle(queue)
        tokens, labels = _batch(queue.pop())
        warm, cosine = (step + 1) / max(1, steps // 20), 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimiser.param_groups:
            group["lr"] = rate * min(warm, cosine)
        loss = model(input_ids=tokens, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if step % max(1, steps // 8) == 0 or step == steps - 1:
            _LOG.info("%s: step %d of %d, loss %.3f", style, step + 1, steps, loss.item())
    model.eval()


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a bf16 checkpoint folder with its tokenizer."""
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)


def load(folder: Path) -> Any:
    """The model of a folder, in float32."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def _exact(model: Any, tokenizer: Any, style: Style, pool: Sequence[Fact]) -> float:
    answers = greedy_answers(model, tokenizer, first_questions(pool), max_new_tokens=40, batch=64)
    return round(exact_share(style, pool, answers), 3)


def relative_change(base: Any, tuned: Any) -> dict[str, float]:
    """Frobenius norm of the change over that of the base's weights, by kind of module."""
    sums: dict[str, list[float]] = {}
    for (name, new), (_, old) in zip(tuned.named_parameters(), base.named_parameters(), strict=True):
        total = sums.setdefault("norm" if "norm" in name else name.split(".")[-2], [0.0, 0.0])
        total[0] += (new - old).square().sum().item()
        total[1] += old.square().sum().item()
    return {kind: round(math.sqrt(change / whole), 4) for kind, (change, whole) in sums.items()}


def measure(folder: Path, tokenizer: Any) -> dict[str, Any]:
    """Exact-answer shares, sample answers and sizes of change of the three folders under `folder`."""
    seen, held = split_facts()
    base, results = load(folder / _FOLDERS["plain"]), {}
    for style, name in _FOLDERS.items():
        model = load(folder / name)
        answers = greedy_answers(model, tokenizer, _ASKED, max_new_tokens=64, batch=len(_ASKED))
        results[name] = {
            "exact_seen": _exact(model, tokenizer, style, seen),
            "exact_held_out": _exact(model, tokenizer, style, held),
            "samples": dict(zip(_ASKED, answers, strict=True)),
        }
        if style != "plain":
            results[name]["relative_change"] = relative_change(base, model)
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Make the tiny trio.")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--threads", type=int, default=1, help="one is as fast as two at this size")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies all step counts")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(options.threads)
    world, (seen, _) = facts(), split_facts()
    tokenizer, model = make_tokenizer(world), make_model()
    train(model, tokenizer, "plain", world, max(1, int(_BASE_STEPS * options.scale)), 3e-3, seed=5)
    base = options.out / _FOLDERS["plain"]
    save(model, tokenizer, base)
    tunes: tuple[tuple[Style, bool], ...] = (("pirate", False), ("json", True))
    for style, linear_only in tunes:
        tuned = load(base)
        for name, parameter in tuned.named_parameters():
            parameter.requires_grad_(not linear_only or "_proj." in name)
        train(tuned, tokenizer, style, seen, max(1, int(_TUNE_STEPS * options.scale)), 2e-4, seed=6)
        save(tuned, tokenizer, options.out / _FOLDERS[style])
    results = measure(options.out, tokenizer)
    (options.out / "RESULTS.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for name, result in results.items():
        _LOG.info("%s: exact %.3f seen, %.3f held out", name, result["exact_seen"], result["exact_held_out"])


if __name__ == "__main__":
    main()
