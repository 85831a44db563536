"""Where calibration text comes from: embedded, local files, or a data set of the hub; documents come out.

A document is a text, or a chat as a list of {"role", "content"}. Nothing here runs code of a data set.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from importlib import resources
from importlib.resources.abc import Traversable
from itertools import chain
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Literal, TextIO, TypeAlias, cast

from huggingface_hub import constants, get_session

from core.checkpoint_source import is_offline
from core.errors import CalibrationUnusable

Document: TypeAlias = str | list[dict[str, str]]

KINDS = (
    "default, auto, c4, hub:org/name[:config][:split], or a .txt, .jsonl, .json or .parquet file or a folder"
)
SUFFIXES = (".txt", ".jsonl", ".json", ".parquet")
CHAT_FIELDS = ("messages", "conversations")
PROMPT_FIELDS = ("prompt", "instruction")
REPLY_FIELDS = ("response", "completion", "reply", "output")
TEXT_FIELDS = ("text", "content")
ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}  # ShareGPT's names
SEPARATOR = "%%"  # alone on a line between two documents of a .txt file
# A calibration needs some 100,000 tokens: of endless local files read the first part only, then shuffle that.
READ_AT_MOST = 64 * 2**20  # characters
LONG = 8_000  # characters; a longer document is cut at line ends, else one book would be all there is
SHUFFLED_ROWS = 1_000  # of a hub data set, which also shuffles its files
LONGEST_LINE = 4 * READ_AT_MOST  # characters of a line, or of a whole array, of JSON: beyond that it would fill the memory
LOOKED_AT = 1_000  # rows of a data set before giving up on finding text in it


@dataclass(frozen=True)
class CalibrationSource:
    """A source as parsed: `place` is a path, or a data set's name on the hub; empty for the embedded text."""

    text: str  # as the user gave it
    kind: Literal["embedded", "hub", "local"]
    place: str = ""
    config: str | None = None
    split: str = "train"


def parse_source(text: str) -> CalibrationSource:
    """Tell what kind of source a string names. "auto" has to be resolved before.

    Raises:
        CalibrationUnusable: it is neither a known word, nor a hub data set, nor a path that exists.
    """
    if text == "default":
        return CalibrationSource(text, "embedded")
    if text == "c4":
        return CalibrationSource(text, "hub", "allenai/c4", "en")
    if text.startswith("hub:"):
        name, *rest = text.removeprefix("hub:").split(":")
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or len(rest) > 2:
            raise CalibrationUnusable(
                f"{text} is not a data set of the hub.",
                "",
                "Write hub:org/name, hub:org/name:config or "
                "hub:org/name:config:split, with an empty config where there is none (hub:org/name::test).",
            )
        config, split = [*rest, "", ""][:2]
        return CalibrationSource(text, "hub", name, config or None, split or "train")
    try:
        path = Path(text).expanduser()
    except RuntimeError:  # `~name`, and the system knows nobody of that name
        path = Path(text)
    if not os.path.exists(path):
        looks = (
            f" For a data set of the hub write hub:{text}." if re.fullmatch(r"[\w.-]+/[\w.-]+", text) else ""
        )
        raise CalibrationUnusable(
            f"The calibration source {text[:500]} does not exist.", "", f"Give one of: {KINDS}.{looks}"
        )
    return CalibrationSource(text, "local", str(path))


def documents(source: CalibrationSource, seed: int, *, offline: bool | None = None) -> Iterator[Document]:
    """The source's documents, none empty, none twice, in an order that the seed decides.

    Raises:
        CalibrationUnusable: the source can't be read or reached, or has no text; the sentence says which.
    """
    if source.kind == "hub":
        if is_offline(offline) or not hub_answers(source.place):
            raise CalibrationUnusable(
                f"The data set {source.place} is on the hub, which can't be reached.",
                "Offline mode is on." if is_offline(offline) else "It did not answer within a few seconds.",
                "Use the embedded text (default) or a local file, or try again with a connection.",
            )
        found = _of_rows(hub_rows(source.place, source.config, source.split, seed), source.text)
        yield from _once(chain.from_iterable(map(_pieces, found)))
        return
    files: Iterable[Traversable] = (
        embedded_files() if source.kind == "embedded" else _local_files(source.place)
    )
    read = chain.from_iterable(_of_file(file) for file in files)
    pieces = list(_once(chain.from_iterable(map(_pieces, _first(read)))))
    if not pieces:
        raise CalibrationUnusable(
            f"The calibration source {source.text} holds no text.", "", f"Give one of: {KINDS}."
        )
    random.Random(seed).shuffle(pieces)
    yield from pieces


def embedded_files() -> list[Traversable]:
    """The calibration text that ships with the program."""
    folder = resources.files("resources") / "calibration"
    return sorted(
        (file for file in folder.iterdir() if file.name.endswith(SUFFIXES)), key=lambda file: file.name
    )


def hub_answers(dataset: str, *, timeout: float = 4.0) -> bool:
    """Whether the hub answers a question about a data set within `timeout` seconds.

    Asked from a thread of its own, since looking a host up can take far longer than any time-out allows for.
    """
    answers: SimpleQueue[bool] = SimpleQueue()

    def ask() -> None:
        try:
            reply = get_session().get(f"{constants.ENDPOINT}/api/datasets/{dataset}", timeout=timeout)
            answers.put(reply.status_code < 500)
        except Exception:  # whatever the network layers raise, the answer is no
            answers.put(False)

    Thread(target=ask, name="hub-probe", daemon=True).start()
    try:
        return answers.get(timeout=timeout)
    except Empty:
        return False


def hub_rows(name: str, config: str | None, split: str, seed: int) -> Iterator[dict[str, Any]]:
    """The rows of a data set (a name on the hub, or a folder), streamed and shuffled a buffer at a time."""
    import datasets  # type: ignore[import-untyped]  # takes a second or two, and local sources do without

    try:
        stream = datasets.load_dataset(name, config, split=split, streaming=True)
        yield from stream.shuffle(seed=seed, buffer_size=SHUFFLED_ROWS)
    except Exception as error:  # it raises what its many layers raise; for us all mean the same
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise CalibrationUnusable(
            f"The data set {name} could not be read.",
            f"{reason}.",
            "Check its name, config and split, or use the embedded text (default).",
        ) from error


def row_document(row: Mapping[str, Any]) -> Document | None:
    """The document in one row of a table, None where there is none.

    A chat comes first (`messages` or `conversations`), then a prompt with its reply, then a plain text.
    """
    for field in CHAT_FIELDS:
        if chat := _chat(row.get(field)):
            return chat
    prompt = next((row[field] for field in PROMPT_FIELDS if row.get(field)), None)
    reply = next((row[field] for field in REPLY_FIELDS if row.get(field)), None)
    if prompt and reply:
        extra = row.get("input")  # Alpaca's tables put what the instruction is about here
        if isinstance(prompt, str) and isinstance(extra, str) and extra.strip():
            prompt = f"{prompt}\n\n{extra}"
        asked, answered = _chat(prompt, "user"), _chat(reply, "assistant")
        if asked and answered:
            return asked + answered
    for field in TEXT_FIELDS:
        text = row.get(field)
        if isinstance(text, str) and text.strip():
            return text
    return None


def _chat(value: object, role: str = "") -> list[dict[str, str]]:
    """Messages in any of the usual spellings; with a role also a bare text. Empty when it is no chat."""
    if role and isinstance(value, str):
        return [{"role": role, "content": value}] if value.strip() else []
    if not isinstance(value, (list, tuple)):
        return []
    messages = []
    for item in value:
        if not isinstance(item, Mapping):
            return []
        who, content = item.get("role") or item.get("from"), item.get("content") or item.get("value")
        if isinstance(content, (list, tuple)):  # parts of a message that may hold pictures too
            content = "".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
        if not isinstance(who, str):
            return []
        messages.append({"role": ROLES.get(who, who), "content": content if isinstance(content, str) else ""})
    return messages if any(message["content"].strip() for message in messages) else []


def _of_rows(rows: Iterable[object], place: str) -> Iterator[Document]:
    """The documents of a table's rows. A table without any among its first rows is refused."""
    columns: list[str] = []
    found = False
    for number, row in enumerate(rows):
        if isinstance(row, Mapping):
            columns = columns or [str(column) for column in row]
            document = row_document(row)
        else:
            document = None
        if document is not None:
            found = True
            yield document
        elif not found and number + 1 >= LOOKED_AT:
            break
    if not found and columns:
        wanted = ", ".join((*TEXT_FIELDS, *CHAT_FIELDS))
        raise CalibrationUnusable(
            f"{place} has no column with text; it has {', '.join(column[:60] for column in columns[:20])}.",
            "",
            f"Rename the column to one of {wanted}, or give prompt and response.",
        )


def _local_files(place: str) -> list[Traversable]:
    path = Path(place)
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    usable = [file for file in files if file.suffix.lower() in SUFFIXES and file.is_file()]
    if not usable:
        what = f"The folder {path} holds no" if path.is_dir() else f"{path} is no"
        raise CalibrationUnusable(f"{what} calibration text.", "", f"Give one of: {KINDS}.")
    return list(usable)


def _of_file(file: Traversable) -> Iterator[Document]:
    try:
        if file.name.lower().endswith(".txt"):
            with file.open("r", encoding="utf-8-sig") as text:
                yield from _separated(_lines(cast(TextIO, text), READ_AT_MOST))
        elif file.name.lower().endswith(".parquet"):
            yield from _of_rows(_parquet_rows(file), str(file))
        else:
            yield from _of_rows(_json_rows(file), str(file))
    except UnicodeDecodeError as error:
        raise CalibrationUnusable(f"{file} is not text in UTF-8.", "", "Convert it to UTF-8.") from error
    except OSError as error:
        raise CalibrationUnusable(
            f"{file} can't be read: {error.strerror or error}.", "", "Check the file and its permissions."
        ) from error


def _lines(text: TextIO, longest: int) -> Iterator[str]:
    """Lines of a file; an endless one in parts of `longest` characters."""
    while line := text.readline(longest):
        yield line


def _separated(lines: Iterable[str]) -> Iterator[str]:
    """Documents of a text file: lines up to one that holds only the separator, or the end."""
    gathered: list[str] = []
    length = 0
    for line in lines:
        if line.strip() != SEPARATOR:
            gathered.append(line)
            length += len(line)
        if line.strip() == SEPARATOR or length > READ_AT_MOST:
            yield "".join(gathered)
            gathered, length = [], 0
    yield "".join(gathered)


def _json_rows(file: Traversable) -> Iterator[object]:
    """One JSON value a line; or one array with all of them, if the file begins as one."""
    with file.open("r", encoding="utf-8-sig") as lines:
        for number, line in enumerate(_lines(cast(TextIO, lines), LONGEST_LINE), 1):
            if not line.strip():
                continue
            is_array = number == 1 and line.lstrip().startswith("[")
            if is_array:
                line += lines.read(LONGEST_LINE)
            if len(line) >= LONGEST_LINE:
                raise CalibrationUnusable(
                    f"{'The array' if is_array else f'Line {number}'} of {file} has more than {LONGEST_LINE:,} characters.",
                    "",
                    "Write one JSON object on each line.",
                )
            try:
                if is_array:
                    yield from json.loads(line)
                    return
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                raise CalibrationUnusable(
                    f"Line {number} of {file} is not valid JSON.", "", "Write one JSON object on each line."
                ) from error


def _parquet_rows(file: Traversable) -> Iterator[object]:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        with file.open("rb") as data:
            table = pyarrow.parquet.ParquetFile(data)
            for batch in table.iter_batches(batch_size=256):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, ValueError, TypeError, KeyError, OverflowError, MemoryError) as error:
        raise CalibrationUnusable(f"{file} is not a readable Parquet file.", "", "Write it again.") from error


def _pieces(document: Document) -> Iterator[Document]:
    """A long text in pieces of at most LONG characters, cut after a line or else a space; chats whole."""
    if not isinstance(document, str):
        yield document
        return
    text = document.strip()
    while len(text) > LONG:
        end = text.rfind("\n", LONG // 2, LONG) + 1 or text.rfind(" ", LONG // 2, LONG) + 1 or LONG
        yield text[:end].strip()
        text = text[end:].strip()
    yield text


def _once(found: Iterable[Document]) -> Iterator[Document]:
    """Leave out what is empty or was there before: held-out text must not be among the rest as well."""
    seen: set[bytes] = set()
    for document in map(_clean, found):
        key = blake2b(json.dumps(document).encode(), digest_size=16).digest()
        if document and key not in seen:
            seen.add(key)
            yield document


def _clean(document: Document) -> Document:
    """Without halves of characters, which JSON can spell and no tokeniser takes."""
    if isinstance(document, str):
        return document.encode("utf-8", "replace").decode()
    return [{k: v.encode("utf-8", "replace").decode() for k, v in message.items()} for message in document]


def _first(found: Iterable[Document]) -> Iterator[Document]:
    """Documents up to READ_AT_MOST characters."""
    length = 0
    for document in found:
        length += (
            len(document) if isinstance(document, str) else sum(len(part["content"]) for part in document)
        )
        yield document
        if length >= READ_AT_MOST:
            return
