"""What is known of checkpoints before a job: which ones lie at hand, and the facts of one.

Everything here is plain data. Functions that read files are for a worker thread; those that need the engine import it
when they are called.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlparse

from app.paths import expanded
from app.words import count, size

if TYPE_CHECKING:
    from core.checkpoint import Checkpoint

Group = Literal["Recent", "Hub cache", "Demo"]
Place = Literal["folder", "hub", "demo"]

PLACES: dict[Place, tuple[str, str]] = {"folder": ("folder", "Folder"), "hub": ("cube", "Hub cache"), "demo": ("deltas", "Demo")}
"""Icon and word for where a checkpoint lies."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
_TEMPLATES = (("<|start_header_id|>", "Llama 3"), ("<|im_start|>", "ChatML"), ("<start_of_turn>", "Gemma"), ("[INST]", "Mistral"),
              ("<|assistant|>", "Zephyr, Phi"), ("<\uff5cAssistant\uff5c>", "DeepSeek"), ("### ", "Alpaca"))
"""Marks of chat templates that people know by name."""
_READ_AT_MOST = 64 << 20
"""Bytes of a tokenizer file: larger ones are not looked into."""


@dataclass(frozen=True)
class Choice:
    """A checkpoint that can be picked. `bytes` are its weight files', None where they could not be counted."""

    source: str
    name: str
    group: Group
    bytes: int | None
    note: str = ""


@dataclass(frozen=True)
class CheckpointFacts:
    """A checkpoint at a glance, read from its headers and small files."""

    source: str
    """As a job keeps it: an absolute folder, or a hub id."""
    folder: str
    name: str
    place: Place
    architecture: str
    model_type: str
    blocks: int | None
    width: int | None
    parameters: int
    dtypes: tuple[str, ...]
    bytes: int
    files: int
    tensors: int
    vocabulary: int | None
    """Tokens that the tokenizer knows; those of the config where there is no tokenizer."""
    has_tokenizer: bool
    tokenizer: str
    """Hash of the tokenizer's vocabulary and merges; empty without one."""
    template: str
    """What the chat template is called, or `own`; empty without one."""
    template_digest: str
    max_positions: int | None

    def lines(self) -> tuple[tuple[str, str], ...]:
        """Names and values, as a card shows them."""
        shape = [_plain(self.architecture)]
        if self.blocks:
            shape.append(count(self.blocks, "block"))
        if self.width:
            shape.append(f"{self.width:,} wide")
        known = f"{self.vocabulary:,} tokens" if self.vocabulary else "size not given"
        return (("Architecture", ", ".join(shape)),
                ("Parameters", f"{big_count(self.parameters)}, {' and '.join(_DTYPES.get(d, d) for d in self.dtypes)}"),
                ("On disk", f"{size(self.bytes)} in {count(self.files, 'file')}"),
                ("Tokenizer", known if self.has_tokenizer else "none in the folder"),
                ("Chat template", self.template or "none"))


def _plain(architecture: str) -> str:
    """`Llama` of `LlamaForCausalLM`."""
    return re.sub(r"(For[A-Z]\w+|LMHeadModel|Model)$", "", architecture) or architecture


def big_count(number: int) -> str:
    """`8.03 billion`, `134.5 million`, `920,000`."""
    if number >= 1e9:
        return f"{number / 1e9:,.2f} billion"
    return f"{number / 1e6:,.1f} million" if number >= 1e6 else f"{number:,}"


def is_hub_id(text: str) -> bool:
    """Whether a text looks like `org/name` or `org/name@revision`."""
    return _HUB_ID.fullmatch(text) is not None


def cleaned(text: str) -> str:
    """What a pasted or dropped text means: quotes and spaces off, `file://` and hub addresses turned into paths and ids."""
    text = text.strip().strip("'\"").strip()
    if text.startswith("file:"):
        path = unquote(urlparse(text).path)
        return path[1:] if os.name == "nt" and path.startswith("/") else path
    if match := re.fullmatch(r"https?://(?:www\.)?huggingface\.co/([\w.-]+/[\w.-]+?)(?:/tree/([\w.-]+))?/?", text):
        revision = match[2]
        return match[1] + (f"@{revision}" if revision and revision != "main" else "")
    return text


def folder_of(path: Path) -> Path:
    """The checkpoint folder meant by a dropped path: a weight or config file stands for its folder."""
    return path.parent if path.is_file() else path


def source_of(text: str) -> str:
    """A source as a job keeps it: local folders by their full path, whatever the working folder is later."""
    path = expanded(text)
    return str(path.absolute()) if os.path.exists(path) or not is_hub_id(text) else text


def name_of(source: str) -> str:
    """What a checkpoint is called: the last part of its folder or id."""
    if is_hub_id(source) and not os.path.exists(source):
        return source.partition("@")[0].rpartition("/")[2]
    return Path(source).name or source


def shown_source(source: str) -> str:
    """A source as people write it: the home folder as `~`."""
    home = str(Path.home())
    return "~" + source[len(home):] if source == home or source.startswith(home + os.sep) else source


def shown_place(facts: CheckpointFacts) -> str:
    """Where a checkpoint lies, in a line: the models that ship with the program are `built in`."""
    from core.demo import tiny_trio

    inside = facts.place == "demo" and Path(facts.source).parent == tiny_trio().base.parent
    return "built in" if inside else shown_source(facts.source)


# ------------------------------------------------------------------------------------------------ what lies at hand
def weight_bytes(folder: Path) -> int | None:
    """Bytes of the safetensors files in a folder; None without any."""
    try:
        sizes = [p.stat().st_size for p in folder.iterdir() if p.suffix == ".safetensors" and p.is_file()]
    except OSError:
        return None
    return sum(sizes) if sizes else None


def list_choices(recent: Iterable[str], demo_folder: Path | None = None, cache: Path | None = None) -> tuple[Choice, ...]:
    """Checkpoints at hand: recent ones that still exist, models in the hub's cache, the demo models. For a worker thread."""
    cached = hub_choices(cache)
    by_source = {c.source: c for c in cached}
    found: list[Choice] = []
    for source in recent:
        path = expanded(source)
        if os.path.isdir(path):
            found.append(Choice(source, name_of(source), "Recent", weight_bytes(path), shown_source(source)))
        elif (known := by_source.get(source.partition("@")[0])) is not None:
            found.append(Choice(source, known.name, "Recent", known.bytes, source))
    return (*found, *cached, *demo_choices(demo_folder))


def hub_choices(cache: Path | None = None) -> tuple[Choice, ...]:
    """Models with safetensors weights and a config in the hub's cache, the last used first; none where there is no cache."""
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        scanned = scan_cache_dir(cache)
    except (CacheNotFound, OSError, ValueError):
        return ()
    found = []
    for repo in sorted(scanned.repos, key=lambda r: -r.last_accessed):
        if repo.repo_type != "model":
            continue
        whole = [r for r in repo.revisions if {"config.json"} <= {f.file_name for f in r.files}
                 and any(f.file_name.endswith(".safetensors") for f in r.files)]
        if whole:
            newest = max(whole, key=lambda r: ("main" in r.refs, r.last_modified))
            weights = sum(f.size_on_disk for f in newest.files if f.file_name.endswith(".safetensors"))
            source = repo.repo_id if "main" in newest.refs else f"{repo.repo_id}@{newest.commit_hash}"
            found.append(Choice(source, name_of(repo.repo_id), "Hub cache", weights, source))
    return tuple(found)


def demo_choices(folder: Path | None = None) -> tuple[Choice, ...]:
    """The embedded trio, and the real pair where it has been made."""
    from core.demo import tiny_trio

    trio = tiny_trio()
    found = [Choice(str(p), p.name, "Demo", weight_bytes(p), "built in") for p in (trio.base, trio.pirate, trio.json)]
    if (pair := real_pair(folder)) is not None:
        found += [Choice(str(p), p.name, "Demo", weight_bytes(p), shown_source(str(p))) for p in pair]
    return tuple(found)


def real_pair(folder: Path | None = None) -> tuple[Path, Path] | None:
    """Folders of the real demo pair (base, fine-tune) where both have been made; asks no network."""
    from core.demo import default_demo_folder

    folder = folder or default_demo_folder()
    pair = folder / "base", folder / "pirate"
    return pair if all((p / "config.json").is_file() and weight_bytes(p) for p in pair) else None


def likely_bases(choices: Iterable[Choice], tuned: CheckpointFacts, limit: int = 3) -> tuple[Choice, ...]:
    """Those of the choices whose config has the fine-tune's sizes: what else could be its base. For a worker thread."""
    wanted = _sizes(_json(Path(tuned.folder) / "config.json"))
    found: dict[str, Choice] = {}
    for choice in choices:
        folder = _local_folder(choice.source)
        if folder is None or folder == Path(tuned.folder) or choice.name == tuned.name or choice.source in found:
            continue
        config = _json(folder / "config.json")
        if config and _sizes(config) == wanted:
            found[choice.source] = choice
    return tuple(found.values())[:limit]


def _local_folder(source: str) -> Path | None:
    path = expanded(source)
    if os.path.isdir(path):
        return path
    from huggingface_hub import try_to_load_from_cache

    name, _, revision = source.partition("@")
    found = try_to_load_from_cache(name, "config.json", revision=revision or None) if is_hub_id(source) else None
    return Path(found).parent if isinstance(found, str) else None


def _sizes(config: Mapping[str, Any]) -> tuple[object, ...]:
    return tuple(config.get(k) for k in ("model_type", "hidden_size", "n_embd", "num_hidden_layers", "n_layer",
                                         "intermediate_size", "num_attention_heads", "num_key_value_heads"))


def _text(path: Path) -> str:
    """A small file's text; empty where there is none, or a pipe, a link out of the folder, or too much of it."""
    from core.checkpoint_files import inside

    try:
        if path.is_file() and path.stat().st_size <= _READ_AT_MOST and inside(path, path.parent):
            return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
    return ""


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_text(path) or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


# ------------------------------------------------------------------------------------------------ facts of one
def read_facts(source: str, *, offline: bool | None = None) -> CheckpointFacts:
    """Open a checkpoint and say what it is. For a worker thread: needs the engine, may download.

    Raises the errors of `core.checkpoint.open_checkpoint`.
    """
    from core.checkpoint import open_checkpoint

    source = source_of(cleaned(source))
    with open_checkpoint(source, offline=offline or None) as opened:
        return facts_of(opened, source)


def facts_of(opened: Checkpoint, source: str) -> CheckpointFacts:
    """The facts of an opened checkpoint."""
    found, folder = opened.describe(), opened.folder
    vocabulary, digest, template = _tokenizer(folder)
    positions = opened.config.get("max_position_embeddings") or opened.config.get("n_positions")
    return CheckpointFacts(
        source=source, folder=str(folder), name=name_of(source), place=_place(source), architecture=found.architecture,
        model_type=str(opened.config.get("model_type", "")), blocks=found.blocks, width=found.hidden_size,
        parameters=found.parameters, dtypes=found.dtypes, bytes=found.bytes_on_disk, files=found.files,
        tensors=len(opened.tensors), vocabulary=vocabulary or found.vocab_size, has_tokenizer=bool(digest), tokenizer=digest,
        template=_template_name(template) if template else "own" if found.has_chat_template else "",
        template_digest=hashlib.sha256(template.encode("utf-8", "replace")).hexdigest() if template else "",
        max_positions=positions if isinstance(positions, int) else None)


def _place(source: str) -> Place:
    from core.demo import default_demo_folder, tiny_trio

    path = Path(source)
    if not path.is_dir():
        return "hub"
    demo = (tiny_trio().base.parent, default_demo_folder())
    return "demo" if any(path.is_relative_to(d) for d in demo) else "folder"


def _tokenizer(folder: Path) -> tuple[int | None, str, str]:
    """Number of tokens, a hash of what they are, and the chat template."""
    number: int | None = None
    digest = ""
    content = _json(folder / "tokenizer.json")
    model = content.get("model")
    if isinstance(model, dict) and isinstance(model.get("vocab"), (dict, list)):
        added = content.get("added_tokens")
        names = {str(t["content"]) for t in added if isinstance(t, dict) and "content" in t} if isinstance(added, list) else set()
        vocabulary = model["vocab"]
        own = set(vocabulary) if isinstance(vocabulary, dict) else {str(v[0]) for v in vocabulary if isinstance(v, list) and v}
        number = len(own | names)
        told = json.dumps([model, sorted(names)], sort_keys=True)
        digest = hashlib.sha256(told.encode()).hexdigest()
    else:
        named = (folder / name for name in ("vocab.json", "vocab.txt", "tekken.json"))
        other = next((p for p in (*sorted(folder.glob("*.model")), *named) if p.is_file()), None)
        if other is not None and other.stat().st_size <= _READ_AT_MOST:
            digest = hashlib.sha256(other.read_bytes()).hexdigest()
    return number, digest, _chat_template(folder)


def _chat_template(folder: Path) -> str:
    if written := _text(folder / "chat_template.jinja"):
        return written
    for name in ("chat_template.json", "tokenizer_config.json"):
        found = _json(folder / name).get("chat_template")
        if isinstance(found, str):
            return found
        if isinstance(found, list) and found and isinstance(found[0], dict):
            return str(found[0].get("template", ""))
    return ""


def _template_name(template: str) -> str:
    return next((name for mark, name in _TEMPLATES if mark in template), "own")
