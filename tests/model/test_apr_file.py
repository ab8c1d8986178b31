import hashlib
import json
import struct
import zlib
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.apr_file import AprFile, open_apr, write_apr
from model.apr_layout import AprFlag, AprHeader, encode_header
from model.errors import CorruptFileError, ModelFormatError

DEMO_METADATA = {"model_type": "demo", "architecture": "llama"}
DEMO_TENSORS = {
    "w.weight": torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
    "a.bias": torch.tensor([0.5, -1.0, 2.0], dtype=torch.float16),
}
DEMO_SHA256 = "6f1175b9d128f99105a2b9a1c931b215b9426b935bfa0b698853d8adc7c904e7"


def bits(tensor: Tensor) -> list[int]:
    """Compare by bits, so that NaN equals itself and -0.0 differs from 0.0."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


def test_the_worked_example_comes_out_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "demo.apr"
    write_apr(path, DEMO_METADATA, DEMO_TENSORS)
    content = path.read_bytes()
    assert len(content) == 388
    assert content[:0x2C].hex() == (
        "41505200020000040200000040000000000000002c00000080000000000000000001000000000000e38930d8"
    )
    assert content[0x40:0x6C] == b'{"model_type":"demo","architecture":"llama"}'
    assert content[0x80:0xCE].hex() == (
        "0600612e6269617301010300000000000000" + "00000000000000000600000000000000"
        "0800772e776569676874000203000000000000000200000000000000"
        "40000000000000001800000000000000"
    )
    assert content[0x100:0x106].hex() == "003800bc0040"
    assert content[0x140:0x158].hex() == "0000803f0000004000004040000080400000a0400000c040"
    assert content[-4:].hex() == "3cd235d2"
    assert hashlib.sha256(content).hexdigest() == DEMO_SHA256


def test_the_empty_example_comes_out_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "empty.apr"
    write_apr(path, {}, {})
    content = path.read_bytes()
    expected = struct.pack("<4sBBHIQIQQ", b"APR\0", 2, 0, 0x0400, 0, 64, 2, 128, 128)
    expected += bytes.fromhex("6a056ea2") + bytes(20) + b"{}" + bytes(62)
    assert content == expected + bytes.fromhex("be64a887")
    file = open_apr(path)
    file.verify()
    assert file.metadata == {}
    assert file.tensors == {}


@pytest.mark.parametrize(("flags", "checksum"), [(0x0600, "61e98125"), (0x0620, "a1df3411")])
def test_flags_are_under_the_header_checksum(flags: int, checksum: str) -> None:
    assert encode_header(AprHeader(flags, 2, 44, 128, 256))[40:44].hex() == checksum


def test_an_embedded_vocabulary_is_announced_in_the_flags(tmp_path: Path) -> None:
    path = tmp_path / "model.apr"
    write_apr(path, {"tokenizer.vocabulary": ["a", "b"]}, {})
    assert open_apr(path).header.flags == AprFlag.ROW_MAJOR | AprFlag.HAS_VOCABULARY


def test_names_ascend_by_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "model.apr"
    names = ["layers.2", "layers.10", "\u00e9", "z", "\U0001f600", "\uffff"]
    write_apr(path, {}, {name: torch.zeros(1) for name in names})
    expected = ["layers.10", "layers.2", "z", "\u00e9", "\uffff", "\U0001f600"]
    assert list(open_apr(path).tensors) == expected


def test_the_order_of_the_tensors_does_not_change_the_bytes(tmp_path: Path) -> None:
    write_apr(tmp_path / "one.apr", DEMO_METADATA, DEMO_TENSORS)
    write_apr(tmp_path / "two.apr", DEMO_METADATA, dict(reversed(DEMO_TENSORS.items())))
    assert (tmp_path / "one.apr").read_bytes() == (tmp_path / "two.apr").read_bytes()


def test_a_transposed_tensor_is_stored_row_by_row(tmp_path: Path) -> None:
    path = tmp_path / "model.apr"
    write_apr(path, {}, {"w": torch.tensor([[1.0, 2.0], [3.0, 4.0]]).T})
    assert open_apr(path).tensor("w").tolist() == [[1.0, 3.0], [2.0, 4.0]]


def test_tensors_outlive_the_file_object_and_the_path(tmp_path: Path) -> None:
    path = tmp_path / "demo.apr"
    write_apr(path, DEMO_METADATA, DEMO_TENSORS)
    tensor = open_apr(path).tensor("a.bias")
    path.unlink()
    assert tensor.tolist() == [0.5, -1.0, 2.0]


def test_a_write_to_a_mapped_tensor_never_reaches_the_file(tmp_path: Path) -> None:
    path = tmp_path / "demo.apr"
    write_apr(path, DEMO_METADATA, DEMO_TENSORS)
    open_apr(path).tensor("w.weight").fill_(7.0)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == DEMO_SHA256


def test_a_file_can_be_rewritten_from_its_own_tensors(tmp_path: Path) -> None:
    path = tmp_path / "demo.apr"
    write_apr(path, DEMO_METADATA, DEMO_TENSORS)
    file = open_apr(path)
    write_apr(path, file.metadata, {name: file.tensor(name) for name in file.tensors})
    assert hashlib.sha256(path.read_bytes()).hexdigest() == DEMO_SHA256


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "model.apr"
    tensors = {"a": torch.zeros(4), "b": torch.zeros(4, device="meta")}
    with pytest.raises(NotImplementedError):
        write_apr(path, {}, tensors)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        ({"loss": float("nan")}, "JSON with Out of range float values are not JSON compliant"),
        ({"names": ("a", "b")}, "JSON with tuples or keys that are not strings"),
        ({"map": {1: "a"}}, "JSON with tuples or keys that are not strings"),
        ({"object": {1.5}}, "JSON with Object of type set is not JSON serializable"),
    ],
)
def test_metadata_that_json_would_change_is_not_written(
    tmp_path: Path, metadata: dict[str, object], found: str
) -> None:
    path = tmp_path / "model.apr"
    with pytest.raises(ModelFormatError) as caught:
        write_apr(path, metadata, {})
    assert caught.value.path == path
    assert caught.value.found.startswith(found)
    assert caught.value.expected == "plain JSON values"
    assert not path.exists()


@pytest.mark.parametrize(
    ("name", "tensor", "found", "expected"),
    [
        ("w", torch.zeros(2, dtype=torch.int64), "tensor 'w' is int64", "float32, float16 or bf"),
        ("w", torch.zeros([1] * 9), "tensor 'w' has 9 dimensions", "at most 8"),
        ("w" * 257, torch.zeros(1), f"tensor name '{'w' * 40}' of 257 bytes", "1 to 256"),
        ("", torch.zeros(1), "tensor name '' of 0 bytes", "1 to 256"),
        ("\ud800", torch.zeros(1), r"tensor name '\ud800'", "text that UTF-8 can hold"),
    ],
)
def test_a_tensor_that_the_format_cannot_hold_is_not_written(
    tmp_path: Path, name: str, tensor: Tensor, found: str, expected: str
) -> None:
    path = tmp_path / "model.apr"
    with pytest.raises(ModelFormatError) as caught:
        write_apr(path, {}, {name: tensor})
    assert caught.value.found == found
    assert caught.value.expected.startswith(expected)
    assert not path.exists()


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
dtypes = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])
shapes = st.lists(st.integers(0, 5), max_size=4)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Draw any bits at all, NaN payloads included."""
    dtype, shape = draw(dtypes), draw(shapes)
    count = torch.Size(shape).numel() * dtype.itemsize
    content = draw(st.binary(min_size=count, max_size=count))
    if not content:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(content), dtype=dtype).reshape(shape)


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60)
quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@quick
@given(
    st.dictionaries(st.text(), json_values, max_size=4),
    st.dictionaries(names, tensors(), max_size=4),
)
def test_what_is_written_is_read_back(
    tmp_path: Path, metadata: dict[str, object], written: dict[str, Tensor]
) -> None:
    path = tmp_path / "model.apr"
    write_apr(path, metadata, written)
    file = open_apr(path)
    file.verify()
    assert file.metadata == metadata
    assert list(file.tensors) == sorted(written, key=str.encode)
    for name, tensor in written.items():
        read = file.tensor(name)
        assert (read.dtype, read.shape, bits(read)) == (tensor.dtype, tensor.shape, bits(tensor))


@quick
@given(st.data())
def test_any_changed_byte_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "model.apr"
    write_apr(path, DEMO_METADATA, DEMO_TENSORS)
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with pytest.raises(ModelFormatError) as caught:
        open_apr(path).verify()
    assert caught.value.path == path


def test_every_single_byte_is_under_a_check(tmp_path: Path) -> None:
    path = tmp_path / "model.apr"
    write_apr(path, DEMO_METADATA, DEMO_TENSORS)
    content = path.read_bytes()
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 0x01
        path.write_bytes(changed)
        with pytest.raises(ModelFormatError):
            open_apr(path).verify()


def test_a_file_cut_short_anywhere_is_refused_at_opening(tmp_path: Path) -> None:
    path = tmp_path / "model.apr"
    write_apr(path, DEMO_METADATA, DEMO_TENSORS)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(CorruptFileError) as caught:
            open_apr(path)
        assert caught.value.found == f"ends after {length} bytes"


def test_a_changed_weight_is_found_by_verify_alone(tmp_path: Path) -> None:
    path = tmp_path / "model.apr"
    write_apr(path, DEMO_METADATA, DEMO_TENSORS)
    content = bytearray(path.read_bytes())
    content[0x140] ^= 0x01
    path.write_bytes(content)
    file: AprFile = open_apr(path)
    with pytest.raises(CorruptFileError) as caught:
        file.verify()
    assert caught.value.found == f"bytes with checksum {zlib.crc32(content[:-4]):08x}"
    assert caught.value.expected == "d235d23c as the footer says"


def test_metadata_keeps_the_order_of_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "model.apr"
    write_apr(path, {"b": 1, "a": 2}, {})
    assert json.dumps(open_apr(path).metadata) == '{"b": 1, "a": 2}'
