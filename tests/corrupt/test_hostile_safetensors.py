"""Hostile safetensors files: one of each fault, refused by name."""

import json
import os
import time
import tracemalloc
from pathlib import Path

import pytest

from model.errors import CorruptFileError, ModelFormatError, UnsupportedFeatureError
from model.safetensors_file import open_safetensors

WHOLE = "one plain JSON object"
GOOD = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}

EMPTY = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}


def build(header: object, data: bytes = bytes(8)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensor(**changes: object) -> dict[str, object]:
    return {"w": {**GOOD["w"], **changes}}


HOSTILE = {
    "a list": (build([]), "header starts with b'['", "b'{'"),
    "space before the header": (build(b" {}"), "header starts with b' '", "b'{'"),
    "a byte order mark": (build(b"\xef\xbb\xbf{}"), r"header starts with b'\xef'", "b'{'"),
    "no header": (build(b""), "header starts with b''", "b'{'"),
    "a name twice": (
        build(b'{"w":' + json.dumps(GOOD["w"]).encode() + b',"w":{}}'),
        "JSON with key 'w' twice",
        WHOLE,
    ),
    "a field twice": (
        build(b'{"w":{"dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,8]}}'),
        "JSON with key 'dtype' twice",
        WHOLE,
    ),
    "NaN": (build(b'{"w":NaN}'), "JSON with number NaN", WHOLE),
    "a number out of range": (
        build(b'{"w":{"shape":[1e400]}}'),
        "JSON with number 1e400 out of range",
        WHOLE,
    ),
    "metadata that is null": (
        build({"__metadata__": None}),
        "__metadata__ is None",
        "an object of texts",
    ),
    "metadata of a number": (
        build({"__metadata__": {"a": 1}}),
        "__metadata__ is {'a': 1}",
        "an object of texts",
    ),
    "a tensor that is a list": (
        build({"w": []}),
        "tensor 'w' with []",
        "dtype, shape and data_offsets, nothing else",
    ),
    "an unknown field": (
        build(tensor(strides=[1])),
        "tensor 'w' with {'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 8], 'stri",
        "dtype, shape and data_offsets, nothing else",
    ),
    "a missing field": (
        build({"w": {"dtype": "F32", "shape": [2]}}),
        "tensor 'w' with {'dtype': 'F32', 'shape': [2]}",
        "dtype, shape and data_offsets, nothing else",
    ),
    "an empty name": (
        build({"": GOOD["w"]}),
        "tensor name '' of 0 bytes",
        "1 to 256 printable ones",
    ),
    "a name with NUL": (
        build({"w\0": GOOD["w"]}),
        r"tensor name 'w\x00' of 2 bytes",
        "1 to 256 printable ones",
    ),
    "a name without end": (
        build({"w" * 257: GOOD["w"]}),
        f"tensor name '{'w' * 40}' of 257 bytes",
        "1 to 256 printable ones",
    ),
    "a negative dimension": (
        build(tensor(shape=[-2])),
        "tensor 'w' of shape [-2]",
        "at most 8 whole numbers",
    ),
    "a dimension that is true": (
        build(tensor(shape=[True, 2])),
        "tensor 'w' of shape [True, 2]",
        "at most 8 whole numbers",
    ),
    "a fraction": (
        build(tensor(shape=[2.0])),
        "tensor 'w' of shape [2.0]",
        "at most 8 whole numbers",
    ),
    "nine dimensions": (
        build(tensor(shape=[1] * 9)),
        "tensor 'w' of shape [1, 1, 1, 1, 1, 1, 1, 1, 1]",
        "at most 8 whole numbers",
    ),
    "a shape that wraps round": (
        build(tensor(shape=[2**62 + 2])),
        "tensor 'w' of shape [4611686018427387906]",
        "a shape memory can hold",
    ),
    "2^63 by 0": (
        build(tensor(shape=[0, 2**63], data_offsets=[0, 0]), b""),
        "tensor 'w' of shape [0, 9223372036854775808]",
        "a shape memory can hold",
    ),
    "offsets that are texts": (
        build(tensor(data_offsets=["0", "8"])),
        "tensor 'w' at ['0', '8']",
        "two whole numbers",
    ),
    "three offsets": (
        build(tensor(data_offsets=[0, 4, 8])),
        "tensor 'w' at [0, 4, 8]",
        "two whole numbers",
    ),
    "an end before the start": (
        build(tensor(data_offsets=[8, 0])),
        "tensor 'w' of -8 bytes",
        "8 by its dtype and shape",
    ),
    "a size that is not the shape's": (
        build(tensor(data_offsets=[0, 4]), bytes(4)),
        "tensor 'w' of 4 bytes",
        "8 by its dtype and shape",
    ),
    "a hole at the start": (
        build(tensor(data_offsets=[8, 16]), bytes(16)),
        "tensor 'w' at 8",
        "0, where the one before it ends",
    ),
    "overlapping tensors": (
        build({"a": GOOD["w"], "b": GOOD["w"]}),
        "tensor 'b' at 0",
        "8, where the one before it ends",
    ),
    "bytes after the end": (build(GOOD, bytes(9)), "78 bytes long", "77"),
    "too many tensors": (
        build(
            {f"t{n}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(65_537)}
        ),
        "65537 tensors",
        "at most 65536",
    ),
    "a header too long to be read": (
        ((16 << 20) + 1).to_bytes(8, "little") + bytes((16 << 20) + 1),
        "JSON of 16777217 bytes",
        "at most 16777216",
    ),
}


def refusal(path: Path, content: bytes) -> ModelFormatError:
    """Refuse within a second and without much memory."""
    path.write_bytes(content)
    tracemalloc.start()
    begin = time.perf_counter()
    with pytest.raises(ModelFormatError) as caught:
        open_safetensors(path)
    seconds = time.perf_counter() - begin
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < len(content) + 100_000_000
    # Ten times what it may take: memory is being traced, and the machine may be busy.
    assert seconds < 10
    assert caught.value.path == path
    return caught.value


def test_the_file_is_accepted_before_it_is_spoiled(tmp_path: Path) -> None:
    path = tmp_path / "good.safetensors"
    path.write_bytes(build(GOOD))
    assert open_safetensors(path).tensor("w").tolist() == [0.0, 0.0]


@pytest.mark.parametrize("case", HOSTILE)
def test_a_malformed_file_is_refused_for_its_fault(tmp_path: Path, case: str) -> None:
    content, found, expected = HOSTILE[case]
    error = refusal(tmp_path / "hostile.safetensors", content)
    assert (error.found, error.expected) == (found, expected)


@pytest.mark.parametrize("dtype", ["F8_E4M3", "f32", "Q4_K", None, 3, ["F32"]])
def test_a_dtype_that_is_not_read_is_named(tmp_path: Path, dtype: object) -> None:
    error = refusal(tmp_path / "hostile.safetensors", build(tensor(dtype=dtype)))
    assert type(error) is UnsupportedFeatureError
    assert error.found == f"tensor 'w' of dtype {dtype!r}"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        bytes(7),
        (9).to_bytes(8, "little") + b"{}",
        (2**63).to_bytes(8, "little") + b"{}",
        (2**64 - 1).to_bytes(8, "little") + b"{}",
        build(GOOD, bytes(7)),
        build(tensor(shape=[2**40], data_offsets=[0, 2**42])),
    ],
)
def test_what_ends_too_early_is_corrupt(tmp_path: Path, content: bytes) -> None:
    error = refusal(tmp_path / "hostile.safetensors", content)
    assert type(error) is CorruptFileError
    assert error.found == f"ends after {len(content)} bytes"


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"{}\0",
        b"{} {}",
        b'{"a":"\xff"}',
        b'{"a":' + b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"a":[' + b"{}," * 5_000_000 + b"0]}",
        b'{"a":["' + b'","'.join([b"ab"] * 3_000_000) + b'"]}',
        '{"a":"\U0001f600'.encode() + b"a" * (15 << 20) + b'"}',
    ],
    ids=["open", "nul", "two", "latin", "deep list", "deep object", "dicts", "texts", "wide"],
)
def test_a_header_that_costs_more_than_it_is_long_is_refused(tmp_path: Path, header: bytes) -> None:
    error = refusal(tmp_path / "hostile.safetensors", build(header))
    assert error.found.startswith("JSON with ")
    assert error.expected == WHOLE


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe.safetensors"
    os.mkfifo(path)
    with pytest.raises(ModelFormatError) as caught:
        open_safetensors(path)
    assert caught.value.found == "no regular file"
