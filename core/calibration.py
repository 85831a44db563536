"""Text in, token batches out.

Documents are tokenised in a shuffled order, joined with the end-of-text token between them, and the stream is
cut into sequences of one length. So sequences never share a token of text, and parts made of different
sequences (to fit on, to tune on, held out) are disjoint. The same source, tokeniser, seed and length give the
same tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from core.calibration_sources import Document, documents, hub_answers, parse_source
from core.chat_template import render_chat
from core.checkpoint_files import sidecar_files
from core.checkpoint_source import is_offline
from core.errors import CalibrationUnusable
from core.tokenizer_files import make_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FEWEST = 2  # sequences of each part, below which nothing can be learnt or judged
_AT_ONCE = 64  # documents given to the tokeniser together
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "tekken.json")


@dataclass(frozen=True)
class SampleParts:
    """Disjoint parts of one source's text. `parts[name]` is int64 (sequences, sequence_length)."""

    parts: Mapping[str, torch.Tensor]
    requested: Mapping[str, int]  # sequences asked for; fewer came where the source is short
    source: str  # the one used: what "auto" stood for

    @property
    def got(self) -> dict[str, int]:
        return {name: len(tokens) for name, tokens in self.parts.items()}

    @property
    def is_short(self) -> bool:
        """Whether the source had too little text for what was asked."""
        return any(len(self.parts[name]) < count for name, count in self.requested.items())


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    """The tokeniser in a checkpoint's folder, None if the folder holds none. No network, no remote code.

    Raises:
        CalibrationUnusable: there are tokeniser files, but transformers can't make a tokeniser of them.
    """
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES) and not any(folder.glob("*.model")):
        return None
    try:
        tokenizer: PreTrainedTokenizerBase = make_tokenizer(sidecar_files(folder))
    except ValueError as error:
        raise CalibrationUnusable(
            f"The tokeniser in {folder} can't be loaded.",
            f"{error}.",
            "Copy the tokeniser's files again from where the model came from.",
        ) from error
    return tokenizer


def resolve_default(*, offline: bool | None = None) -> str:
    """What "auto" stands for now: "c4" if the hub answers within a few seconds, else "default"."""
    return "c4" if not is_offline(offline) and hub_answers("allenai/c4") else "default"


def load_samples(
    source: str,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    count: int,
    sequence_length: int,
    seed: int,
    skip: int = 0,
    offline: bool | None = None,
) -> torch.Tensor:
    """`count` sequences of a source, after the first `skip`: int64 (count, sequence_length).

    Raises:
        CalibrationUnusable: the source can't be read or has too little text, or there is no tokeniser.
    """
    source = resolve_default(offline=offline) if source == "auto" else source
    cut = _sequences(source, tokenizer, skip + count, sequence_length, seed, offline)
    if len(cut) < skip + count:
        raise _too_short(source, len(cut), skip + count, sequence_length)
    return cut[skip:].clone()


def split_samples(
    source: str,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    counts: Mapping[str, int],
    sequence_length: int,
    seed: int,
    offline: bool | None = None,
) -> SampleParts:
    """Disjoint parts of a source, `counts[name]` sequences each, fewer in proportion where the text is short.

    With "auto", C4 that answers but then can't be read gives way to the embedded text.

    Raises:
        CalibrationUnusable: the source can't be read, there is no tokeniser, or the text is too short for
            even two sequences of each part.
    """
    used = resolve_default(offline=offline) if source == "auto" else source
    total = sum(counts.values())
    try:
        cut = _sequences(used, tokenizer, total, sequence_length, seed, offline)
    except CalibrationUnusable:
        if source != "auto" or used == "default" or tokenizer is None:
            raise
        used = "default"
        cut = _sequences(used, tokenizer, total, sequence_length, seed, offline)
    sizes = shrink(counts, len(cut))
    if sizes is None:
        fewest = sum(min(count, FEWEST) for count in counts.values())
        raise _too_short(used, len(cut), fewest, sequence_length)
    parts = torch.split(cut, list(sizes.values()))
    return SampleParts(
        {name: part.clone() for name, part in zip(sizes, parts, strict=True)}, dict(counts), used
    )


def shrink(counts: Mapping[str, int], available: int) -> dict[str, int] | None:
    """The counts, made smaller in proportion until `available` suffices.

    Each stays at least 2 (or what was asked, if that is less). None if not even that is available.
    """
    total = sum(counts.values())
    if available >= total:
        return dict(counts)
    sizes = {name: min(count, FEWEST) for name, count in counts.items()}
    spare = available - sum(sizes.values())
    if spare < 0:
        return None
    wanted = {name: counts[name] - sizes[name] for name in counts}
    shares = {name: divmod(spare * want, sum(wanted.values())) for name, want in wanted.items()}
    for name, (whole, _) in shares.items():
        sizes[name] += whole
    left = available - sum(sizes.values())  # fewer than there are parts: one more for the largest fractions
    for name in sorted(shares, key=lambda name: -shares[name][1])[:left]:
        sizes[name] += 1
    return sizes


def fingerprint(tokens: torch.Tensor) -> str:
    """SHA-256 of a token tensor's values, row by row as little-endian int64, in hexadecimal."""
    return hashlib.sha256(tokens.cpu().contiguous().numpy().astype("<i8").tobytes()).hexdigest()


def render(document: Document, tokenizer: PreTrainedTokenizerBase) -> str:
    """A document as the model sees it: chats by the tokeniser's template, or as "role: content" lines.

    Lines too where the template refuses a chat, as many do with a system message or two turns by one side.
    """
    if isinstance(document, str):
        return document
    if tokenizer.chat_template:
        try:
            return render_chat(tokenizer, document)
        except ValueError:                             # it refuses this chat, or names no template for chats
            pass
    return "\n".join(f"{message['role']}: {message['content']}" for message in document)


def _sequences(
    source: str,
    tokenizer: PreTrainedTokenizerBase | None,
    count: int,
    length: int,
    seed: int,
    offline: bool | None,
) -> torch.Tensor:
    """As many of `count` sequences as the source has text for: int64 (at most count, length)."""
    if tokenizer is None:
        raise CalibrationUnusable(
            "The checkpoint has no tokeniser, so text can't be turned into tokens.",
            "Fitting and measuring run the model on text.",
            "Copy tokenizer.json and tokenizer_config.json from the model's origin into its folder.",
        )
    if count < 0 or length < 2:
        raise ValueError(f"{count} sequences of {length} tokens can't be cut")
    start = _start(tokenizer)
    step = length - len(start)
    stream: list[int] = []
    for ids in _tokenised(documents(parse_source(source), seed, offline=offline), tokenizer, start):
        stream += ids
        if len(stream) >= count * step:
            break
    have = min(count, len(stream) // step)
    cut = torch.tensor(stream[: have * step], dtype=torch.int64).reshape(have, step)
    return torch.cat([torch.tensor(start, dtype=torch.int64).expand(have, -1), cut], dim=1)  # (have, length)


def _start(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The begin-of-text token, if this tokeniser puts one in front by itself.

    Such a model's first position takes an outsized part in attention and goes astray without it, so every
    sequence begins with it, also one that is cut from the middle of a document.
    """
    ids = tokenizer("a")["input_ids"]
    begin = tokenizer.bos_token_id
    return [begin] if begin is not None and len(ids) > 1 and ids[0] == begin else []


def _tokenised(
    found: Iterable[Document], tokenizer: PreTrainedTokenizerBase, start: list[int]
) -> Iterator[list[int]]:
    """Each document's tokens with the end-of-text token behind, without the one in front."""
    end = tokenizer.eos_token_id
    left = iter(found)
    while texts := [render(document, tokenizer) for document in islice(left, _AT_ONCE)]:
        for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]:
            ids = ids[len(start) :] if start and ids[:1] == start else ids
            # Chat templates close their last turn by themselves, some with a line end behind.
            yield ids if end is None or end in ids[-2:] else [*ids, end]


def _too_short(source: str, have: int, want: int, length: int) -> CalibrationUnusable:
    return CalibrationUnusable(
        f"The calibration source {source} gives {have} sequences of {length} tokens, but {want} are needed.",
        "",
        "Use a longer text, fewer samples or a shorter sequence length.",
    )
