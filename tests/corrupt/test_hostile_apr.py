"""Hostile .apr files: every checksum is right, so that only the rule under test can refuse them."""

import json
import os
import struct
import time
import tracemalloc
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.apr_dtypes import READABLE, AprDtype
from model.apr_file import open_apr
from model.architecture import require_finite
from model.errors import CorruptFileError, ModelFormatError


@dataclass(frozen=True)
class Entry:
    name: bytes = b"w"
    dtype: int = 0
    shape: tuple[int, ...] = (2,)
    offset: int = 0
    size: int = 8

    def encode(self) -> bytes:
        head = struct.pack("<H", len(self.name)) + self.name
        head += struct.pack("<BB", self.dtype, len(self.shape))
        return head + struct.pack(f"<{len(self.shape)}QQQ", *self.shape, self.offset, self.size)


@dataclass(frozen=True)
class Recipe:
    magic: bytes = b"APR\0"
    version: tuple[int, int] = (2, 0)
    flags: int = 0x0400
    num_tensors: int | None = None
    metadata_offset: int = 64
    metadata: bytes = b"{}"
    metadata_bytes: int | None = None
    metadata_padding: bytes = b"\0"
    index_offset: int | None = None
    entries: tuple[Entry, ...] = (Entry(),)
    index_padding: bytes = b"\0"
    data_offset: int | None = None
    data: bytes = bytes(64)
    reserved: bytes = bytes(20)
    tail: bytes = b""


def aligned(section: bytes, padding: bytes) -> bytes:
    return section + padding * (-len(section) % 64)


def build(recipe: Recipe) -> bytes:
    metadata = aligned(recipe.metadata, recipe.metadata_padding)
    raw_index = b"".join(entry.encode() for entry in recipe.entries)
    index = aligned(raw_index, recipe.index_padding)
    places = (
        recipe.num_tensors if recipe.num_tensors is not None else len(recipe.entries),
        recipe.metadata_offset,
        recipe.metadata_bytes if recipe.metadata_bytes is not None else len(recipe.metadata),
        recipe.index_offset if recipe.index_offset is not None else 64 + len(metadata),
        recipe.data_offset if recipe.data_offset is not None else 64 + len(metadata) + len(index),
    )
    head = struct.pack("<4sBBHIQIQQ", recipe.magic, *recipe.version, recipe.flags, *places)
    header = head + struct.pack("<I", zlib.crc32(head + recipe.reserved)) + recipe.reserved
    body = header + metadata + index + recipe.data
    return body + struct.pack("<I", zlib.crc32(body)) + recipe.tail


GOOD = Recipe()

HOSTILE = {
    "magic of version 1": (
        replace(GOOD, magic=b"APR1"),
        r"starts with b'APR1'",
        r"b'APR\x00', an .apr file",
    ),
    "version 2.1": (replace(GOOD, version=(2, 1)), "version 2.1", "2.0"),
    "LZ4": (
        replace(GOOD, flags=0x0401),
        "flags 0x0401 (LZ4_COMPRESSED)",
        "plain row-major data in one file",
    ),
    "Zstandard": (
        replace(GOOD, flags=0x0402),
        "flags 0x0402 (ZSTD_COMPRESSED)",
        "plain row-major data in one file",
    ),
    "encrypted": (
        replace(GOOD, flags=0x0404),
        "flags 0x0404 (ENCRYPTED)",
        "plain row-major data in one file",
    ),
    "signed and sharded": (
        replace(GOOD, flags=0x0418),
        "flags 0x0418 (SIGNED, SHARDED)",
        "plain row-major data in one file",
    ),
    "column-major": (
        replace(GOOD, flags=0x0800),
        "flags 0x0800 (COLUMN_MAJOR)",
        "plain row-major data in one file",
    ),
    "a flag of the future": (
        replace(GOOD, flags=0x8400),
        "flags 0x8400 (unknown)",
        "plain row-major data in one file",
    ),
    "no layout": (replace(GOOD, flags=0), "flags 0x0000", "with ROW_MAJOR (0x0400)"),
    "reserved bytes": (
        replace(GOOD, reserved=bytes(19) + b"\1"),
        "header uses reserved bytes",
        "zeros there",
    ),
    "metadata elsewhere": (
        replace(GOOD, metadata_offset=128),
        "metadata at 128 and index at 128",
        "64 and 128",
    ),
    "index over the metadata": (
        replace(GOOD, index_offset=64),
        "metadata at 64 and index at 64",
        "64 and 128",
    ),
    "data before the index": (
        replace(GOOD, data_offset=64),
        "data at 64",
        "from 128 to 512 for 1 tensors",
    ),
    "an index longer than its entries can be": (
        replace(GOOD, data_offset=576, data=bytes(448)),
        "data at 576",
        "from 128 to 512 for 1 tensors",
    ),
    "an index longer than its entries are": (
        replace(GOOD, data_offset=256, data=bytes(128)),
        "index of 128 bytes",
        "64 for 1 tensors",
    ),
    "data inside the index": (
        replace(GOOD, data_offset=128),
        "index of 0 bytes ends in tensor 0",
        "1 whole entries",
    ),
    "over-long metadata": (
        replace(GOOD, metadata_bytes=(16 << 20) + 1),
        "JSON of 16777217 bytes",
        "at most 16777216",
    ),
    "hidden bytes after the metadata": (
        replace(GOOD, metadata_padding=b"x"),
        "padding after the metadata is not zero",
        "zeros",
    ),
    "hidden bytes after the index": (
        replace(GOOD, index_padding=b"x"),
        "padding after the index is not zero",
        "zeros",
    ),
    "hidden bytes after a tensor": (
        replace(GOOD, data=bytes(8) + b"x" * 56),
        "padding after the tensor 'w' is not zero",
        "zeros",
    ),
    "fewer entries than counted": (
        replace(GOOD, num_tensors=3),
        "tensor name '' of 0 bytes",
        "1 to 256",
    ),
    "millions of entries": (
        replace(GOOD, num_tensors=2**32 - 1),
        "4294967295 tensors",
        "at most 16384",
    ),
    "more entries than counted": (
        replace(GOOD, num_tensors=0),
        "data at 192",
        "from 128 to 128 for 0 tensors",
    ),
    "a name that is not UTF-8": (
        replace(GOOD, entries=(Entry(name=b"\xff"),)),
        r"tensor name b'\xff'",
        "UTF-8",
    ),
    "a name without end": (
        replace(GOOD, entries=(Entry(name=b"w" * 257),)),
        f"tensor name '{'w' * 40}' of 257 bytes",
        "1 to 256",
    ),
    "names out of order": (
        replace(GOOD, entries=(Entry(name=b"b"), Entry(name=b"a", offset=64))),
        "tensor 'a' after 'b'",
        "each name once, in ascending order",
    ),
    "a name twice": (
        replace(GOOD, entries=(Entry(name=b"a"), Entry(name=b"a", offset=64))),
        "tensor 'a' after 'a'",
        "each name once, in ascending order",
    ),
    "weights in eight bits of GGML": (
        replace(GOOD, entries=(Entry(dtype=8, shape=(32,), size=18),)),
        "tensor 'w' of dtype AprQ4 of before 2026 (8)",
        f"one of {READABLE}",
    ),
    "64-bit integers": (
        replace(GOOD, entries=(Entry(dtype=5, shape=(1,), size=8),)),
        "tensor 'w' of dtype I64 (5)",
        f"one of {READABLE}",
    ),
    "an unknown dtype": (
        replace(GOOD, entries=(Entry(dtype=77),)),
        "tensor 'w' of dtype code (77)",
        f"one of {READABLE}",
    ),
    "blocks across rows": (
        replace(GOOD, entries=(Entry(dtype=12, shape=(2, 128), size=144),)),
        "tensor 'w' of Q4K and shape [2, 128]",
        "rows of whole blocks of 256",
    ),
    "fewer blocks than the shape needs": (
        replace(GOOD, entries=(Entry(dtype=14, shape=(512,), size=210),)),
        "tensor 'w' of 210 bytes",
        "420 by its dtype and shape",
    ),
    "no scale": (
        replace(GOOD, entries=(Entry(dtype=129, shape=(8,), size=8),)),
        "tensor 'w' of 8 bytes",
        "12 by its dtype and shape",
    ),
    "half a block": (
        replace(GOOD, entries=(Entry(dtype=128, shape=(33,), size=18),)),
        "tensor 'w' of 18 bytes",
        "36 by its dtype and shape",
    ),
    "nine dimensions": (
        replace(GOOD, entries=(Entry(shape=(1,) * 9, size=4),)),
        "tensor 'w' with 9 dimensions",
        "at most 8",
    ),
    "a size that is not the shape's": (
        replace(GOOD, entries=(Entry(size=4),)),
        "tensor 'w' of 4 bytes",
        "8 by its dtype and shape",
    ),
    "a size that wraps round": (
        replace(GOOD, entries=(Entry(shape=(2**62 + 2,), size=8),)),
        "tensor 'w' of shape [4611686018427387906]",
        "a shape memory can hold",
    ),
    "an empty tensor of astronomic shape": (
        replace(GOOD, entries=(Entry(shape=(0, 2**64 - 1), size=0),), data=b""),
        "tensor 'w' of shape [0, 18446744073709551615]",
        "a shape memory can hold",
    ),
    "overlapping tensors": (
        replace(GOOD, entries=(Entry(name=b"a"), Entry(name=b"b"))),
        "tensor 'b' at 0",
        "64, where the one before it ends",
    ),
    "a hole between tensors": (
        replace(GOOD, entries=(Entry(offset=64),), data=bytes(128)),
        "tensor 'w' at 64",
        "0, where the one before it ends",
    ),
    "an unaligned tensor": (
        replace(GOOD, entries=(Entry(name=b"a"), Entry(name=b"b", offset=8))),
        "tensor 'b' at 8",
        "64, where the one before it ends",
    ),
    "bytes after the end": (replace(GOOD, tail=b"x"), "261 bytes long", "260"),
    "metadata that is not UTF-8": (
        replace(GOOD, metadata=b'{"a":"\xff"}'),
        "JSON with 'utf-8' codec can't decode byte 0xff in position 6: invalid start byte",
        "one plain JSON object",
    ),
    "a list as metadata": (
        replace(GOOD, metadata=b"[]"),
        "JSON of type list",
        "one plain JSON object",
    ),
    "a key twice": (
        replace(GOOD, metadata=b'{"a":1,"a":2}'),
        "JSON with key 'a' twice",
        "one plain JSON object",
    ),
    "a key twice inside": (
        replace(GOOD, metadata=b'{"x":[{"a":1,"a":1}]}'),
        "JSON with key 'a' twice",
        "one plain JSON object",
    ),
    "NaN": (replace(GOOD, metadata=b'{"a":NaN}'), "JSON with number NaN", "one plain JSON object"),
    "minus infinity": (
        replace(GOOD, metadata=b'{"a":-Infinity}'),
        "JSON with number -Infinity",
        "one plain JSON object",
    ),
    "a number out of range": (
        replace(GOOD, metadata=b'{"a":1e999}'),
        "JSON with number 1e999 out of range",
        "one plain JSON object",
    ),
}


def refusal(path: Path, content: bytes) -> ModelFormatError:
    path.write_bytes(content)
    with pytest.raises(ModelFormatError) as caught:
        open_apr(path).verify()
    assert caught.value.path == path
    return caught.value


def test_the_recipe_is_accepted_before_it_is_spoiled(tmp_path: Path) -> None:
    path = tmp_path / "good.apr"
    path.write_bytes(build(GOOD))
    open_apr(path).verify()
    assert open_apr(path).tensor("w").tolist() == [0.0, 0.0]


def test_tensors_may_lie_in_another_order_than_their_names(tmp_path: Path) -> None:
    path = tmp_path / "good.apr"
    entries = (Entry(name=b"a", offset=64), Entry(name=b"b", offset=0))
    data = struct.pack("<2f56x2f56x", 1.0, 2.0, 3.0, 4.0)
    path.write_bytes(build(replace(GOOD, entries=entries, data=data)))
    file = open_apr(path)
    file.verify()
    assert file.tensor("a").tolist() == [3.0, 4.0]
    assert file.tensor("b").tolist() == [1.0, 2.0]


@pytest.mark.parametrize("case", HOSTILE)
def test_a_malformed_file_is_refused_for_its_fault(tmp_path: Path, case: str) -> None:
    recipe, found, expected = HOSTILE[case]
    error = refusal(tmp_path / "hostile.apr", build(recipe))
    assert (error.found, error.expected) == (found, expected)


@pytest.mark.parametrize(
    "metadata",
    [
        b"",
        b"{",
        b"{}\0",
        b"\xef\xbb\xbf{}",
        b'{"a":"\\ud800"}',
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"a":' + b"9" * 5000 + b"}",
    ],
)
def test_metadata_that_is_not_one_plain_object_is_refused(tmp_path: Path, metadata: bytes) -> None:
    error = refusal(tmp_path / "hostile.apr", build(replace(GOOD, metadata=metadata)))
    assert error.found.startswith("JSON with ")
    assert error.expected == "one plain JSON object"


@pytest.mark.parametrize("shape", [(2**40,), (2**32,), (2**20, 2**20)])
def test_a_tensor_larger_than_the_file_is_refused_without_room_for_it(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    size = 4 * (shape[0] if len(shape) == 1 else shape[0] * shape[1])
    content = build(replace(GOOD, entries=(Entry(shape=shape, size=size),)))
    tracemalloc.start()
    error = refusal(tmp_path / "hostile.apr", content)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert type(error) is CorruptFileError
    assert error.found == "ends after 260 bytes"
    assert peak_bytes < 1 << 20


@pytest.mark.parametrize(
    "metadata",
    [
        b'{"a":[' + b"{}," * 5_000_000 + b"0]}",
        b'{"a":["' + b'","'.join([b"ab"] * 3_000_000) + b'"]}',
        '{"a":"\U0001f600'.encode() + b"a" * (15 << 20) + b'"}',
    ],
    ids=["dicts", "texts", "wide"],
)
def test_metadata_that_costs_more_than_it_is_long_is_refused(
    tmp_path: Path, metadata: bytes
) -> None:
    content = build(replace(GOOD, metadata=metadata))
    tracemalloc.start()
    error = refusal(tmp_path / "hostile.apr", content)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert error.found.startswith("JSON with ")
    assert peak_bytes < len(content) + 100_000_000


@pytest.mark.parametrize("dtype", [1, 0, 30, 128, 129, 12, 14])
def test_a_nan_in_the_data_is_read_and_then_found(tmp_path: Path, dtype: int) -> None:
    kind = AprDtype(dtype)
    size = kind.size_bytes((256,))
    data = b"\xff" * size + bytes(-size % 64)
    path = tmp_path / "hostile.apr"
    entry = Entry(dtype=dtype, shape=(256,), size=size)
    path.write_bytes(build(replace(GOOD, entries=(entry,), data=data)))
    with pytest.raises(ModelFormatError) as caught:
        require_finite(path, "w", open_apr(path).tensor("w"))
    assert caught.value.found.endswith("values of tensor 'w' are NaN or infinite")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe.apr"
    os.mkfifo(path)
    with pytest.raises(ModelFormatError) as caught:
        open_apr(path)
    assert caught.value.found == "no regular file"


def test_data_beyond_the_end_is_refused(tmp_path: Path) -> None:
    error = refusal(tmp_path / "hostile.apr", build(replace(GOOD, data_offset=512)))
    assert type(error) is CorruptFileError
    assert (error.found, error.expected) == ("ends after 260 bytes", "516 or more")


def test_the_longest_index_is_read_in_bounded_time_and_a_longer_one_is_not_read(
    tmp_path: Path,
) -> None:
    path = tmp_path / "long.apr"
    names = [b"%0256d" % number for number in range(16_384 + 1)]
    entries = tuple(Entry(name=name, shape=(0,) + (1,) * 7, size=0) for name in names)
    path.write_bytes(build(replace(GOOD, entries=entries[:-1], data=b"")))
    started = time.process_time()
    assert len(open_apr(path).tensors) == 16_384
    assert time.process_time() - started < 1.0
    error = refusal(path, build(replace(GOOD, entries=entries, data=b"")))
    assert (error.found, error.expected) == ("16385 tensors", "at most 16384")


def test_a_changed_header_is_corrupt(tmp_path: Path) -> None:
    content = bytearray(build(GOOD))
    content[8] ^= 1
    error = refusal(tmp_path / "hostile.apr", bytes(content))
    assert type(error) is CorruptFileError
    assert error.found.startswith("header has checksum ")


def test_a_refusal_says_where_what_is_and_what_should_be(tmp_path: Path) -> None:
    path = tmp_path / "hostile.apr"
    error = refusal(path, build(replace(GOOD, version=(1, 0))))
    assert str(error) == f"{path}: version 1.0, should be 2.0"


def test_a_file_without_its_magic_is_what_an_interrupted_write_leaves(tmp_path: Path) -> None:
    error = refusal(tmp_path / "hostile.apr", bytes(64) + build(GOOD)[64:])
    assert error.found == f"starts with {bytes(4)!r}"


def test_many_keys_cost_no_more_than_reading_them(tmp_path: Path) -> None:
    keys = [f"key-{number}" for number in range(200_000)]
    text = json.dumps(dict.fromkeys(keys, 0))[:-1] + ', "key-0": 1}'
    error = refusal(tmp_path / "hostile.apr", build(replace(GOOD, metadata=text.encode())))
    assert error.found == "JSON with key 'key-0' twice"


edits = st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), min_size=1, max_size=3)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(edits)
def test_no_edit_under_right_checksums_does_worse_than_a_refusal(
    tmp_path: Path, edits: list[tuple[int, int]]
) -> None:
    path = tmp_path / "hostile.apr"
    content = bytearray(build(GOOD))
    for position, value in edits:
        content[position] = value
    content[40:44] = struct.pack("<I", zlib.crc32(content[:40] + content[44:64]))
    content[-4:] = struct.pack("<I", zlib.crc32(content[:-4]))
    path.write_bytes(content)
    try:
        file = open_apr(path)
        file.verify()
    except ModelFormatError:
        return
    # What is accepted lies inside the one block of data that the file has.
    assert all(file.tensor(name).nbytes <= len(GOOD.data) for name in file.tensors)


@pytest.mark.parametrize("dtype", [AprDtype.Q4K, AprDtype.Q6K, AprDtype.AprQ4])
def test_an_infinite_scale_is_read_in_silence_and_then_found(
    tmp_path: Path, dtype: AprDtype
) -> None:
    size = dtype.size_bytes((256,))
    # Infinity, and quanta that are zero: their product is no number.
    data = (b"\x00\x7c" if dtype is not AprDtype.Q6K else b"") + bytes(size - 2)
    data = data.ljust(size, b"\0") if dtype is not AprDtype.Q6K else bytes(size - 2) + b"\x00\x7c"
    path = tmp_path / "hostile.apr"
    entry = Entry(dtype=dtype, shape=(256,), size=size)
    path.write_bytes(build(replace(GOOD, entries=(entry,), data=data + bytes(-size % 64))))
    with pytest.raises(ModelFormatError):
        require_finite(path, "w", open_apr(path).tensor("w"))
