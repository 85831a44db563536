"""Variants, switches and the deck in words."""

from __future__ import annotations

from app.chat.conversations import milliseconds
from app.chat.engine import Switch
from app.chat.session import ChatSession, Variant
from app.checkpoints import shown_source
from app.library.store import Library
from app.models.library import short_size
from app.words import count, size


def side_words(variant: Variant, library: Library) -> str:
    """`as published`, `per-axis, 13.9 MB`, `full fine-tune, 269 MB`; and where it only completes texts."""
    if variant.kind == "base":
        text = "as published"
    elif variant.kind == "full":
        text = f"full fine-tune, {short_size(variant.bytes)}"
    else:
        entry = library.entry(variant.path) if variant.path is not None else None
        method = entry.method.lower().replace("bitdelta", "BitDelta") if entry is not None and entry.method else "delta"
        text = f"{method}, {short_size(variant.bytes)}"
    return f"{text}, completes texts" if variant.mode == "completion" else text


def chip_tip(variant: Variant, library: Library) -> str:
    """Everything about a variant."""
    lines = [f"{'Base' if variant.kind == 'base' else variant.name}: {side_words(variant, library)}"]
    if variant.path is not None:
        lines.append(shown_source(str(variant.path)))
    lines.append("Click to let it answer in the selected column" + ("" if variant.kind == "base" else ", Delete takes it off"))
    return "\n".join(lines)


def switch_words(name: str, variant: Variant | None, switch: Switch) -> tuple[str, str, str]:
    """`pirate switched in 41 ms`, `211 tensors, base verified`, and, for little room, `41 ms`."""
    checked = ", base verified" if variant is not None and variant.kind == "delta" else ""
    what = f"{count(switch.tensors, 'tensor')}{checked}" if switch.tensors else f"nothing to rewrite{checked}"
    took = milliseconds(switch.seconds)
    return f"{name} switched in {took}", what, took


def deck_facts(session: ChatSession, columns: int) -> dict[str, str]:
    """What the drawer says of the deck."""
    facts = session.facts
    if facts is None:
        return {}
    rest = [v for v in session.variants if v.kind != "base"]
    nbytes = sum(v.bytes for v in rest if v.kind == "delta")
    words = f"{len(rest)} ready" + (f", {short_size(nbytes)}" if nbytes else "")
    many = ", side by side" if columns > 1 else ""
    where = f"over {facts.spread}" if facts.spread else "one copy"
    return {"Base": session.base_name, "In memory": f"{short_size(facts.weights)}, {where}",
            "Variants": words if rest else "none",
            "Applied": f"{facts.how}{many if facts.how == 'overlay' else ''}", "Process": f"{size(facts.process)} in all"}
