from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import datasets  # type: ignore[import-untyped]
import pyarrow  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import core.calibration
import core.calibration_sources
from core.calibration import (
    fingerprint,
    load_samples,
    load_tokenizer,
    render,
    resolve_default,
    shrink,
    split_samples,
)
from core.calibration_sources import (
    LONG,
    LOOKED_AT,
    CalibrationSource,
    Document,
    documents,
    hub_answers,
    hub_rows,
    parse_source,
    row_document,
)
from core.errors import CalibrationUnusable

MakeTokenizer = Callable[..., Any]


def write_texts(folder: Path, count: int, *, name: str = "texts.jsonl", length: int = 40) -> str:
    rows = [json.dumps({"text": f"document {i:04d} ".ljust(length, ".")}) for i in range(count)]
    (folder / name).write_text("\n".join(rows))
    return str(folder / name)


def read_all(source: str, seed: int = 0) -> list[Document]:
    return list(documents(parse_source(source), seed))


# --------------------------------------------------------------------------------------------------- sources
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("default", CalibrationSource("default", "embedded")),
        ("c4", CalibrationSource("c4", "hub", "allenai/c4", "en", "train")),
        ("hub:org/name", CalibrationSource("hub:org/name", "hub", "org/name", None, "train")),
        ("hub:org/name:part", CalibrationSource("hub:org/name:part", "hub", "org/name", "part", "train")),
        ("hub:org/name::test", CalibrationSource("hub:org/name::test", "hub", "org/name", None, "test")),
        ("hub:org/name:a:b", CalibrationSource("hub:org/name:a:b", "hub", "org/name", "a", "b")),
    ],
)
def test_sources_are_told_apart(text: str, expected: CalibrationSource) -> None:
    assert parse_source(text) == expected


def test_a_path_is_a_local_source(tmp_path: Path) -> None:
    assert parse_source(str(tmp_path)) == CalibrationSource(str(tmp_path), "local", str(tmp_path))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("hub:", "not a data set of the hub"),
        ("hub:a/b/c", "not a data set of the hub"),
        ("hub:org/name:a:b:c", "not a data set of the hub"),
        ("org/name", "does not exist.*write hub:org/name"),
        ("no such file.txt", "does not exist. Give one of: default, auto, c4"),
    ],
)
def test_sources_that_are_none(text: str, says: str) -> None:
    with pytest.raises(CalibrationUnusable, match=says):
        parse_source(text)


def test_text_files_hold_documents_between_separators(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(
        "\ufefffirst\nline two\n%%\n\n%%\nsecond 100 %% sure\n %% \nfirst\nline two\n"
    )
    assert sorted(map(str, read_all(str(tmp_path / "a.txt")))) == ["first\nline two", "second 100 %% sure"]


def test_long_texts_come_in_pieces_cut_at_lines(tmp_path: Path) -> None:
    lines = [f"line {i} of a book" for i in range(3 * LONG // 18)]
    (tmp_path / "book.txt").write_text("\n".join(lines))
    pieces = list(map(str, read_all(str(tmp_path))))
    assert len(pieces) > 2 and max(map(len, pieces)) <= LONG
    assert sorted(line for piece in pieces for line in piece.split("\n")) == sorted(lines)
    (tmp_path / "book.txt").write_text("x" * (LONG + 1))
    assert sorted(map(len, read_all(str(tmp_path)))) == [1, LONG]


def test_a_folder_gives_all_its_files(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_text("from text")
    (tmp_path / "deep" / "b.JSONL").write_text('{"text": "from lines"}\n\n{"content": "from content"}')
    (tmp_path / "c.json").write_text('[{"text": "from array one"},\n {"text": "from array two"}]')
    table = pyarrow.table({"text": ["from parquet", None, ""]})
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet")
    (tmp_path / "ignored.py").write_text("print('no')")
    found = read_all(str(tmp_path))
    assert sorted(map(str, found)) == [
        "from array one", "from array two", "from content", "from lines", "from parquet", "from text"
    ]  # fmt: skip


def test_order_depends_on_the_seed_only(tmp_path: Path) -> None:
    source = write_texts(tmp_path, 50)
    assert read_all(source, 1) == read_all(source, 1) != read_all(source, 2)
    assert sorted(map(str, read_all(source, 1))) == sorted(map(str, read_all(source, 2)))


def test_endless_files_are_read_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.calibration_sources, "READ_AT_MOST", 1000)
    assert len(read_all(write_texts(tmp_path, 500, length=100))) == 10
    (tmp_path / "one.txt").write_text("some words\n" * 10_000)
    assert 0 < sum(map(len, read_all(str(tmp_path / "one.txt")))) < 2500


USER, REPLY = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "aye"}
CHAT = [USER, REPLY]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"text": "plain"}, "plain"),
        ({"content": "plain", "text": " "}, "plain"),
        ({"messages": CHAT, "text": "rendered"}, CHAT),
        ({"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "aye"}]}, CHAT),
        ({"messages": [{"role": "user", "content": [{"text": "hi"}, {"type": "image"}]}]}, [USER]),
        ({"messages": [USER, {"role": "tool", "content": None}]}, [USER, {"role": "tool", "content": ""}]),
        ({"prompt": "hi", "response": "aye"}, CHAT),
        ({"prompt": "hi", "completion": "aye", "text": "x"}, CHAT),
        ({"prompt": [USER], "completion": [REPLY]}, CHAT),
        ({"prompt": "hi", "reply": "aye"}, CHAT),
        ({"instruction": "hi", "input": "", "output": "aye"}, CHAT),
        ({"instruction": "hi", "input": "you", "output": "aye"}, [{**USER, "content": "hi\n\nyou"}, REPLY]),
        ({"prompt": "hi"}, None),
        ({"prompt": "hi", "response": 5}, None),
        ({"messages": [], "text": "plain"}, "plain"),
        ({"messages": ["hi", "aye"]}, None),
        ({"messages": [{"content": "hi"}]}, None),
        ({"text": ["a"]}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_rows_become_documents(row: dict[str, Any], expected: Document | None) -> None:
    assert row_document(row) == expected


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"", "holds no text"),
        ("a.txt", b"\n%%\n  \n", "holds no text"),
        ("a.txt", b"caf\xe9", "not text in UTF-8"),
        ("a.jsonl", b"", "holds no text"),
        ("a.jsonl", b'{"text": "fine"}\n{"text": ', "Line 2 of .*a.jsonl is not valid JSON"),
        ("a.json", b'[{"text": "fine"},\n', "not valid JSON"),
        ("a.jsonl", b"\xff\xfe", "not text in UTF-8"),
        (
            "a.jsonl",
            b'{"body": "x", "id": 3}',
            "no column with text; it has body, id.*text, content, messages",
        ),
        ("a.parquet", b"PAR1 no", "not a readable Parquet file"),
        ("a.csv", b"text\nhello", "a.csv is no calibration text"),
    ],
)
def test_unusable_files(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CalibrationUnusable, match=says):
        read_all(str(tmp_path / name))


def test_a_folder_without_text(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(b"")
    with pytest.raises(CalibrationUnusable, match="holds no calibration text"):
        read_all(str(tmp_path))


def test_a_parquet_file_without_text_names_its_columns(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"label": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(CalibrationUnusable, match="it has label"):
        read_all(str(tmp_path / "a.parquet"))


def test_the_embedded_text_suffices_for_a_usual_job(tokenizer: Any) -> None:
    # a token is a byte here; 1,024 of them are some 256 tokens of a usual tokeniser
    counts = {"fit": 40, "fit_held_out": 10, "tune": 140, "tune_held_out": 10}
    samples = split_samples("default", tokenizer, counts=counts, sequence_length=1024, seed=0)
    assert samples.got == counts and not samples.is_short and samples.source == "default"


# ------------------------------------------------------------------------------------------------ the hub
def fake_hub(monkeypatch: pytest.MonkeyPatch, rows: Callable[..., Iterator[dict[str, Any]]]) -> None:
    """A hub that answers, with these rows for any data set."""
    monkeypatch.setattr(core.calibration_sources, "is_offline", lambda offline: bool(offline))
    monkeypatch.setattr(core.calibration, "is_offline", lambda offline: bool(offline))
    monkeypatch.setattr(core.calibration_sources, "hub_answers", lambda name: True)
    monkeypatch.setattr(core.calibration, "hub_answers", lambda name: True)
    monkeypatch.setattr(core.calibration_sources, "hub_rows", rows)


def test_hub_rows_are_streamed_and_shuffled_by_seed(tmp_path: Path) -> None:
    write_texts(tmp_path, 60, name="train.jsonl")
    first = [row["text"] for row in hub_rows(str(tmp_path), None, "train", 1)]
    assert first == [row["text"] for row in hub_rows(str(tmp_path), None, "train", 1)]
    assert first != [row["text"] for row in hub_rows(str(tmp_path), None, "train", 2)]
    assert len(set(first)) == 60


def test_hub_rows_of_a_missing_split(tmp_path: Path) -> None:
    write_texts(tmp_path, 3, name="train.jsonl")
    with pytest.raises(CalibrationUnusable, match=r"could not be read.*split"):
        list(hub_rows(str(tmp_path), None, "no_such_split", 1))


def test_hub_sources_pass_name_config_and_split(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    asked: list[tuple[Any, ...]] = []

    def rows(*arguments: Any) -> Iterator[dict[str, Any]]:
        asked.append(arguments)
        return iter([{"text": f"row {i} with some words"} for i in range(100)])

    fake_hub(monkeypatch, rows)
    assert load_samples("hub:org/n:c:s", tokenizer, count=3, sequence_length=16, seed=7).shape == (3, 16)
    assert load_samples("c4", tokenizer, count=3, sequence_length=16, seed=7).shape == (3, 16)
    assert asked == [("org/n", "c", "s", 7), ("allenai/c4", "en", "train", 7)]


def test_hub_rows_are_read_only_as_far_as_needed(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    taken: list[int] = []

    def rows(*_: Any) -> Iterator[dict[str, Any]]:
        for i in range(10**9):
            taken.append(i)
            yield {"text": f"row {i} with some words"}

    fake_hub(monkeypatch, rows)
    load_samples("c4", tokenizer, count=10, sequence_length=16, seed=0)
    assert len(taken) < 200


def test_a_hub_data_set_without_text_is_given_up(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    taken: list[int] = []

    def rows(*_: Any) -> Iterator[dict[str, Any]]:
        for i in range(10**9):
            taken.append(i)
            yield {"image": i, "label": i}

    fake_hub(monkeypatch, rows)
    with pytest.raises(CalibrationUnusable, match="hub:org/n has no column with text; it has image, label"):
        load_samples("hub:org/n", tokenizer, count=10, sequence_length=16, seed=0)
    assert len(taken) == LOOKED_AT


def test_offline_the_network_is_never_tried(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    monkeypatch.setattr(core.calibration_sources, "get_session", None)
    monkeypatch.setattr(core.calibration_sources, "hub_answers", None)
    monkeypatch.setattr(core.calibration, "hub_answers", None)
    monkeypatch.setattr(datasets, "load_dataset", None)
    for source in ("c4", "hub:org/name"):
        with pytest.raises(CalibrationUnusable, match=r"Offline mode is on. Use the embedded text"):
            load_samples(source, tokenizer, count=2, sequence_length=16, seed=0)
    assert resolve_default() == "default"
    samples = split_samples("auto", tokenizer, counts={"fit": 2}, sequence_length=16, seed=0)
    assert samples.source == "default"


def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    fake_hub(monkeypatch, lambda *_: iter([]))
    monkeypatch.setattr(core.calibration_sources, "hub_answers", lambda name: False)
    with pytest.raises(CalibrationUnusable, match="did not answer within a few seconds"):
        load_samples("c4", tokenizer, count=2, sequence_length=16, seed=0)
    monkeypatch.setattr(core.calibration, "hub_answers", lambda name: False)
    assert resolve_default(offline=False) == "default"


class Session:
    """A web session that gives one answer, raises one error, or never answers."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[str] = []

    def get(self, url: str, timeout: float) -> Any:
        self.asked.append(url)
        if isinstance(self.answer, Exception):
            raise self.answer
        self.status_code = self.answer
        return self


@pytest.mark.parametrize(
    ("answer", "expected"), [(200, True), (404, True), (503, False), (OSError("no route"), False)]
)
def test_whether_the_hub_answers(monkeypatch: pytest.MonkeyPatch, answer: Any, expected: bool) -> None:
    session = Session(answer)
    monkeypatch.setattr(core.calibration_sources, "get_session", lambda: session)
    assert hub_answers("org/name") is expected
    assert session.asked[0].endswith("/api/datasets/org/name")


def test_a_stuck_look_up_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    release = Event()

    def stuck() -> Session:
        release.wait(30)
        return Session(200)

    monkeypatch.setattr(core.calibration_sources, "get_session", stuck)
    assert hub_answers("org/name", timeout=0.05) is False
    release.set()


def test_auto_takes_c4_while_it_can_be_read(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    fake_hub(monkeypatch, lambda *_: iter([{"text": f"web page {i}"} for i in range(99)]))
    assert resolve_default() == "c4" and resolve_default(offline=True) == "default"
    counts = {"fit": 2}
    samples = split_samples("auto", tokenizer, counts=counts, sequence_length=16, seed=0)
    assert samples.source == "c4" and "web page" in tokenizer.decode(samples.parts["fit"][0])

    def broken(*_: Any) -> Iterator[dict[str, Any]]:
        raise CalibrationUnusable("The data set allenai/c4 could not be read.")

    fake_hub(monkeypatch, broken)
    assert split_samples("auto", tokenizer, counts=counts, sequence_length=16, seed=0).source == "default"
    with pytest.raises(CalibrationUnusable, match="could not be read"):
        split_samples("c4", tokenizer, counts=counts, sequence_length=16, seed=0)


# ------------------------------------------------------------------------------------------------- sequences
def test_sequences_are_documents_joined_by_the_end_token(tmp_path: Path, tokenizer: Any) -> None:
    source = write_texts(tmp_path, 8, length=20)
    tokens = load_samples(source, tokenizer, count=12, sequence_length=14, seed=3)
    assert tokens.shape == (12, 14) and tokens.dtype == torch.int64
    texts = tokenizer.decode(tokens.flatten()).split("<|end|>")
    assert texts[-1] == "" and sorted(texts[:-1]) == sorted(map(str, read_all(source)))
    assert texts[:-1] == read_all(source, 3)


def test_same_seed_same_tokens(tmp_path: Path, tokenizer: Any) -> None:
    source = write_texts(tmp_path, 50)

    def samples(seed: int) -> str:
        return fingerprint(load_samples(source, tokenizer, count=5, sequence_length=32, seed=seed))

    assert samples(1) == samples(1) != samples(2)


def test_skip_passes_over_sequences(tmp_path: Path, tokenizer: Any) -> None:
    source = write_texts(tmp_path, 50)
    whole = load_samples(source, tokenizer, count=9, sequence_length=32, seed=0)
    rest = load_samples(source, tokenizer, count=5, sequence_length=32, seed=0, skip=4)
    assert torch.equal(rest, whole[4:])


def test_every_sequence_begins_as_the_tokenizer_begins_a_text(
    tmp_path: Path, make_tokenizer: MakeTokenizer, tokenizer: Any
) -> None:
    source = write_texts(tmp_path, 50)
    tokens = load_samples(source, make_tokenizer(begins=True), count=5, sequence_length=33, seed=0)
    plain = load_samples(source, tokenizer, count=5, sequence_length=32, seed=0)
    assert tokens[:, 0].tolist() == [0] * 5 and torch.equal(tokens[:, 1:], plain)


def test_chats_take_the_template_and_no_second_end(tmp_path: Path, make_tokenizer: MakeTokenizer) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": CHAT}))
    tokenizer = make_tokenizer(chats=True)
    expected = "<user>hi<|end|>\n<assistant>aye<|end|>\n"
    length = len(tokenizer(expected)["input_ids"])
    tokens = load_samples(str(tmp_path), tokenizer, count=1, sequence_length=length, seed=0)
    assert tokenizer.decode(tokens[0]) == expected
    with pytest.raises(CalibrationUnusable, match="gives 0 sequences"):
        load_samples(str(tmp_path), tokenizer, count=1, sequence_length=length + 1, seed=0)


def test_chats_without_a_template_are_lines(make_tokenizer: MakeTokenizer, tokenizer: Any) -> None:
    assert render(CHAT, tokenizer) == "user: hi\nassistant: aye"
    refused = [{"role": "system", "content": "be kind"}, USER]
    assert render(refused, make_tokenizer(chats=True)) == "system: be kind\nuser: hi"


def test_a_template_that_begins_by_itself_gives_no_second_begin(
    tmp_path: Path, make_tokenizer: MakeTokenizer
) -> None:
    tokenizer = make_tokenizer(begins=True)
    tokenizer.chat_template = "<|begin|>{{ messages[0].content }}<|end|>"
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": "abc"}]}))
    tokens = load_samples(str(tmp_path), tokenizer, count=1, sequence_length=5, seed=0)
    assert tokenizer.decode(tokens[0]) == "<|begin|>abc<|end|>"


def test_too_short_a_source(tmp_path: Path, tokenizer: Any) -> None:
    source = write_texts(tmp_path, 4)
    with pytest.raises(CalibrationUnusable, match="gives 5 sequences of 32 tokens, but 90 are needed"):
        load_samples(source, tokenizer, count=90, sequence_length=32, seed=0)


def test_without_a_tokenizer_there_are_no_samples(tmp_path: Path) -> None:
    with pytest.raises(CalibrationUnusable, match=r"no tokeniser.*Copy tokenizer.json"):
        load_samples(write_texts(tmp_path, 4), None, count=2, sequence_length=32, seed=0)
    with pytest.raises(CalibrationUnusable, match="no tokeniser"):
        split_samples("auto", None, counts={"fit": 2}, sequence_length=32, seed=0)


# ----------------------------------------------------------------------------------------------------- parts
def test_parts_share_no_text(tmp_path: Path, tokenizer: Any) -> None:
    source = write_texts(tmp_path, 200, length=31)  # with its end token, one document is one sequence
    counts = {"fit": 40, "fit_held_out": 10, "none": 0, "tune": 100, "tune_held_out": 10}
    samples = split_samples(source, tokenizer, counts=counts, sequence_length=32, seed=0)
    assert samples.got == counts == samples.requested and not samples.is_short
    rows = [tuple(row) for tokens in samples.parts.values() for row in tokens.tolist()]
    assert len(set(rows)) == len(rows) == 160
    assert samples.parts["none"].shape == (0, 32)
    whole = load_samples(source, tokenizer, count=160, sequence_length=32, seed=0)
    assert torch.equal(torch.cat(list(samples.parts.values())), whole)


def test_a_short_source_shrinks_every_part(tmp_path: Path, tokenizer: Any) -> None:
    source = write_texts(tmp_path, 50, length=31)
    counts = {"fit": 40, "fit_held_out": 10, "tune": 140, "tune_held_out": 10}
    samples = split_samples(source, tokenizer, counts=counts, sequence_length=32, seed=0)
    assert samples.is_short and samples.requested == counts
    assert sum(samples.got.values()) == 50
    assert samples.got == {"fit": 10, "fit_held_out": 4, "tune": 32, "tune_held_out": 4}


def test_a_source_too_short_for_two_of_each(tmp_path: Path, tokenizer: Any) -> None:
    source = write_texts(tmp_path, 7, length=31)
    counts = {"fit": 40, "fit_held_out": 10, "tune": 140, "tune_held_out": 10}
    with pytest.raises(CalibrationUnusable, match="gives 7 sequences of 32 tokens, but 8 are needed"):
        split_samples(source, tokenizer, counts=counts, sequence_length=32, seed=0)


@given(st.dictionaries(st.text(max_size=2), st.integers(0, 300), max_size=6), st.integers(0, 900))
def test_shrunken_counts_use_all_there_is(counts: dict[str, int], available: int) -> None:
    sizes = shrink(counts, available)
    least = {name: min(count, 2) for name, count in counts.items()}
    if sizes is None:
        assert available < sum(least.values())
    else:
        assert list(sizes) == list(counts)
        assert sum(sizes.values()) == min(available, sum(counts.values()))
        assert all(least[name] <= sizes[name] <= counts[name] for name in counts)


def test_fingerprint_sees_every_token() -> None:
    tokens = torch.arange(12).reshape(3, 4)
    changed = tokens.clone()
    changed[2, 3] += 1
    assert fingerprint(tokens) == fingerprint(tokens.T.contiguous().T) != fingerprint(changed)
    assert fingerprint(torch.tensor([[1, 2]])) == hashlib.sha256(struct.pack("<2q", 1, 2)).hexdigest()


# ------------------------------------------------------------------------------------------------- tokenizers
def test_a_tokenizer_is_loaded_from_its_folder(tmp_path: Path, make_tokenizer: MakeTokenizer) -> None:
    make_tokenizer(chats=True).save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded is not None
    assert loaded("héllo")["input_ids"] == make_tokenizer()("héllo")["input_ids"]
    assert render([USER], loaded) == "<user>hi<|end|>\n"


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert load_tokenizer(tmp_path) is None


def test_a_broken_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CalibrationUnusable, match=r"tokeniser in .* can't be loaded"):
        load_tokenizer(tmp_path)
