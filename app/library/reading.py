"""Delta folders read into entries. Everything that touches the engine is called on a worker thread.

A folder may come from anywhere, so nothing in it is trusted: what the engine refuses becomes an entry that says why.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.codings import coding_of, in_order, method_word
from app.library.entry import DeltaEntry, KindCount
from app.models.layers import AXIS_WORDS, LayerRow, codec_winner, row_of_record
from app.paths import expanded
from app.words import listed, one_line, printable
from core.errors import DeltadeckError

if TYPE_CHECKING:
    from core.artifact import Delta
    from core.record import TensorRecord

CONFIG = "delta_config.json"
CARD = "README.md"
_LONGEST_CARD = 100_000
_MOST_LINES = 2_000
"""Of a card: what lays it out takes time by the square of some of them, and the window waits."""
_SHA = re.compile(rb'"sha256": "([0-9a-f]{64})"\n}\n\Z')
_KINDS = ("q", "k", "v", "qkv", "o", "gate", "up", "gate_up", "down")
_SETTINGS = {"recipe": "Recipe", "axis": "Axis", "embeddings": "Embeddings", "objective": "Objective",
             "samples": "Samples to fit", "tune_samples": "Samples to tune", "budget": "Size asked for",
             "quality": "Recovery asked for"}
RECIPES = {"chosen": "Chosen signs", "exact": "Exact fit", "paper": "As in the paper", "bitdelta": "BitDelta",
           "planes": "Sign planes", "deltamix": "DeltaMix", "delta-come": "Delta-CoMe", "lowrank": "Low rank"}
UNIFORM = ("planes", "deltamix", "delta-come", "lowrank")
"""Recipes that give every matrix the same share of its bytes, by the method of that name."""
MIX = "Budgeted mix"
"""What a delta is called in lists whose size was shared out by what it is worth in each matrix."""
OBJECTIVES = {"kl": "KL to the fine-tune", "mse": "Squared logit error"}
_TUNED_AXES = {"auto": "Row or column, per layer", "row": "Row", "column": "Column", "both": "Row x column", "scalar": "Scalar"}


def delta_folders(root: Path) -> list[Path]:
    """Subfolders of a library that hold a delta, by name. Job folders and what is being written are left out.

    Raises `OSError` for a folder that is there and can't be read: it must not look empty.
    """
    try:
        found = list(root.iterdir())
    except (FileNotFoundError, NotADirectoryError):    # made with the first delta
        return []
    named = (p for p in found if not p.name.startswith(".") and not p.name.endswith((".job", ".partial")))
    return sorted(filter(_has_config, named), key=lambda p: p.name.lower())


def _has_config(folder: Path) -> bool:
    try:
        return (folder / CONFIG).is_file()
    except OSError:
        return False


def signature(folder: Path) -> str:
    """Changes when a file of the folder does: a hash of names, sizes and times. Empty where it can't be listed."""
    try:
        facts = sorted((p.name, s.st_size, s.st_mtime_ns) for p in folder.iterdir() for s in (p.stat(),))
    except OSError:
        return ""
    return sha256(repr(facts).encode()).hexdigest()


def method_label(recipe: str, axis: str, *, is_mix: bool = False) -> str:
    """What a recipe is called in lists: `Per-axis`, `Row x column`, `Paper`, `BitDelta`, `DeltaMix`; `Budgeted mix`."""
    if recipe in UNIFORM:
        return RECIPES[recipe]
    if is_mix:
        return MIX if recipe == "chosen" else f"{MIX}, {method_label(recipe, axis).lower()}"
    if recipe == "bitdelta" or (recipe == "exact" and axis == "scalar"):
        return "BitDelta"
    if recipe == "paper":
        return "Paper"
    if recipe == "chosen":
        return {"auto": "Chosen signs", "both": "Chosen, row x column"}.get(axis, f"Chosen, {axis}")
    return {"auto": "Per-axis", "row": "Row", "column": "Column", "both": "Row x column"}.get(
        axis, axis or RECIPES.get(recipe, recipe) or "Unknown")


def read_delta(folder: Path) -> DeltaEntry:
    """One folder as an entry, without what only this program remembers. Never raises for what the folder holds."""
    from core.artifact import open_delta

    bare = DeltaEntry(folder, folder.name, created=_created(folder), state="damaged")
    try:
        delta = open_delta(folder)
        return _entry(delta, bare)
    except DeltadeckError as e:
        return replace(bare, problem=printable(str(e)), sha256=stated_hash(folder), folder_bytes=_folder_bytes(folder))
    except Exception as e:                             # a folder from elsewhere must not end the listing of all others
        return replace(bare, problem=printable(f"The delta in '{folder}' can't be read ({type(e).__name__}: {e})."),
                       folder_bytes=_folder_bytes(folder))


def _entry(delta: Delta, bare: DeltaEntry) -> DeltaEntry:
    from app.tables import full_size

    config = delta.config
    full = sum(map(full_size, config.tensors))
    figures = {name: x for name in ("base", "fitted", "tuned", "variant")
               if (x := _number(config.fidelity.get(name))) is not None}
    objective = _word(config.fidelity.get("objective"))
    recipe, axis = _word(config.method.get("recipe")), _word(config.method.get("axis"))
    asked = asked_words(_word(config.method.get("budget")), _word(config.method.get("quality")))
    base_loss, loss = figures.get("base"), figures.get("variant")
    recovery = None if base_loss is None or loss is None else (1 - loss / base_loss if base_loss > 0 else 1.0)
    is_kl = objective == "kl"
    kinds, others = count_kinds(delta), other_winners(delta)
    return replace(
        bare, state="fine", base_name=one_line(config.base.name), fine_tuned=one_line(config.fine_tuned),
        architecture=one_line(config.base.architecture),
        method=method_label(recipe, axis, is_mix=bool(asked)), recipe=recipe, axis=axis, bytes=delta.weights_bytes,
        folder_bytes=_folder_bytes(delta.folder), full_bytes=full, ratio=full / max(1, delta.weights_bytes), recovery=recovery,
        kl=loss if is_kl else None, base_kl=base_loss if is_kl else None,
        kl_se=_number(config.fidelity.get("se")) if is_kl else None,
        objective=objective, tokens=int(_number(config.fidelity.get("tokens")) or 0), sha256=config.sha256,
        base_sha256=config.base.sha256, kinds=kinds, layers=sum(k.row + k.column + k.other for k in kinds),
        other_name=AXIS_WORDS.get(min(others), "Other") if len(others) == 1 else "Other",
        settings=settings_of(config.method, config.calibration, config.tool_version), fidelity=tuple(figures.items()),
        asked=asked, expected_kl=_number(config.fidelity.get("expected_kl")) if asked else None, mix=_mix(config.fidelity),
        warnings=tuple(map(one_line, config.warnings)))


def count_kinds(delta: Delta) -> tuple[KindCount, ...]:
    """Matrices in blocks by kind, in the order in which data meets them; a fused one counts by most of its slices."""
    counts: dict[str, Counter[str]] = {}
    stored: dict[str, Counter[str]] = {}
    for r in _in_blocks(delta):
        axis = _winner(r)
        counts.setdefault(r.kind, Counter())[axis if axis in ("row", "column") else "other"] += 1
        stored.setdefault(r.kind, Counter())[coding_of(r.codec, r.method, r.planes, r.note)] += 1
    order = sorted(counts, key=lambda k: (_KINDS.index(k) if k in _KINDS else len(_KINDS), k))
    return tuple(KindCount(one_line(k), counts[k]["row"], counts[k]["column"], counts[k]["other"],
                           tuple((key, stored[k][key]) for key in in_order(stored[k]))) for k in order)


def other_winners(delta: Delta) -> set[str]:
    """How the matrices in blocks are stored that have their scales neither by row nor by column: axes or names of codecs."""
    return {_winner(r) for r in _in_blocks(delta)} - {"row", "column"}


def asked_words(budget: str, quality: str) -> str:
    """A size or a fidelity that was asked for: `12x`, `900MB`, `recovery 0.98`; empty where none was."""
    return budget or (f"recovery {quality}" if quality else "")


def _mix(fidelity: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    """Which method how many matrices were given, most first."""
    found = fidelity.get("methods")
    if not isinstance(found, Mapping):
        return ()
    counts = [(method_word(_word(k)) if k != "left out" else "Left out", int(n)) for k, n in found.items() if _number(n)]
    return tuple(sorted(counts, key=lambda pair: -pair[1]))


def _in_blocks(delta: Delta) -> list[TensorRecord]:
    return [r for r in delta.config.tensors if r.block is not None and len(r.shape) == 2]


def _winner(record: TensorRecord) -> str:
    return codec_winner(record.codec, [s.axis for s in record.slices] if record.codec == "sign" else [], record.note)


def settings_of(method: Mapping[str, Any], calibration: Mapping[str, Any], version: str) -> tuple[tuple[str, str], ...]:
    """How a delta was made, as names and values for people."""
    words: dict[str, dict[str, str]] = {"recipe": RECIPES, "objective": OBJECTIVES, "axis": _TUNED_AXES}
    facts = [(_SETTINGS.get(k, _name(k)), words.get(k, {}).get(str(v), _value(v))) for k, v in method.items()]
    facts += [({"source": "Calibration text"}.get(k, _name(k)), _value(v)) for k, v in calibration.items()
              if k not in ("sha256", "samples")]
    return (*facts, ("Made by", f"Deltadeck {_value(version)}"))


def _name(key: str) -> str:
    return one_line(key).replace("_", " ").capitalize()[:60]


def _value(value: Any) -> str:
    return one_line(listed(value) if isinstance(value, Mapping) else str(value))[:200]


def _word(value: Any) -> str:
    return one_line(value)[:60] if isinstance(value, str) else ""


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def _created(folder: Path) -> datetime | None:
    try:
        return datetime.fromtimestamp((folder / CONFIG).stat().st_mtime)
    except (OSError, ValueError, OverflowError):
        return None


def _folder_bytes(folder: Path) -> int:
    try:
        return sum(p.stat().st_size for p in folder.iterdir() if p.is_file())
    except OSError:
        return 0


def stated_hash(folder: Path) -> str:
    """The hash that a config ends with, right or not: a note on a delta that was damaged later stays with it."""
    if not _is_own(folder / CONFIG):
        return ""
    try:
        with (folder / CONFIG).open("rb") as file:
            file.seek(max(0, (folder / CONFIG).stat().st_size - 100))
            found = _SHA.search(file.read(200))
    except OSError:
        return ""
    return found[1].decode() if found else ""


def read_rows(folder: Path) -> tuple[LayerRow, ...]:
    """Every tensor of a delta, in the order in which data meets them. Raises as `core.artifact.open_delta`."""
    import msgspec

    from app.tables import in_order, record_size
    from core.artifact import open_delta

    return tuple(_shown_row(row_of_record(msgspec.to_builtins(r), record_size(r)))
                 for r in in_order(open_delta(folder).config.tensors))


def _shown_row(row: LayerRow) -> LayerRow:
    """A row whose names can be shown: a font has no letters for control characters."""
    if all(w.isprintable() for w in (row.tensor, row.kind, row.codec, row.note, row.method, row.winner)):
        return row
    return replace(row, tensor=one_line(row.tensor), kind=one_line(row.kind), codec=one_line(row.codec), note=one_line(row.note),
                   method=one_line(row.method), winner=one_line(row.winner))


def _is_own(path: Path) -> bool:
    """Whether a plain file lies there, in its own folder: no pipe that would be waited for, no link to a file of the user's."""
    from core.checkpoint_files import inside

    try:
        return path.is_file() and inside(path, path.parent)
    except OSError:
        return False


def read_card(folder: Path) -> str:
    """The model card's text without its YAML head: 100,000 characters and 2,000 lines at most, empty where there is none."""
    if not _is_own(folder / CARD):
        return ""
    try:
        with (folder / CARD).open("rb") as file:
            text = file.read(_LONGEST_CARD).decode("utf-8", "replace")
    except OSError:
        return ""
    lines = text.splitlines()
    if lines[:1] == ["---"] and "---" in lines[1:]:
        lines = lines[lines.index("---", 1) + 1:]
    return printable("\n".join(lines[:_MOST_LINES])).strip()


# ------------------------------------------------------------------------------------------ where checkpoints are
def resolve(place: str) -> str:
    """The local folder of a place: itself, or the hub cache's snapshot of an id. Empty where it is not on this machine."""
    if not place:
        return ""
    folder = expanded(place)
    try:
        if (folder / "config.json").is_file():
            return str(folder)
        if folder.exists() or "/" not in place:
            return ""
        from core.checkpoint_source import locate

        return str(locate(place, offline=True))
    except (DeltadeckError, OSError, ValueError):
        return ""


def place_name(place: str) -> str:
    """What a checkpoint at a place is called in a delta: a folder's own name, else the hub id."""
    folder = expanded(place)
    return folder.resolve().name if os.path.isdir(folder) else place


def is_base(folder: Path, place: str) -> bool:
    """Whether a checkpoint has every tensor that the delta needs, in its shape and type. Values are not compared."""
    from core.artifact import check_base, open_delta
    from core.checkpoint import open_checkpoint

    try:
        with open_checkpoint(place) as base:
            check_base(open_delta(folder), base, hashes=False)
    except (DeltadeckError, OSError):
        return False
    return True


def is_fine_tune(folder: Path, place: str) -> bool:
    """Whether a checkpoint has the variant's tensors, in their shapes."""
    from core.artifact import open_delta
    from core.checkpoint import open_checkpoint

    try:
        records = open_delta(folder).config.tensors
        with open_checkpoint(place) as tuned:
            return all(r.name in tuned.tensors and tuple(tuned.tensors[r.name].shape) == tuple(r.shape) for r in records)
    except (DeltadeckError, OSError):
        return False
