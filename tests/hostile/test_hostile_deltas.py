"""Delta folders that lie, are broken or dangerous: each ends in a typed error with one sentence, in little memory.

The lies are told consistently: hashes and file sizes are made to fit, as somebody who means harm would do.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.artifact import CONFIG, LONGEST_CONFIG, WEIGHTS, Delta, open_delta, verify_files
from core.checkpoint import Checkpoint, open_checkpoint
from core.errors import DeltaCorrupt, NotADelta, Refused, WrongBase

GOLDEN = Path(__file__).parents[1] / "golden"
Spoil = Callable[[dict[str, Any]], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the golden delta, to be spoilt."""
    return Path(shutil.copytree(GOLDEN / "delta", tmp_path / "delta"))


@pytest.fixture(scope="module")
def base() -> Iterator[Checkpoint]:
    with open_checkpoint(GOLDEN / "base") as checkpoint:
        yield checkpoint


def seal(folder: Path, text: bytes) -> None:
    """Write a config's text (its hash still empty, at its end) with the hash that belongs to it."""
    digest = hashlib.sha256(text).hexdigest()
    (folder / CONFIG).write_bytes(text.removesuffix(b'"\n}\n') + digest.encode() + b'"\n}\n')


def text_of(config: dict[str, Any]) -> bytes:
    rest = {key: value for key, value in config.items() if key != "sha256"}
    return json.dumps({**rest, "sha256": ""}, indent=1).encode() + b"\n"


def rewrite(folder: Path, spoil: Spoil) -> None:
    """Change a delta's config and make all hashes fit."""
    config = json.loads((folder / CONFIG).read_bytes())
    spoil(config)
    lines = "".join(f"{r['base']}:{r.get('base_sha256', '')}\n" for r in config["tensors"]
                    if isinstance(r, dict) and r.get("base") is not None) if isinstance(config.get("tensors"), list) else ""
    if isinstance(config.get("base"), dict):
        config["base"]["sha256"] = hashlib.sha256(lines.encode()).hexdigest()
    for name, entry in config["files"].items() if isinstance(config.get("files"), dict) else ():
        if isinstance(entry, dict) and name in os.listdir(folder) and (folder / name).is_file():
            content = (folder / name).read_bytes()
            entry |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    seal(folder, text_of(config))


def of(config: dict[str, Any], name: str) -> dict[str, Any]:
    """The record of a tensor."""
    return next(r for r in config["tensors"] if r["name"] == name)


def refused(act: Callable[[], object], error: type[Refused], says: str) -> None:
    """The right class, a whole sentence, something to do."""
    with pytest.raises(error, match=says) as caught:
        act()
    assert type(caught.value) is error
    assert caught.value.what.endswith(".") and caught.value.remedy.endswith(".")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def test_rewriting_alone_harms_nothing(folder: Path, base: Checkpoint) -> None:
    rewrite(folder, lambda c: c.update(unknown={"x": [1, 2]}))
    delta = open_delta(folder)
    assert not any(problem for _, problem in verify_files(delta))
    assert all(tuple(delta.variant(base, n).shape) == r.shape for n, r in delta.records.items())


# -------------------------------------------------------------------------------------------------- the folder
def test_what_is_no_delta(folder: Path, tmp_path: Path) -> None:
    refused(lambda: open_delta(tmp_path / "absent"), NotADelta, "holds no delta")
    refused(lambda: open_delta(folder / CONFIG), NotADelta, "holds no delta")
    refused(lambda: open_delta(GOLDEN / "base"), NotADelta, "holds no delta")
    (folder / CONFIG).unlink()
    (folder / CONFIG).mkdir()
    refused(lambda: open_delta(folder), NotADelta, "holds no delta")
    (folder / CONFIG).rmdir()
    os.mkfifo(folder / CONFIG)
    refused(lambda: open_delta(folder), NotADelta, "holds no delta")


@pytest.mark.parametrize(("text", "error", "says"), [
    (b"", DeltaCorrupt, "not valid JSON"),
    (b"\xff\xfe", DeltaCorrupt, "not valid JSON"),
    (b"[" * 1_000_000, DeltaCorrupt, "not valid JSON"),
    (b'{"format":' * 100_000, DeltaCorrupt, "not valid JSON"),
    (b"[" * 900 + b"]" * 900, NotADelta, "format is 'None'"),
    (b'{"format": "deltadeck", "format_version": NaN}', DeltaCorrupt, "not valid JSON"),
    (b'{"format": "deltadeck", "format_version": ' + b"9" * 5000 + b"}", DeltaCorrupt, "not valid JSON"),
    (b'{"format": "deltadeck", "format_version": ' + b"9" * 4000 + b"}", NotADelta, "format version '999"),
    (b'{"format": "deltadeck", "format": "deltadeck"}', DeltaCorrupt, "'format' occurs twice"),
    (b'{"format": "' + b"x" * 1_000_000 + b'"}', NotADelta, "format is 'xxx"),
    (b'{"format": ' + b"[" * 500 + b"]" * 500 + b"}", NotADelta, "format is "),
    (b"{}", NotADelta, "format is 'None'"),
    (b"3", NotADelta, "format is 'None'"),
    (b'{"format": "deltadeck"}', NotADelta, "format version 'None'"),
    (b'{"format": "deltadeck", "format_version": 2}', NotADelta, "format version '2'.*Update"),
    (b'{"format": "deltadeck", "format_version": true}', NotADelta, "format version 'True'"),
    (b'{"format": "deltadeck", "format_version": 1.0}', NotADelta, "format version '1.0'"),
    (b'{"format": "deltadeck", "format_version": 1}', DeltaCorrupt, "missing required field"),
], ids=lambda value: repr(value)[:50])
def test_json(folder: Path, text: bytes, error: type[Refused], says: str) -> None:
    (folder / CONFIG).write_bytes(text)
    refused(lambda: open_delta(folder), error, says)


def test_an_endless_config(folder: Path) -> None:
    with (folder / CONFIG).open("wb") as file:         # sparse: takes no room on the disk
        file.truncate(1 << 40)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(lambda: open_delta(folder), DeltaCorrupt, "more than 100000000 bytes")
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 3 * LONGEST_CONFIG


def test_a_config_that_is_not_sealed(folder: Path) -> None:
    text = (folder / CONFIG).read_bytes()
    (folder / CONFIG).write_bytes(text.replace(b'"fine_tuned": "tuned"', b'"fine_tuned": "other"'))
    refused(lambda: open_delta(folder), DeltaCorrupt, "was changed since")
    (folder / CONFIG).write_bytes(text + b"\n")
    refused(lambda: open_delta(folder), DeltaCorrupt, "was changed since")


TYPES: list[Any] = [None, True, -1, 1.5, 2**70, 1e308, "x", [], {}, [[]], {"x": 1}, [1, "x"]]


@pytest.mark.parametrize("key", ["base", "files", "tensors", "method", "calibration", "fidelity", "warnings", "tool_version",
                                 "fine_tuned"])
def test_fields_of_another_type(folder: Path, key: str) -> None:
    clean = (folder / CONFIG).read_bytes()
    for value in TYPES:
        (folder / CONFIG).write_bytes(clean)
        if type(value) is type(json.loads(clean)[key]):
            continue                                   # of the right type: may be fine
        rewrite(folder, lambda c, v=value: c.update({key: v}))  # type: ignore[misc]
        refused(lambda: open_delta(folder), DeltaCorrupt, "can't be read")
    (folder / CONFIG).write_bytes(clean)
    rewrite(folder, lambda c: c.pop(key))
    if key != "warnings":
        refused(lambda: open_delta(folder), DeltaCorrupt, "missing required field")


FIELDS = ["name", "codec", "shape", "dtype", "base", "base_shape", "base_dtype", "base_sha256", "output_dimension", "slices",
          "planes", "exponents", "rank", "count"]


@pytest.mark.parametrize("tensor", ["c.rows", "h.sparse", "i.lowrank", "s.tail", "a.full"])
@pytest.mark.parametrize("field", FIELDS)
def test_fields_of_a_record_with_other_content(folder: Path, base: Checkpoint, tensor: str, field: str) -> None:
    clean = (folder / CONFIG).read_bytes()
    known = open_delta(folder).records[tensor].shape
    values: list[Any] = [*TYPES, 0, 1, 2, 1000, -2**63, 2**63 - 1, [0], [-1], [2**62, 2**62], [0, 2**62], [10**18] * 64,
                         [1] * 100, "sign", "full", "same", "rows", "sparse", "lowrank", "I64", "BF16", [1000], [-126], [113],
                         [{"start": 0, "stop": 4, "axis": "row", "slots": 4}], list(reversed(known))]
    for value in values:
        (folder / CONFIG).write_bytes(clean)
        rewrite(folder, lambda c, v=value: of(c, tensor).update({field: v}))  # type: ignore[misc]
        name = value if field == "name" and isinstance(value, str) else tensor
        try:
            result = open_delta(folder).variant(base, name)
        except (NotADelta, DeltaCorrupt, WrongBase) as error:
            assert len(str(error)) < 1000 and "\n" not in str(error)
        else:
            assert result.numel() < 2000               # it made sense: something was rebuilt, nothing large


# ------------------------------------------------------------------------------------------------------- paths
PATHS = ["../secret.json", "/etc/passwd", "..", ".", "", "a/b.json", "a\\b.json", "..\\config.json", "C:config.json",
         "config.json\0", "x" * 5000 + ".model", CONFIG, "model.py", "pytorch_model.bin", "model.safetensors",
         "model.safetensors.index.json", "../x.model", ".\nx.model", "adapter_model.safetensors",
         "delta_model-1-of-2.safetensors", "config.json ", "training_args.bin", "CON", "x" * 5000]


@pytest.mark.parametrize("name", PATHS, ids=lambda name: repr(name)[:30])
def test_names_of_files(folder: Path, name: str) -> None:
    (folder.parent / "secret.json").write_text("{}")
    if name and "/" not in name and "\0" not in name and name not in (".", "..") and len(name) < 100 and name != CONFIG:
        (folder / name).write_text("{}")
    rewrite(folder, lambda c: c["files"].update({name: {"bytes": 2, "sha256": "0" * 64}}))
    refused(lambda: open_delta(folder), DeltaCorrupt, "that no delta holds")


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, "README.md"])
@pytest.mark.parametrize("how", ["absolute", "relative"])
def test_links_out_of_the_folder(folder: Path, name: str, how: str) -> None:
    outside = folder.parent / "outside"
    shutil.move(folder / name, outside)
    (folder / name).symlink_to(outside if how == "absolute" else "../outside")
    refused(lambda: open_delta(folder), DeltaCorrupt, "link that leads out of it")


def test_links_that_lead_nowhere_or_round(folder: Path) -> None:
    for target in ("nowhere", WEIGHTS):
        (folder / WEIGHTS).unlink()
        (folder / WEIGHTS).symlink_to(target)
        refused(lambda: open_delta(folder), DeltaCorrupt, "is missing")


def test_a_hub_snapshot_s_links_are_fine(folder: Path) -> None:
    home = folder.parent / "models--org--delta"
    (home / "blobs").mkdir(parents=True)
    (home / "snapshots").mkdir()
    snapshot = folder.rename(home / "snapshots" / "abc")
    for file in list(snapshot.iterdir()):
        file.rename(home / "blobs" / file.name)
        file.symlink_to(f"../../blobs/{file.name}")
    assert not any(problem for _, problem in verify_files(open_delta(snapshot)))


# ----------------------------------------------------------------------------------------- records against data
def replaced(name: str, **fields: object) -> Spoil:
    return lambda c: of(c, name).update(fields)


def piece(name: str, at: int, **fields: object) -> Spoil:
    return lambda c: of(c, name)["slices"][at].update(fields)


def shuffled(c: dict[str, Any]) -> None:
    of(c, "q.slices")["slices"].reverse()


LIES: list[tuple[Spoil, str]] = [
    (lambda c: c["tensors"].pop(), "stored tensors differ from the record"),
    (lambda c: c["tensors"].append(dict(c["tensors"][0])), "listed twice"),
    (lambda c: c["tensors"].append({**c["tensors"][1], "name": "more"}), "stored tensors differ"),
    (lambda c: c["files"].pop(WEIGHTS), "stored tensors differ"),
    (lambda c: c.update(base={**c["base"], "name": "x"}, tensors=[]), "stored tensors differ"),
    (replaced("p.both", shape=[10**9, 19], base_shape=[10**9, 19]), "slices that do not cover"),
    (replaced("a.full", shape=[2**40, 2**40]), "impossible shape"),
    (replaced("a.full", shape=[-5, 4]), "impossible shape"),
    (replaced("a.full", dtype="F32"), "instead of F32"),
    (replaced("a.full", dtype="I32"), "unknown type"),
    (replaced("c.rows", base_dtype="U8"), "unknown type"),
    (replaced("c.rows", base=None, base_shape=[]), "names no base"),
    (replaced("b.new", base_shape=[2, 3]), "names no base"),
    (replaced("c.rows", base_shape=[8, 7]), "does not fit its base"),
    (replaced("c.rows", base_shape=[8]), "does not fit its base"),
    (replaced("c.rows", base_shape=[3, 6]), "impossible count"),
    (replaced("c.rows", base_shape=[0, 6]), "impossible shape"),
    (replaced("c.rows", count=-1), "impossible count"),
    (replaced("c.rows", count=12), "impossible count"),
    (replaced("c.rows", count=3), "impossible count|instead of"),
    (replaced("e.same_cast", base_shape=[1, 3]), "more rows than its base"),
    (replaced("h.sparse", count=-1), "impossible count"),
    (replaced("h.sparse", count=2**62), "impossible count"),
    (replaced("h.sparse", base_shape=[4, 9]), "impossible count"),
    (replaced("i.lowrank", rank=0), "impossible rank"),
    (replaced("i.lowrank", rank=-2), "impossible rank"),
    (replaced("i.lowrank", rank=27), "impossible rank"),
    (replaced("i.lowrank", rank=1), "instead of"),
    (replaced("i.lowrank", exponents=[]), "impossible rank"),
    (replaced("i.lowrank", base_shape=[20, 30]), "no matrix of its base's rows"),
    (replaced("i.lowrank", exponents=[113]), "impossible exponent"),
    (replaced("p.both", exponents=[-126]), "impossible exponent"),
    (replaced("p.both", exponents=[10**30]), "impossible exponent"),
    (replaced("p.both", exponents=[0, 0]), "impossible sign planes"),
    (replaced("p.both", planes=0, exponents=[]), "impossible sign planes"),
    (replaced("p.both", planes=-1), "impossible sign planes"),
    (replaced("p.both", planes=1000, exponents=[0] * 1000), "impossible sign planes"),
    (replaced("p.both", planes=2, exponents=[0, 0]), "instead of"),
    (replaced("p.both", output_dimension=2), "impossible output dimension"),
    (replaced("d.same", output_dimension=1), "impossible output dimension"),
    (replaced("p.both", output_dimension=1), "do not cover"),
    (replaced("s.tail", output_dimension=1), "impossible sign planes"),
    (replaced("p.both", slices=[]), "do not cover"),
    (replaced("p.both", codec="magic"), "by a codec 'magic'"),
    (replaced("g.sparse", codec="sign"), "is no matrix"),
    (replaced("f.scalar", codec="rows"), "impossible count"),
    (shuffled, "impossible slices"),
    (piece("q.slices", 1, start=5), "impossible slices"),
    (piece("q.slices", 1, start=7), "impossible slices"),
    (piece("q.slices", 0, start=-1), "impossible slices"),
    (piece("q.slices", 0, stop=0), "impossible slices"),
    (piece("q.slices", 2, stop=13, slots=14), "do not cover"),
    (piece("q.slices", 2, stop=2**62), "impossible slices"),
    (piece("q.slices", 2, slots=12), "impossible slices"),
    (piece("q.slices", 2, slots=-1), "impossible slices"),
    (piece("q.slices", 2, slots=2**60), "instead of"),
    (piece("q.slices", 2, axis="auto"), "impossible slices"),
    (piece("q.slices", 2, axis="diagonal"), "impossible slices"),
    (lambda c: of(c, "q.slices").update(slices=[{"start": i, "stop": i + 1, "axis": "scalar", "slots": 1} for i in range(13)]),
     "do not cover"),
]


@pytest.mark.parametrize("number", range(len(LIES)))
def test_records_that_lie(folder: Path, number: int) -> None:
    spoil, says = LIES[number]
    rewrite(folder, spoil)
    refused(lambda: open_delta(folder), NotADelta if "codec" in says else DeltaCorrupt, says)


def test_a_base_s_hash_that_does_not_follow(folder: Path) -> None:
    text = (folder / CONFIG).read_bytes()
    config = json.loads(text)
    config["base"]["sha256"] = "0" * 64
    seal(folder, text_of(config))
    refused(lambda: open_delta(folder), DeltaCorrupt, "hash of its base")


@pytest.mark.parametrize(("spoil", "says"), [
    (replaced("p.both", base="no.such"), "lacks 'no.such'"),
    (replaced("p.both", base="q.slices"), "'q.slices' is BF16"),
    (replaced("p.both", base="../p.both"), "lacks '../p.both'"),
    (replaced("p.both", base_dtype="F16"), "F32 .* instead of F16"),
    (replaced("p.both", base_shape=[12, 19]), r"instead of F32 \[12, 19\]"),
])
def test_bases_that_do_not_exist(folder: Path, base: Checkpoint, spoil: Spoil, says: str) -> None:
    rewrite(folder, spoil)
    delta = open_delta(folder)
    refused(lambda: delta.variant(base, "p.both"), WrongBase, says)


# ------------------------------------------------------------------------------------------------- stored tensors
def patch(folder: Path, tensor: str, at: int, data: bytes) -> Delta:
    """Overwrite some bytes of a stored tensor, make all hashes fit, open."""
    path = folder / WEIGHTS
    raw = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(raw[:8], "little")
    begin, end = json.loads(raw[8:start])[tensor]["data_offsets"]
    at = at if at >= 0 else end - begin + at
    assert begin + at + len(data) <= end
    raw[start + begin + at:start + begin + at + len(data)] = data
    path.write_bytes(bytes(raw))
    rewrite(folder, lambda c: None)
    delta = open_delta(folder)
    assert not any(problem for _, problem in verify_files(delta))
    return delta


def word(value: int) -> bytes:
    return value.to_bytes(4, "little", signed=True)


NAN, INFINITY, ONE = b"\x01\x7e", b"\0\x7c", b"\0\x3c"


@pytest.mark.parametrize(("tensor", "at", "data", "says"), [
    ("c.rows.rows", 0, word(-1), "do not ascend"),
    ("c.rows.rows", 0, word(8), "do not ascend"),
    ("c.rows.rows", -4, word(11), "do not ascend"),
    ("c.rows.rows", -4, word(2**31 - 1), "do not ascend"),
    ("c.rows.rows", 0, word(2) * 2, "do not ascend"),
    ("c.rows.rows", 4, word(7), "lacks its last rows"),
    ("h.sparse.index", 0, word(-1), "do not ascend"),
    ("h.sparse.index", -4, word(45), "do not ascend"),
    ("h.sparse.index", 0, word(44), "do not ascend"),
    ("g.sparse.index", 4, word(-2**31), "do not ascend"),
    ("i.lowrank.left", 2, NAN, "factors that are not finite"),
    ("i.lowrank.right", -2, INFINITY, "factors that are not finite"),
    ("p.both.scale", 0, NAN, "scales that are not finite"),
    ("x.wide.scale", -2, b"\0\xfc", "scales that are not finite"),
    ("s.tail.scale", -2, INFINITY, "scales that are not finite"),
    ("m.row_padded.scale", -2, ONE, "scales that stand for nothing"),
    ("q.slices.scale", 12, ONE, "scales that stand for nothing"),
    ("w.conv_both.signs", 2, b"\x80", "sign bits that stand for nothing"),
    ("w.conv_both.signs", -1, b"\x80", "sign bits that stand for nothing"),
    ("x.wide.signs", -1, b"\x80", "sign bits that stand for nothing"),
])
def test_stored_tensors_that_lie(folder: Path, base: Checkpoint, tensor: str, at: int, data: bytes, says: str) -> None:
    delta = patch(folder, tensor, at, data)
    name = tensor.rpartition(".")[0]
    refused(lambda: delta.variant(base, name), DeltaCorrupt, says)
    refused(lambda: delta.stored(name), DeltaCorrupt, says)
    delta.variant(base, "a.full")


def test_the_largest_scales_make_infinities_not_crashes(folder: Path, base: Checkpoint) -> None:
    rewrite(folder, replaced("p.both", exponents=[112]))
    assert not bool(open_delta(folder).variant(base, "p.both").isfinite().all())


def test_a_tensor_in_two_files(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(GOLDEN / "sharded", tmp_path / "delta"))
    last = "delta_model-00005-of-00005.safetensors"
    shutil.copy(folder / "delta_model-00004-of-00004.safetensors", folder / last)
    rewrite(folder, lambda c: c["files"].update({last: {"bytes": 0, "sha256": ""}}))
    refused(lambda: open_delta(folder), DeltaCorrupt, "is in two of its files")


def test_a_missing_shard(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(GOLDEN / "sharded", tmp_path / "delta"))
    rewrite(folder, lambda c: c["files"].pop("delta_model-00002-of-00004.safetensors"))
    refused(lambda: open_delta(folder), DeltaCorrupt, "stored tensors differ")


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"\xff" * 64, b"[" * 100, (2).to_bytes(8, "little") + b"{}"])
def test_a_weight_file_that_is_none(folder: Path, content: bytes) -> None:
    (folder / WEIGHTS).write_bytes(content)
    rewrite(folder, lambda c: None)
    refused(lambda: open_delta(folder), DeltaCorrupt, "too short|broken header|announces a header|stored tensors differ")


# -------------------------------------------------------------------------------------------------- anything else
JSON = st.recursive(st.none() | st.booleans() | st.integers(-2**70, 2**70) | st.floats(allow_nan=False, allow_infinity=False)
                    | st.text(max_size=8), lambda inner: st.lists(inner, max_size=4)
                    | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=8)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 24), st.sampled_from([*FIELDS, "kind", "block", "change", "losses", "note", "sha256"]),
       JSON | st.lists(st.integers(-3, 40), max_size=3) | st.integers(-2, 40))
def test_no_record_crashes_the_reader(folder: Path, base: Checkpoint, number: int, field: str, value: object) -> None:
    shutil.copy(GOLDEN / "delta" / CONFIG, folder / CONFIG)
    rewrite(folder, lambda c: c["tensors"][number].update({field: value}))
    try:
        delta = open_delta(folder)
        for name in delta.records:
            delta.variant(base, name)
    except (NotADelta, DeltaCorrupt, WrongBase):
        pass
