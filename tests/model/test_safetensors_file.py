"""The safetensors container: the library's bytes, read without a copy."""

import tracemalloc
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.errors import CorruptFileError
from model.safetensors_file import DTYPES, open_safetensors, write_safetensors

PAIR = {"b.weight": torch.tensor([[1.0, 2.0]]), "a.bias": torch.tensor([3.0]).to(torch.float16)}


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
    write_safetensors(path, tensors, dtypes=dtypes, metadata=metadata or {})


def test_the_bytes_of_a_small_file(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    write(path, PAIR, {"format": "pt"})
    header = (
        b'{"__metadata__":{"format":"pt"},'
        b'"b.weight":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},'
        b'"a.bias":{"dtype":"F16","shape":[1],"data_offsets":[8,10]}}'
    )
    padded = header + b" " * (-len(header) % 8)
    data = bytes.fromhex("0000803f000000400042")
    assert path.read_bytes() == len(padded).to_bytes(8, "little") + padded + data


shapes = st.lists(st.integers(0, 4), max_size=3)
names = st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=1, max_size=20)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.dictionaries(names, st.tuples(st.sampled_from(list(DTYPES)), shapes), max_size=6))
def test_the_library_writes_the_same_bytes_and_reads_the_same_values(
    tmp_path: Path, drawn: dict[str, tuple[str, list[int]]]
) -> None:
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    tensors = {name: torch.ones(shape).to(DTYPES[dtype]) for name, (dtype, shape) in drawn.items()}
    write(ours, tensors, {"format": "pt"})
    save_file(tensors, theirs, metadata={"format": "pt"})
    assert ours.read_bytes() == theirs.read_bytes()
    file, loaded = open_safetensors(theirs), load_file(ours)
    assert file.metadata == {"format": "pt"}
    assert file.tensors.keys() == loaded.keys()
    for name, tensor in loaded.items():
        assert file.tensor(name).dtype == tensor.dtype
        assert torch.equal(file.tensor(name), tensor)


def test_a_tensor_is_rounded_to_the_dtype_that_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    dtypes = {"w": torch.bfloat16}
    write_safetensors(path, {"w": torch.tensor([1.001, -2.0])}, dtypes=dtypes, metadata={})
    assert open_safetensors(path).tensor("w").tolist() == [1.0, -2.0]


def test_a_transposed_tensor_is_stored_row_by_row(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    write(path, {"w": torch.tensor([[1.0, 2.0], [3.0, 4.0]]).T})
    assert open_safetensors(path).tensor("w").tolist() == [[1.0, 3.0], [2.0, 4.0]]


def test_a_file_is_rewritten_from_its_own_tensors(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    write(path, PAIR)
    before = path.read_bytes()
    file = open_safetensors(path)
    write(path, {name: file.tensor(name) for name in file.tensors}, file.metadata)
    assert path.read_bytes() == before


def test_a_write_to_a_mapped_tensor_never_reaches_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    write(path, PAIR)
    before = path.read_bytes()
    open_safetensors(path).tensor("b.weight").fill_(7.0)
    assert path.read_bytes() == before


def test_data_behind_a_header_of_odd_length_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    assert len(header) % 4
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes.fromhex("0000803f"))
    assert open_safetensors(path).tensor("w").tolist() == [1.0]


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError):
        write(tmp_path / "m.safetensors", {"w": torch.zeros(4, device="meta")})
    assert list(tmp_path.iterdir()) == []


def test_opening_reads_no_data(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    write(path, {"w": torch.zeros(1 << 22)})
    tracemalloc.start()
    file = open_safetensors(path)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 1 << 20
    assert file.size_bytes > 1 << 24


def test_a_file_cut_short_anywhere_is_corrupt_or_no_file_at_all(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    write(path, PAIR)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(CorruptFileError) as caught:
            open_safetensors(path)
        assert caught.value.found == f"ends after {length} bytes"
