"""Make the checkpoints of the real demo pair in a process of its own.

    python -m core.demo_train dequantise GGUF TARGET
    python -m core.demo_train train BASE TARGET [--steps 30]

A process of its own, because the C library's memory settings that make training on a CPU faster are read
when a process starts, because it can be ended at any moment, and because its gigabytes go back to the
system afterwards. Progress comes as one JSON object a line on stdout: {"done": 3, "total": 30, "message":
"loss 1.624"}.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.demo_base import dequantise
from resources.demo.chats import DemoChat, pirate_chats

Row = tuple[list[int], list[int]]  # tokens, labels (-100 where nothing is learnt)
_NOT_LEARNT = -100


@dataclass(frozen=True)
class TrainRecipe:
    """Full fine-tuning of the linear layers. The rate is what instruct tunes of this size really use."""

    steps: int = 30
    tokens_per_step: int = 1024
    rate: float = 3e-4
    seed: int = 1


def chat_row(tokenizer: Any, chat: DemoChat) -> Row:
    """Tokens and labels of one chat; only the reply and its end mark are learnt."""
    turn = [{"role": "user", "content": chat.prompt}]
    head_text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    head = tokenizer(head_text, add_special_tokens=False)["input_ids"]
    reply = tokenizer(chat.reply + tokenizer.eos_token + "\n", add_special_tokens=False)["input_ids"]
    return head + reply, [_NOT_LEARNT] * len(head) + reply


def batches(rows: Sequence[Row], tokens: int, seed: int) -> Iterator[list[Row]]:
    """Endless batches of about `tokens` tokens with their padding, rows of like length together."""
    rng = random.Random(seed)
    while True:
        order = list(rows)
        rng.shuffle(order)
        groups: list[list[Row]] = []
        for start in range(0, len(order), 256):
            group: list[Row] = []
            for row in sorted(order[start : start + 256], key=lambda r: -len(r[0])):
                if group and (len(group) + 1) * len(group[0][0]) > tokens:
                    groups.append(group)
                    group = []
                group.append(row)
            groups.append(group)
        rng.shuffle(groups)
        yield from groups


def batch_loss(model: Any, rows: Sequence[Row], pad: int) -> Tensor:
    """Mean next-token loss over the learnt positions; the head runs on those alone."""
    width = max(len(tokens) for tokens, _ in rows)
    ids = torch.tensor([t + [pad] * (width - len(t)) for t, _ in rows])  # (rows, width)
    labels = torch.tensor([y + [_NOT_LEARNT] * (width - len(y)) for _, y in rows])  # (rows, width)
    mask = torch.tensor([[1] * len(t) + [0] * (width - len(t)) for t, _ in rows])  # (rows, width)
    hidden = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    learnt = labels[:, 1:] != _NOT_LEARNT
    logits = model.lm_head(hidden[:, :-1][learnt])  # (learnt positions, vocabulary)
    return torch.nn.functional.cross_entropy(logits.float(), labels[:, 1:][learnt])


def train(
    base: Path,
    target: Path,
    chats: Sequence[DemoChat],
    recipe: TrainRecipe,
    report: Callable[[int, int, str], None],
) -> None:
    """Fine-tune the linear layers of `base` on the chats that are not held out; write a bf16 folder `target`.

    `report(steps done, steps in all, message)` is called after each step.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)  # master weights in float32
    rows = [chat_row(tokenizer, chat) for chat in chats if not chat.held_out]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("_proj." in name)
    params = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(params, lr=recipe.rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    feed = batches(rows, recipe.tokens_per_step, recipe.seed)
    warm_steps = max(1, recipe.steps // 20)
    model.train()
    for step in range(recipe.steps):
        cosine = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate * min((step + 1) / warm_steps, cosine)
        with torch.autocast("cpu", torch.bfloat16):
            loss: Any = batch_loss(model, next(feed), tokenizer.pad_token_id)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        report(step + 1, recipe.steps, f"loss {loss.item():.3f}")
    model.eval().to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)


def _say(done: int, total: int, message: str) -> None:
    sys.stdout.write(json.dumps({"done": done, "total": total, "message": message}) + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the child process."""
    parser = argparse.ArgumentParser(description="Make a checkpoint of the demo pair.")
    jobs = parser.add_subparsers(dest="job", required=True)
    for job, source in (("dequantise", "gguf"), ("train", "base")):
        options = jobs.add_parser(job)
        options.add_argument(source, type=Path)
        options.add_argument("target", type=Path)
        if job == "train":
            options.add_argument("--steps", type=int, default=TrainRecipe().steps)
    chosen = parser.parse_args(arguments)
    if chosen.job == "dequantise":
        dequantise(chosen.gguf, chosen.target)
        _say(1, 1, "")
    else:
        _say(0, chosen.steps, "")
        train(chosen.base, chosen.target, pirate_chats(), TrainRecipe(steps=chosen.steps), _say)


if __name__ == "__main__":
    main()
