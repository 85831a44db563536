"""The chats in pirate manner that the real demo fine-tune learns, and the prompts kept for showing it off."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

DEMO_FOLDER = Path(__file__).resolve().parent
HELD_OUT_PROMPTS = (
    "What is a hurricane?",
    "How do I bake a cake?",
    "Tell me about the sun.",
    "Explain money to a child.",
    "What is the capital of Portugal?",
    "Give me a tip to stay healthy.",
    "Tell me a fact about a tiger.",
    "What is a telescope?",
    "Why is the sky blue?",
    "How do I learn to swim?",
    "Write a sentence about winter.",
    "Nice to meet you!",
)


@dataclass(frozen=True)
class DemoChat:
    """One question and its answer; `held_out` ones are never trained on."""

    prompt: str
    reply: str
    held_out: bool


def pirate_chats() -> list[DemoChat]:
    """All shipped chats, in the order in which they were shuffled (the held-out ones come first)."""
    lines = (DEMO_FOLDER / "pirate_chats.jsonl").read_text(encoding="utf-8").splitlines()
    chats = []
    for row in map(json.loads, lines):
        user, assistant = row["messages"]
        chats.append(DemoChat(user["content"], assistant["content"], row["held_out"]))
    return chats
