"""The journal: an entry is whole or absent."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest
import torch

from core.journal import Journal
from core.record import DTYPES, Losses, Slice, TensorRecord
from core.safefile import raw_bytes

RECORD = TensorRecord(name="a.weight", codec="sign", shape=(4, 6), dtype="BF16", base="a.weight", base_shape=(4, 6),
                      base_dtype="BF16", block=3, slices=(Slice(0, 4, "row", 6),), exponents=(-21,),
                      losses=(Losses(axis={"row": 0.25}, held_out=0.125),), note="naïve")


def entry(journal: Journal, key: str = "block-3") -> dict[str, torch.Tensor]:
    learnt = {name: torch.arange(24).to(dtype)[:6].reshape(2, 3) for name, dtype in DTYPES.items()}
    learnt |= {"none": torch.empty(0, 5), "one": torch.tensor(2.5)}
    journal.write(key, [RECORD], {"a.weight": learnt}, {"seconds": 1.5, "names": ["x", None]})
    return learnt


def test_what_is_written_is_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    learnt = entry(journal)
    found = Journal(tmp_path).read("block-3")
    assert found is not None
    assert found.records == [RECORD]
    assert found.extra == {"seconds": 1.5, "names": ["x", None]}
    for name, tensor in learnt.items():
        read = found.tensors["a.weight"][name]
        assert (read.dtype, read.shape) == (tensor.dtype, tensor.shape)
        assert bytes(raw_bytes(read)) == bytes(raw_bytes(tensor))
    found.tensors["a.weight"]["F32"] += 1              # its own memory, to be worked on


def test_strided_tensors_are_kept_as_they_read(tmp_path: Path) -> None:
    tensor = torch.arange(6.0).reshape(2, 3).T
    Journal(tmp_path).write("k", [], {"a": {"x": tensor}})
    found = Journal(tmp_path).read("k")
    assert found is not None and torch.equal(found.tensors["a"]["x"], tensor)


def test_absent_and_forgotten(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.read("block-3") is None
    entry(journal)
    journal.forget("block-3")
    journal.forget("block-3")
    assert journal.read("block-3") is None and list(tmp_path.iterdir()) == []


def test_any_torn_or_flipped_entry_is_absent(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    entry(journal)
    path = next(tmp_path.iterdir())
    whole = path.read_bytes()
    for size in range(0, len(whole), 3):
        path.write_bytes(whole[:size])
        assert journal.read("block-3") is None
    for place in range(0, len(whole), 2):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1:])
        assert journal.read("block-3") is None
    path.write_bytes(whole + b"\0")
    assert journal.read("block-3") is None
    path.write_bytes(whole)
    assert journal.read("block-3") is not None


def test_a_write_that_breaks_off_leaves_the_entry_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)
    entry(journal)

    def fail(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("core.journal.os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        journal.write("block-3", [], {}, {"second": True})
    found = journal.read("block-3")
    assert found is not None and found.records == [RECORD]
    assert Journal(tmp_path).read("second") is None


def test_an_entry_of_another_kind_is_absent(tmp_path: Path) -> None:
    body = msgspec.msgpack.encode({"records": 5})
    (tmp_path / "k.step").write_bytes(hashlib.sha256(body).digest() + body)
    assert Journal(tmp_path).read("k") is None
