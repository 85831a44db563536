"""Our safetensors writer against the library's reader."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from core.checkpoint_header import read_header
from core.record import DTYPES, StoredTensor
from core.safefile import ALIGNMENT, checked, file_bytes, file_sha256, header_bytes, raw_bytes, write_file

METADATA = {"format": "pt", "deltadeck": "1"}


def filled(tensor: StoredTensor) -> torch.Tensor:
    count = int(torch.Size(tensor.shape).numel()) * DTYPES[tensor.dtype].itemsize
    raw = torch.arange(count, dtype=torch.int64).remainder(100).to(torch.uint8)
    return (raw.view(DTYPES[tensor.dtype]) if count else torch.empty(0, dtype=DTYPES[tensor.dtype])).reshape(tensor.shape)


SHAPES = st.lists(st.integers(0, 7), max_size=3).map(tuple)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(lambda n: n != "__metadata__")
FILES = st.dictionaries(NAMES, st.tuples(st.sampled_from(sorted(DTYPES)), SHAPES), max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FILES)
def test_the_library_reads_what_we_write(tmp_path: Path, content: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    path = tmp_path / "x.safetensors"
    tensors = [StoredTensor(name, dtype, shape) for name, (dtype, shape) in content.items()]
    digest = write_file(path, tensors, METADATA, filled)
    assert path.stat().st_size == file_bytes(tensors, METADATA)
    assert digest == file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(header_bytes(tensors, METADATA)) % ALIGNMENT == 0
    found = load_file(path)
    assert set(found) == set(content)
    for tensor in tensors:
        read, expected = found[tensor.name], filled(tensor)
        assert (read.dtype, tuple(read.shape)) == (expected.dtype, tensor.shape)
        assert bytes(raw_bytes(read)) == bytes(raw_bytes(expected))
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == METADATA
    header = {t.name: (t.dtype, t.shape) for t in read_header(path).tensors}
    assert header == content


def test_tensors_lie_in_the_given_order(tmp_path: Path) -> None:
    tensors = [StoredTensor("z", "U8", (3,)), StoredTensor("a", "F32", (2,)), StoredTensor("m", "BF16", (5,))]
    write_file(tmp_path / "x.safetensors", tensors, METADATA, filled)
    stored = read_header(tmp_path / "x.safetensors").tensors
    assert [t.name for t in stored] == ["z", "a", "m"]
    assert [t.end - t.begin for t in stored] == [t.nbytes for t in tensors] == [3, 8, 10]


def test_strided_tensors_are_written_row_by_row(tmp_path: Path) -> None:
    matrix = torch.arange(12.0).reshape(3, 4).T
    write_file(tmp_path / "x.safetensors", [StoredTensor("a", "F32", (4, 3))], {}, lambda _: matrix)
    assert torch.equal(load_file(tmp_path / "x.safetensors")["a"], matrix)


def test_raw_bytes_copies_nothing_that_lies_contiguous() -> None:
    tensor = torch.zeros(4, dtype=torch.bfloat16)
    view = raw_bytes(tensor)
    tensor[1] = 1
    assert bytes(view) == b"\0\0\x80\x3f\0\0\0\0"
    assert bytes(raw_bytes(torch.tensor(1.0))) == b"\0\0\x80\x3f"
    assert bytes(raw_bytes(torch.empty(3, 0))) == b""


@pytest.mark.parametrize("made", [torch.zeros(2, 3, dtype=torch.float16), torch.zeros(3, 2), torch.zeros(6)])
def test_another_tensor_than_announced(tmp_path: Path, made: torch.Tensor) -> None:
    announced = StoredTensor("w.scale", "F32", (2, 3))
    assert checked(announced, torch.zeros(2, 3)).shape == (2, 3)
    with pytest.raises(ValueError, match=r"w\.scale: announced as F32 \(2, 3\), made as"):
        write_file(tmp_path / "x.safetensors", [announced], {}, lambda _: made)
