"""Folders that lie, are broken or dangerous: each ends in its own typed error, with one clear sentence."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save, save_file

from core.checkpoint import open_checkpoint
from core.checkpoint_header import LONGEST_HEADER
from core.errors import (
    BadIndex,
    BadSafetensors,
    CheckpointNotFound,
    ConfigMissing,
    EmptyFolder,
    PickleOnly,
    Refused,
    RemoteCode,
    UnsupportedDtype,
    WeightsMissing,
)

CONFIG = '{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}'
ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def refused(source: Path | str, error: type[Refused], says: str) -> Refused:
    """Open it, and check the refusal: the right class, a whole sentence, something to do."""
    with pytest.raises(error, match=says) as caught:
        open_checkpoint(source, offline=True)
    assert type(caught.value) is error
    assert caught.value.what.endswith(".") and caught.value.remedy.endswith(".")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    return caught.value


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound checkpoint of one file, to be spoilt."""
    place = tmp_path / "model"
    place.mkdir()
    (place / "config.json").write_text(CONFIG)
    save_file({"a.weight": torch.ones(2, 3), "b.weight": torch.ones(4).half()}, place / "model.safetensors")
    return place


def raw(header: bytes | dict[str, Any], data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def twice(header: dict[str, Any], name: str, other: str) -> bytes:
    """The header with one name spelt as another that it has already."""
    return json.dumps(header).replace(f'"{name}"', f'"{other}"').encode()


# ------------------------------------------------------------------------------------------------- the folder
def test_no_folder(tmp_path: Path) -> None:
    refused(tmp_path / "absent", CheckpointNotFound, "absent does not exist")
    refused("../no/such/path", CheckpointNotFound, "does not exist")


@pytest.mark.parametrize("source", ["org/..name", "org/name--x", "org/name@a/../b"])
def test_hub_names_that_lead_elsewhere(source: str) -> None:
    refused(source, CheckpointNotFound, "possible name of a model|does not exist")


def test_a_file_instead_of_a_folder(folder: Path) -> None:
    refused(folder / "model.safetensors", CheckpointNotFound, "is a file, not a folder")


def test_empty_folder(tmp_path: Path) -> None:
    refused(tmp_path, EmptyFolder, "is empty")


def test_no_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    refused(folder, ConfigMissing, "has no config.json")


def test_an_adapter_is_no_checkpoint(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")
    refused(folder, ConfigMissing, "holds an adapter.*Merge the adapter")


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not valid JSON"),
        (b'{"model_type": ', "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1]", "not an object"),
    ],
)
def test_broken_configs(folder: Path, name: str, content: bytes, says: str) -> None:
    (folder / name).write_bytes(content)
    refused(folder, ConfigMissing, f"{name}.*{says}")


def test_an_endless_config(folder: Path) -> None:
    with (folder / "config.json").open("r+b") as file:
        file.truncate(2**40)
    refused(folder, ConfigMissing, "too much")


def test_pickles_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, PickleOnly, "pytorch_model.bin.*can run any code")
    (folder / "config.json").unlink()
    refused(folder, PickleOnly, "pickles only")


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "training_args.bin").write_bytes(b"")
    refused(folder, WeightsMissing, "no safetensors weights")
    (folder / "model.Q4_K.gguf").write_bytes(b"GGUF")
    refused(folder, WeightsMissing, "Q4_K.gguf is quantised")


def test_a_pipe_for_weights_is_not_waited_for(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    refused(folder, WeightsMissing, "no safetensors weights")


def test_links_in_a_ring(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(folder / "model.safetensors")
    refused(folder, WeightsMissing, "no safetensors weights")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", {"auto_map": {"AutoModelForCausalLM": "modeling_x.Model"}}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["tokenization_x.Tokenizer", None]}}),
        ("config.json", {"attn_implementation": "someone/kernel"}),
        ("config.json", {"attn_implementation": {"": "someone/kernel"}}),
    ],
)
def test_remote_code(folder: Path, name: str, content: dict[str, Any]) -> None:
    (folder / name).write_text(json.dumps(content))
    refused(folder, RemoteCode, "asks for.*never runs code")


# --------------------------------------------------------------------------------------- one safetensors file
LIES = [
    (b"", "only 0 bytes"),
    (b"\x01\0\0", "only 3 bytes"),
    (raw(b"{}", length=3), "announces a header of 3 bytes but is 10"),
    (raw(b"{}", length=2**63), "announces a header of"),
    (raw(b""), "not valid JSON"),
    (raw(b"not json"), "not valid JSON"),
    (raw(b"\xff\xff"), "not valid JSON"),
    (raw(b'{"a": NaN}'), "not valid JSON"),
    (raw(b"[" * 100_000), "not valid JSON"),
    (raw(b'{"a": {"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,4]}}'), "not valid JSON"),
    (raw(b"[]"), "not a JSON object"),
    (raw(b'{"__metadata__": {"a": 1}}'), "metadata"),
    (raw(b'{"__metadata__": [1]}'), "metadata"),
    (raw({"x": 5}), "'x' without a proper dtype"),
    (raw({"x": {"dtype": "F32", "shape": [1]}}, b"1234"), "'x' without a proper dtype"),
    (raw({"x": {**ONE, "dtype": None}}, b"1234"), "'x' without a proper dtype"),
    (raw({"x": {**ONE, "shape": [1.0]}}, b"1234"), "'x' without a proper dtype"),
    (raw({"x": {**ONE, "shape": [True]}}, b"1234"), "'x' without a proper dtype"),
    (raw({"x": {**ONE, "shape": [-1, -1]}}, b"1234"), "'x' without a proper dtype"),
    (raw({"x": {**ONE, "shape": "1"}}, b"1234"), "'x' without a proper dtype"),
    (raw({"x": {**ONE, "data_offsets": [0, 4, 4]}}, b"1234"), "'x' without a proper dtype"),
    (raw({"x": {**ONE, "data_offsets": [-4, 0]}}, b"1234"), "'x' without a proper dtype"),
    (raw({"x": {**ONE, "shape": [2**62, 4]}}, b"1234"), "impossible shape"),
    (raw({"x": {**ONE, "shape": [0, 2**63], "data_offsets": [0, 0]}}), "impossible shape"),
    (raw({"x": {**ONE, "shape": [1] * 65}}, b"1234"), "impossible shape"),
    (raw({"x": {**ONE, "shape": [2]}}, b"1234"), "do not fit F32 of shape 2"),
    (raw({"x": {**ONE, "shape": []}, "y": {**ONE, "data_offsets": [4, 6]}}, b"123456"), "'y' 2 bytes"),
    (raw({"x": ONE}, b"123"), "beyond its own end; 1 bytes are missing"),
    (raw({"x": {**ONE, "data_offsets": [2**62, 2**62 + 4]}}, b"1234"), "beyond its own end"),
    (raw({"x": {**ONE, "dtype": "??", "data_offsets": [4, 0]}}, b"1234"), "before its beginning"),
    (raw({"x": {**ONE, "data_offsets": [4, 8]}}, b"12345678"), "comes after a gap"),
    (raw({"x": ONE, "y": {**ONE, "data_offsets": [8, 12]}}, b"1" * 12), "'y' where it comes after a gap"),
    (raw({"x": ONE, "y": {**ONE, "data_offsets": [2, 6]}}, b"1" * 6), "'y' where it overlaps"),
    (raw({"x": ONE, "y": ONE}, b"1234"), "'y' where it overlaps"),
    (raw({"x": ONE}, b"12345"), "1 bytes at its end that belong to no tensor"),
    (raw(twice({"x": ONE, "y": ONE}, "y", "x"), b"1234"), "'x' occurs twice"),
    (raw(twice({"x": {**ONE, "other": [1]}}, "other", "shape"), b"1234"), "'shape' occurs twice"),
    (raw(b'{"\\ud800": ' + json.dumps(ONE).encode() + b"}", b"1234"), "not valid Unicode"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "says"), LIES, ids=[says for _, says in LIES])
def test_lying_safetensors(folder: Path, content: bytes, says: str) -> None:
    (folder / "model.safetensors").write_bytes(content)
    error = refused(folder, BadSafetensors, says)
    assert str(folder / "model.safetensors") in error.what


def test_a_huge_header(folder: Path) -> None:
    with (folder / "model.safetensors").open("wb") as file:  # sparse: takes no room on the disk
        file.write(struct.pack("<Q", LONGEST_HEADER + 1))
        file.truncate(LONGEST_HEADER + 100)
    refused(folder, BadSafetensors, "is the limit")


def test_endless_names_make_no_endless_message(folder: Path) -> None:
    twice = b'{"' + b"n" * 50_000 + b'":1,"' + b"n" * 50_000 + b'":1}'
    (folder / "model.safetensors").write_bytes(raw(twice))
    refused(folder, BadSafetensors, "occurs twice")


@pytest.mark.parametrize("missing", [1, 4, 8, 20, 100])
def test_truncated_at_the_end(folder: Path, missing: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-missing])
    refused(folder, BadSafetensors, "missing|announces")


def test_an_unreadable_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = Path.open

    def deny(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.suffix == ".safetensors":
            raise PermissionError(13, "Permission denied", str(path))
        return allowed(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", deny)  # as root, the file's own mode would not stop us
    refused(folder, BadSafetensors, "can't be read: Permission denied")


def test_an_unknown_type(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(raw({"x": {**ONE, "dtype": "F32X"}}, b"1234"))
    refused(folder, UnsupportedDtype, "as 'F32X'")


@pytest.mark.parametrize("metadata", [{}, {"__metadata__": {"format": "pt"}}])
def test_no_tensors(folder: Path, metadata: dict[str, Any]) -> None:
    (folder / "model.safetensors").write_bytes(raw(metadata))
    refused(folder, WeightsMissing, "no weights at all")


SOUND = save(
    {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.bfloat16), "c": torch.ones(())}
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255)), min_size=1, max_size=3),
    st.data(),
)
def test_spoilt_bytes_are_refused_or_read_as_the_library_does(
    folder: Path, changes: list[tuple[int, int]], data: st.DataObject
) -> None:
    spoilt = bytearray(SOUND)
    for place, value in changes:
        spoilt[place] = value
    cut = data.draw(st.integers(0, len(SOUND)) | st.just(len(SOUND)))
    file = folder / "model.safetensors"
    file.write_bytes(bytes(spoilt[:cut]))
    try:
        checkpoint = open_checkpoint(folder)
    except Refused:
        return
    with checkpoint, safe_open(file, framework="pt") as library:
        assert set(checkpoint.tensors) == set(library.keys())
        for name in checkpoint.tensors:
            expected = library.get_tensor(name)
            for tensor in (checkpoint.read(name), checkpoint.view(name)):
                assert (tensor.dtype, tensor.shape) == (expected.dtype, expected.shape)
                assert torch.equal(
                    tensor.reshape(-1).view(torch.uint8), expected.reshape(-1).view(torch.uint8)
                )


# ---------------------------------------------------------------------------------------------------- shards
def index(folder: Path, weight_map: object) -> None:
    if (folder / "model.safetensors").exists():
        (folder / "model.safetensors").rename(folder / "one.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "/etc/one.safetensors",
        "../one.safetensors",
        "sub/../../one.safetensors",
        "..\\one.safetensors",
        "C:\\one.safetensors",
        "C:one.safetensors",
        "one.safetensors\0",
        "pytorch_model.bin",
        "",
        7,
        None,
        ["one.safetensors"],
    ],
)
def test_index_entries_that_name_no_file_inside(folder: Path, name: object) -> None:
    save_file({"b.weight": torch.ones(1)}, folder.parent / "one.safetensors")
    index(folder, {"a.weight": "one.safetensors", "b.weight": name})
    refused(folder, BadIndex, "not a safetensors file inside the folder")


@pytest.mark.parametrize("weight_map", [None, {}, [], "one.safetensors"])
def test_an_index_without_a_map(folder: Path, weight_map: object) -> None:
    index(folder, weight_map)
    refused(folder, BadIndex, "no weight_map")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not valid JSON"),
        ("3", "not an object"),
        ('{"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}}', "'a' occurs twice"),
    ],
)
def test_a_broken_index(folder: Path, content: str, says: str) -> None:
    index(folder, {})
    (folder / "model.safetensors.index.json").write_text(content)
    refused(folder, BadIndex, says)


def test_a_missing_shard(folder: Path) -> None:
    index(folder, {"a.weight": "one.safetensors", "b.weight": "two.safetensors"})
    refused(folder, BadIndex, "two.safetensors is missing")


def test_an_index_that_does_not_fit_its_shards(folder: Path) -> None:
    index(folder, {"a.weight": "one.safetensors", "b.weight": "one.safetensors", "c": "one.safetensors"})
    refused(folder, BadIndex, "one.safetensors lacks tensor 'c'")
    index(folder, {"a.weight": "one.safetensors"})
    refused(folder, BadIndex, "'b.weight', which .* does not name")


def test_a_tensor_in_two_files(folder: Path) -> None:
    save_file({"a.weight": torch.zeros(2, 3)}, folder / "two.safetensors")
    index(folder, {"a.weight": "two.safetensors", "b.weight": "one.safetensors"})
    refused(folder, BadIndex, "'a.weight' is in both")
    (folder / "model.safetensors.index.json").unlink()
    refused(folder, BadIndex, "'a.weight' is in both")


def test_a_truncated_shard(folder: Path) -> None:
    index(folder, {"a.weight": "one.safetensors", "b.weight": "one.safetensors"})
    file = folder / "one.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    refused(folder, BadSafetensors, "1 bytes are missing")


def test_numbered_shards_without_an_index(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00002-of-00003.safetensors")
    save_file({"c": torch.ones(1)}, folder / "model-00001-of-00003.safetensors")
    refused(folder, WeightsMissing, "model-00003-of-00003.safetensors is missing.* 3 files")


# ----------------------------------------------------------------------------------------------------- links
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "model.safetensors.index.json"])
def test_links_out_of_the_folder(folder: Path, name: str) -> None:
    if name.endswith("index.json"):
        index(folder, {"a.weight": "one.safetensors", "b.weight": "one.safetensors"})
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    (folder / name).rename(elsewhere / name)
    (folder / name).symlink_to(elsewhere / name)
    refused(folder, ConfigMissing if name == "config.json" else BadIndex, "a link that leads out of")


def test_a_shard_that_is_a_link_out_of_the_folder(folder: Path) -> None:
    index(folder, {"a.weight": "one.safetensors", "b.weight": "one.safetensors"})
    (folder / "one.safetensors").rename(folder.parent / "one.safetensors")
    (folder / "one.safetensors").symlink_to("../one.safetensors")
    refused(folder, BadIndex, "a link that leads out of")


def test_links_within_the_folder_and_to_the_folder_are_fine(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "model.safetensors").rename(folder / "deep" / "weights")
    (folder / "model.safetensors").symlink_to("deep/weights")
    (folder.parent / "alias").symlink_to(folder)
    with open_checkpoint(folder.parent / "alias") as checkpoint:
        assert set(checkpoint.tensors) == {"a.weight", "b.weight"}


def test_snapshot_links_stay_in_their_own_blobs(tmp_path: Path, make_snapshot: Callable[[str], Path]) -> None:
    with open_checkpoint(make_snapshot("blobs")) as checkpoint:
        assert list(checkpoint.tensors) == ["a"]
    refused(make_snapshot("other"), BadIndex, "a link that leads out of")


@pytest.fixture
def make_snapshot(tmp_path: Path) -> Callable[[str], Path]:
    """A snapshot as in the hub's cache, its weights linked into a folder of the repository by that name."""

    def make(place: str) -> Path:
        home = tmp_path / f"models--org--{place}"
        snapshot = home / "snapshots" / "abc"
        snapshot.mkdir(parents=True)
        (home / place).mkdir()
        save_file({"a": torch.ones(1)}, home / place / "1234")
        (snapshot / "model.safetensors").symlink_to(f"../../{place}/1234")
        (snapshot / "config.json").write_text(CONFIG)
        return snapshot

    return make


def test_refusing_writes_nothing(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(raw({"x": ONE}, b"123"))
    before = sorted((path, path.stat().st_mtime_ns) for path in folder.parent.rglob("*"))
    refused(folder, BadSafetensors, "missing")
    assert sorted((path, path.stat().st_mtime_ns) for path in folder.parent.rglob("*")) == before


def test_a_tokenizer_of_a_terabyte_is_not_read(tmp_path: Path) -> None:
    from core.checkpoint_files import sidecar_files

    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(Refused, match=r"tokenizer\.json has 1,099,511,627,776 bytes"):
        sidecar_files(tmp_path)
