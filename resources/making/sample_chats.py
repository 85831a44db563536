"""Sample calibration chats from an instruction-tuned base: text that looks like what it will write.

    python -m resources.making.sample_chats --model FOLDER --out resources/calibration/sampled_chats.jsonl

Three kinds: answers to the prompts of `prompts.py` (with and without a system prompt), the same continued
for a second turn, and free-running chats where the model also writes the user's side (it continues the bare
opening of a user turn). All at a temperature of 0.9 among the 60 likeliest tokens (top-p would sort the
whole vocabulary at each step, which takes as long as the model itself), seeded.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from resources.making.prompts import FOLLOW_UPS, PROMPTS, SYSTEM_PROMPTS

_LOG = logging.getLogger("sample_chats")
Chat = list[dict[str, str]]
# A small model at this temperature invents freely: what it says of real people, illness or violence is left
# out, and so is anything that looks like an address.
_UNFIT = re.compile(
    r"https?:|www\.|\S@\S|covid|curie|trump|obama|biden|hitler|nazi|israel|palestin|suicid|\bsex|\bkill|murder|\brape"
    r"|\bguns?\b|cancer|racis|terroris|slave|jew|muslim|islam|drug|copyright|©",
    re.IGNORECASE,
)


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def complete(model: Any, tokenizer: Any, texts: Sequence[str], new_tokens: int) -> list[str | None]:
    """Sampled continuations up to the end-of-turn token; None where that did not come within `new_tokens`."""
    out: list[str | None] = []
    for part in _chunks(texts, 48):
        inputs = tokenizer(list(part), return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode():
            tokens = model.generate(
                **inputs, max_new_tokens=new_tokens, do_sample=True, temperature=0.9, top_p=1.0, top_k=60
            )
        for row in tokens[:, inputs["input_ids"].shape[1] :].tolist():
            ended = tokenizer.eos_token_id in row
            text = tokenizer.decode(row, skip_special_tokens=True).strip()
            out.append(text if ended and text else _to_last_sentence(text))
        _LOG.info("%d of %d", len(out), len(texts))
    return out


def _to_last_sentence(text: str) -> str | None:
    """A text that ran into the length limit, cut after its last full sentence or line."""
    end = max(text.rfind(mark) for mark in (". ", ".\n", "!\n", "?\n", "}\n", "\n\n"))
    return text[: end + 1].strip() if end > 80 else None


def _reply(model: Any, tokenizer: Any, chats: Sequence[Chat], new_tokens: int) -> list[Chat]:
    order = sorted(chats, key=lambda chat: sum(len(turn["content"]) for turn in chat))  # less padding
    texts = [tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in order]
    replies = complete(model, tokenizer, texts, new_tokens)
    return [
        [*chat, {"role": "assistant", "content": reply}]
        for chat, reply in zip(order, replies, strict=True)
        if reply
    ]


def sample(model: Any, tokenizer: Any, free: int, new_tokens: int) -> list[Chat]:
    """All chats: one per prompt, a fifth of them with a second turn, and `free` free-running ones."""
    rng = random.Random(11)
    asked: list[Chat] = []
    for prompt in PROMPTS:
        system = [{"role": "system", "content": rng.choice(SYSTEM_PROMPTS)}] if rng.random() < 0.3 else []
        asked.append([*system, {"role": "user", "content": prompt}])
    chats = _reply(model, tokenizer, asked, new_tokens)
    rng.shuffle(chats)
    cut = len(chats) // 5
    longer = [[*chat, {"role": "user", "content": rng.choice(FOLLOW_UPS)}] for chat in chats[:cut]]
    chats = _reply(model, tokenizer, longer, new_tokens // 2) + chats[cut:]
    openings = complete(model, tokenizer, ["<|im_start|>user\n"] * free, 64)
    own: list[Chat] = [[{"role": "user", "content": text}] for text in dict.fromkeys(openings) if text]
    chats += _reply(model, tokenizer, own, new_tokens)
    rng.shuffle(chats)
    return [chat for chat in chats if not any(_UNFIT.search(turn["content"]) for turn in chat)]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Sample calibration chats.")
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--free", type=int, default=96)
    parser.add_argument("--new-tokens", type=int, default=224)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(options.threads)
    torch.manual_seed(12)
    tokenizer = AutoTokenizer.from_pretrained(options.model, padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16)
    model.eval()
    chats = sample(model, tokenizer, options.free, options.new_tokens)
    lines = [json.dumps({"messages": chat}, ensure_ascii=False) for chat in chats]
    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
