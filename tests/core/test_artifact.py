"""The delta folder: golden bytes, an independent reader, atomic writing, and that no flipped byte goes unseen."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest
import torch
from torch import Tensor

from core.artifact import (
    CONFIG,
    METADATA,
    WEIGHTS,
    BaseInfo,
    DeltaConfig,
    base_digest,
    check_base,
    config_bytes,
    index_bytes,
    open_delta,
    plan_shards,
    stored_tensors,
    verify_files,
    weights_bytes,
    write_delta,
)
from core.checkpoint import Checkpoint, open_checkpoint
from core.checkpoint_header import read_header
from core.errors import DeltaCorrupt, NotADelta, OutputExists, WrongBase
from core.record import TensorRecord
from core.safefile import own_hash, raw_bytes
from tests.golden import make_golden, reader

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def base() -> Iterator[Checkpoint]:
    with open_checkpoint(GOLDEN / "base") as checkpoint:
        yield checkpoint


@pytest.fixture(params=["delta", "sharded"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a golden delta, to be spoilt."""
    return Path(shutil.copytree(GOLDEN / str(request.param), tmp_path / "delta"))


def problems(folder: Path) -> list[str]:
    """What opening and verifying find; empty for a sound delta. Nothing but typed errors may come."""
    try:
        return [f"{name} {problem}" for name, problem in verify_files(open_delta(folder)) if problem]
    except (NotADelta, DeltaCorrupt) as error:
        assert error.what.endswith(".") and error.remedy.endswith(".")
        return [str(error)]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ----------------------------------------------------------------------------------------------------- golden
def test_golden_bytes(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    make_golden.write_golden(tmp_path / "made")
    made = files_of(tmp_path / "made")
    assert len(made) == 14
    assert made == {name: (GOLDEN / name).read_bytes() for name in made}


def test_golden_deltas_cover_the_format() -> None:
    records = open_delta(GOLDEN / "delta").config.tensors
    assert {r.codec for r in records} == {"same", "rows", "sparse", "lowrank", "sign", "svdmix", "coded", "full"}
    assert {(s.axis, r.output_dimension) for r in records for s in r.slices} >= {
        *((a, 0) for a in ("scalar", "row", "column", "both")), ("row", 1), ("column", 1), ("both", 1)}
    assert {r.dtype for r in records if r.codec == "sign"} == {r.base_dtype for r in records if r.codec == "sign"} == {
        "BF16", "F16", "F32"}
    assert any(s.slots > s.used(r.inputs) for r in records for s in r.slices)
    assert any(r.planes == 2 and r.tail for r in records)
    assert sum(len(files) > 3 for files in (open_delta(GOLDEN / n).config.files for n in ("delta", "sharded"))) == 1


@pytest.mark.parametrize("name", ["delta", "sharded"])
def test_a_reader_written_from_the_specification_agrees(base: Checkpoint, name: str) -> None:
    read = reader.read_variant(GOLDEN / name, GOLDEN / "base/model.safetensors")
    delta = open_delta(GOLDEN / name)
    pinned = json.loads((GOLDEN / "variants.json").read_text())
    assert list(read) == list(delta.records)
    for tensor, array in read.items():
        variant = delta.variant(base, tensor)
        assert tuple(variant.shape) == array.shape == delta.records[tensor].shape
        assert bytes(raw_bytes(variant)) == array.tobytes(), tensor
        assert hashlib.sha256(array.tobytes()).hexdigest() == pinned[tensor], tensor


@pytest.mark.parametrize("name", ["delta", "sharded"])
def test_golden_deltas_are_sound(base: Checkpoint, name: str) -> None:
    delta = open_delta(GOLDEN / name)
    assert {file for file, problem in verify_files(delta) if not problem} == {*delta.config.files, CONFIG}
    check_base(delta, base)
    sizes = {n: (GOLDEN / name / n).stat().st_size for n in delta.config.files}
    assert delta.weights_bytes == sum(size for n, size in sizes.items() if ".safetensors" in n)
    assert weights_bytes(delta.config.tensors, 1 << 62 if name == "delta" else make_golden.SHARD) == delta.weights_bytes
    assert set(delta.sidecars()) == ({"config.json"} if name == "sharded" else set())


@pytest.mark.parametrize("name", ["delta", "sharded"])
def test_a_record_s_hash_is_that_of_its_stored_bytes(name: str) -> None:
    delta = open_delta(GOLDEN / name)
    for tensor, record in delta.records.items():
        stored = b"".join(bytes(raw_bytes(t)) for t in delta.stored(tensor).values())
        assert hashlib.sha256(stored).hexdigest() == record.sha256


def test_stored_tensors_can_be_worked_on_wherever_they_lie() -> None:
    delta = open_delta(GOLDEN / "delta")
    begins = {t.name: t.begin for t in read_header(GOLDEN / "delta" / WEIGHTS).tensors}
    sizes = {"U8": 1, "F16": 2, "BF16": 2, "F32": 4, "I32": 4}
    odd = [t.name for r in delta.config.tensors for t in stored_tensors(r) if begins[t.name] % sizes[t.dtype]]
    assert odd                                         # the golden delta has some that are badly aligned
    for name in delta.records:
        assert all(t.data_ptr() % t.element_size() == 0 for t in delta.stored(name).values())


# ----------------------------------------------------------------------------------------------------- writing
EXACT = TensorRecord(name="a", codec="full", shape=(2, 3), dtype="F32", base=None)


def config_of(*records: TensorRecord, **options: object) -> DeltaConfig:
    fields: dict[str, object] = {"method": {}, "calibration": {}, "fidelity": {}}
    return DeltaConfig(tool_version="1", base=BaseInfo("b", "x", base_digest(records)), fine_tuned="t", files={},
                       tensors=records, **{**fields, **options})  # type: ignore[arg-type]


def give(record: TensorRecord) -> Mapping[str, Tensor]:
    return {"weight": torch.full(record.shape, float(len(record.name)))}


def named(*names: str) -> list[TensorRecord]:
    return [msgspec.structs.replace(EXACT, name=name) for name in names]


def test_write_and_open(tmp_path: Path) -> None:
    seen: list[int] = []
    written = write_delta(tmp_path / "deep" / "d", config_of(*named("a", "bb")), give, {}, "card", progress=seen.append)
    delta = open_delta(str(tmp_path / "deep" / "d"))
    assert delta.config == written and seen == [24, 24]
    assert {p.name for p in delta.folder.iterdir()} == {CONFIG, WEIGHTS, "README.md"} == {*written.files, CONFIG}
    assert torch.equal(delta.stored("bb")["weight"], torch.full((2, 3), 2.0))
    assert (delta.folder / "README.md").read_text() == "card"
    assert problems(delta.folder) == []
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["d"]


def test_a_delta_without_tensors(tmp_path: Path) -> None:
    write_delta(tmp_path / "d", config_of(), give, {}, "")
    assert problems(tmp_path / "d") == [] and open_delta(tmp_path / "d").records == {}


@pytest.mark.parametrize("failure", [RuntimeError("out of memory"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", ["a", "bb"])
def test_a_failure_leaves_nothing(tmp_path: Path, failure: BaseException, at: str) -> None:
    def fail(record: TensorRecord) -> Mapping[str, Tensor]:
        if record.name == at:
            raise failure
        return give(record)

    with pytest.raises(type(failure)):
        write_delta(tmp_path / "d", config_of(*named("a", "bb")), fail, {}, "")
    assert list(tmp_path.iterdir()) == []


def test_another_tensor_than_announced_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="announced as"):
        write_delta(tmp_path / "d", config_of(EXACT), lambda r: {"weight": torch.zeros(3, 2)}, {}, "")
    assert list(tmp_path.iterdir()) == []


def test_what_could_not_be_read_back_is_not_begun(tmp_path: Path) -> None:
    endless = msgspec.structs.replace(EXACT, change=float("inf"))
    with pytest.raises(ValueError, match="change"):
        write_delta(tmp_path / "d", config_of(endless), give, {}, "")
    (tmp_path / "run.py").write_text("")
    with pytest.raises(ValueError, match=r"run\.py"):
        write_delta(tmp_path / "d", config_of(EXACT), give, {"run.py": tmp_path / "run.py"}, "")
    assert [p.name for p in tmp_path.iterdir()] == ["run.py"]


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_an_existing_target_is_left_alone(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "d"
    if kind == "folder":
        target.mkdir()
    elif kind == "file":
        target.write_text("mine")
    else:
        target.symlink_to("nowhere")
    with pytest.raises(OutputExists, match="exists already"):
        write_delta(target, config_of(EXACT), give, {}, "")
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_the_same_delta_has_the_same_bytes(tmp_path: Path) -> None:
    for name in ("d", "e"):
        write_delta(tmp_path / name, config_of(*named("a", "bb")), give, {}, "card")
    assert files_of(tmp_path / "d") == files_of(tmp_path / "e")


def test_own_hash_needs_no_layout_but_the_end() -> None:
    text = config_bytes(config_of(EXACT))
    config = json.loads(text)
    assert own_hash(text) == config["sha256"]
    del config["sha256"]
    body = json.dumps({**config, "unknown": [1]})[:-1].encode() + b", "     # only the end is laid out as it must be
    blank = body + b'"sha256": ""\n}\n'
    digest = hashlib.sha256(blank).hexdigest()
    assert own_hash(body + f'"sha256": "{digest}"\n}}\n'.encode()) == digest
    assert own_hash(text[:-1]) is None and own_hash(b"") is None and own_hash(text + b"\n") is None


# ------------------------------------------------------------------------------------------------------ shards
@pytest.mark.parametrize(("limit", "held"), [(1 << 40, [["a", "b", "c", "d"]]), (48, [["a", "b"], ["c", "d"]]),
                                             (71, [["a", "b"], ["c", "d"]]), (72, [["a", "b", "c"], ["d"]]),
                                             (1, [["a"], ["b"], ["c"], ["d"]])])
def test_shards(tmp_path: Path, limit: int, held: list[list[str]]) -> None:
    records = named("a", "b", "c", "d")
    shards = plan_shards(records, limit)
    assert [[t.name[0] for t in shard] for shard in shards.values()] == held
    count = len(held)
    assert list(shards) == ([WEIGHTS] if count == 1 else
                            [f"delta_model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)])
    write_delta(tmp_path / "d", config_of(*records), give, {}, "", limit=limit)
    delta = open_delta(tmp_path / "d")
    assert problems(delta.folder) == []
    assert delta.weights_bytes == weights_bytes(records, limit)
    assert all(torch.equal(delta.stored(r.name)["weight"], give(r)["weight"]) for r in records)
    index = delta.folder / f"{WEIGHTS}.index.json"
    assert index.exists() == (count > 1)
    if count > 1:
        content = json.loads(index.read_bytes())
        assert content == {"metadata": {"total_size": 96},
                           "weight_map": {t.name: file for file, shard in shards.items() for t in shard}}
        assert index.read_bytes() == index_bytes(shards)
        assert all(read_header(delta.folder / file).tensors for file in shards)


def test_weight_files_say_what_they_are(tmp_path: Path) -> None:
    raw = (GOLDEN / "delta" / WEIGHTS).read_bytes()
    size = int.from_bytes(raw[:8], "little")
    assert (size + 8) % 64 == 0 and json.loads(raw[8:8 + size])["__metadata__"] == METADATA


# ------------------------------------------------------------------------------------------------ every byte
def test_any_flipped_byte_is_found(folder: Path) -> None:
    assert problems(folder) == []
    for file in sorted(folder.iterdir()):
        whole = file.read_bytes()
        stride = {CONFIG: 29, WEIGHTS: 23}.get(file.name, 3 if file.suffix == ".safetensors" else 1)
        for place in {*range(0, len(whole), stride), len(whole) - 1}:
            file.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1:])
            assert problems(folder), (file.name, place)
        file.write_bytes(whole)
    assert problems(folder) == []


def test_every_byte_of_the_config_counts() -> None:
    text = (GOLDEN / "sharded" / CONFIG).read_bytes()
    for place in range(len(text)):
        assert own_hash(text[:place] + bytes([text[place] ^ 4]) + text[place + 1:]) is None, place


def test_cut_grown_swapped_and_deleted_files_are_found(folder: Path) -> None:
    files = sorted(folder.iterdir())
    for file in files:
        whole = file.read_bytes()
        for spoilt in (b"", whole[:-1], whole[:len(whole) // 2], whole + b"\0", whole + b"\n", whole[::-1], b"{}"):
            file.write_bytes(spoilt)
            assert problems(folder), (file.name, spoilt[:10])
        file.unlink()
        assert problems(folder), file.name
        file.mkdir()
        assert problems(folder), file.name
        file.rmdir()
        file.write_bytes(whole)
    for a, b in itertools.pairwise(files):
        texts = a.read_bytes(), b.read_bytes()
        a.write_bytes(texts[1])
        b.write_bytes(texts[0])
        assert problems(folder), (a.name, b.name)
        a.write_bytes(texts[0])
        b.write_bytes(texts[1])
    assert problems(folder) == []


def test_a_weight_file_that_is_not_listed_is_found(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    assert problems(folder) == []
    shutil.copy(GOLDEN / "base/model.safetensors", folder / "model.safetensors")
    assert problems(folder) == ["model.safetensors is no file of this delta"]


def test_a_file_that_changes_while_it_is_open(folder: Path) -> None:
    delta = open_delta(folder)
    file = next(n for n in delta.config.files if n.endswith(".safetensors"))
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[:-20])
    assert any(problem for name, problem in verify_files(delta) if name == file)
    with pytest.raises(DeltaCorrupt, match="changed while it was in use"):
        delta.stored("a.full")
    (folder / file).unlink()
    assert any(problem for name, problem in verify_files(delta) if name == file)
    with pytest.raises(DeltaCorrupt, match="is gone since the delta was opened"):
        delta.stored("a.full")
    (folder / CONFIG).unlink()
    assert dict(verify_files(delta))[CONFIG].startswith("can't be read")


# -------------------------------------------------------------------------------------------------- the base
def spoilt_base(tmp_path: Path, place: bytes, becomes: bytes) -> Checkpoint:
    """The golden base with some bytes of its weight file replaced."""
    folder = shutil.copytree(GOLDEN / "base", tmp_path / "base")
    raw = (folder / "model.safetensors").read_bytes()
    assert raw.count(place) == 1 and len(place) == len(becomes)
    (folder / "model.safetensors").write_bytes(raw.replace(place, becomes))
    return open_checkpoint(folder)


@pytest.mark.parametrize(("place", "becomes", "says"), [
    (b'"l.row":', b'"l.raw":', "lacks 'l.row'"),
    (b'"l.row":{"dtype":"BF16","shape":[7,545]', b'"l.row":{"dtype":"BF16","shape":[545,7]', r"\[545, 7\] instead of BF16"),
    (b'"l.row":{"dtype":"BF16"', b'"l.row":{"dtype": "F16"', "F16 .* instead of BF16"),
])
def test_another_base(tmp_path: Path, place: bytes, becomes: bytes, says: str) -> None:
    delta = open_delta(GOLDEN / "delta")
    with spoilt_base(tmp_path, place, becomes) as wrong:
        for hashes in (True, False):
            with pytest.raises(WrongBase, match=says):
                check_base(delta, wrong, hashes=hashes)
        with pytest.raises(WrongBase, match=says):
            delta.variant(wrong, "l.row")
        delta.variant(wrong, "k.scalar")
        delta.variant(wrong, "b.new")


def test_a_base_with_other_values(tmp_path: Path, base: Checkpoint) -> None:
    delta = open_delta(GOLDEN / "delta")
    place = bytes(raw_bytes(base.view("x.wide")))[:40]
    with spoilt_base(tmp_path, place, place[:-1] + bytes([place[-1] ^ 1])) as wrong:
        check_base(delta, wrong, hashes=False)
        with pytest.raises(WrongBase, match=r"'x\.wide' has other values.*This delta belongs to 'base'"):
            check_base(delta, wrong)
