"""Greedy answers of a small chat model, many prompts at once: the yardstick of both demos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def greedy_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    max_new_tokens: int,
    batch: int,
    repetition_penalty: float = 1.0,
) -> list[str]:
    """One greedy reply per prompt, through the tokenizer's chat template, stripped of surrounding space.

    Prompts are padded on the left within batches of `batch`. `model` and `tokenizer` are transformers
    objects; the tokenizer's padding side is put back afterwards.
    """
    side, tokenizer.padding_side = tokenizer.padding_side, "left"
    replies: list[str] = []
    try:
        for start in range(0, len(prompts), batch):
            turns = [[{"role": "user", "content": prompt}] for prompt in prompts[start : start + batch]]
            texts = [
                tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
                for turn in turns
            ]
            inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(
                model.device
            )
            inputs.pop("token_type_ids", None)
            with torch.inference_mode():
                # (prompts, prompt tokens + new tokens)
                tokens = model.generate(
                    **inputs,
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    repetition_penalty=repetition_penalty,
                )
            new = tokens[:, inputs["input_ids"].shape[1] :]
            replies += [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]
    finally:
        tokenizer.padding_side = side
    return replies
