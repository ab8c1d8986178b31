import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from model.errors import ModelFormatError
from model.gguf_file import GgufFile, open_gguf, write_gguf
from model.gguf_layout import TensorType
from model.gguf_values import Array, Scalar, Value, ValueKind

METADATA: dict[str, Value] = {
    "general.architecture": Scalar(ValueKind.STRING, "other"),
    "u8": Scalar(ValueKind.U8, 255),
    "i16": Scalar(ValueKind.I16, -32768),
    "u64": Scalar(ValueKind.U64, 2**64 - 1),
    "i64": Scalar(ValueKind.I64, -(2**63)),
    "f32": Scalar(ValueKind.F32, 1e-5),
    "f64": Scalar(ValueKind.F64, 0.1),
    "yes": Scalar(ValueKind.BOOL, value=True),
    "text": Scalar(ValueKind.STRING, "Füße\n"),
    "texts": Array(ValueKind.STRING, ["a", "", "Ġb"]),
    "numbers": Array(ValueKind.I32, np.array([1, -2])),
    "none": Array(ValueKind.U16, np.array([], np.uint16)),
}
VECTOR = np.arange(3, dtype=np.float32)


def written(path: Path, metadata: dict[str, Value]) -> Path:
    write_gguf(path, metadata, [("w", TensorType.F32, (3,))], [VECTOR])
    return path


def rewritten(file: GgufFile, path: Path) -> Path:
    planned = [(tensor.name, tensor.type, tensor.shape) for tensor in file.tensors.values()]
    write_gguf(path, file.metadata, planned, map(file.content, file.tensors))
    return path


def test_a_small_file_written_out(tmp_path: Path) -> None:
    path = written(tmp_path / "a.gguf", {"k": Scalar(ValueKind.U32, 7)})

    front = (
        b"GGUF" + struct.pack("<IQQ", 3, 1, 1)
        + struct.pack("<Q", 1) + b"k" + struct.pack("<II", 4, 7)
        + struct.pack("<Q", 1) + b"w" + struct.pack("<IQIQ", 1, 3, 0, 0)
    )  # fmt: skip
    assert path.read_bytes() == front.ljust(96, b"\0") + VECTOR.tobytes().ljust(32, b"\0")


def test_metadata_comes_back_with_its_types(tmp_path: Path) -> None:
    found = open_gguf(written(tmp_path / "a.gguf", METADATA)).metadata

    assert list(found) == list(METADATA)
    for key, value in METADATA.items():
        other = found[key]
        assert other.kind is value.kind
        if isinstance(value, Array):
            assert isinstance(other, Array)
            assert list(other.values) == list(value.values)
        else:
            assert other == value


def test_the_gguf_package_reads_the_same(tmp_path: Path) -> None:
    reader = gguf.GGUFReader(written(tmp_path / "a.gguf", METADATA))

    assert reader.fields["texts"].contents() == ["a", "", "Ġb"]
    assert reader.fields["numbers"].contents() == [1, -2]
    assert reader.fields["u64"].contents() == 2**64 - 1
    assert reader.fields["f32"].contents() == pytest.approx(1e-5)
    assert reader.tensors[0].data.tolist() == [0, 1, 2]


def test_a_file_that_was_read_is_written_as_it_was(tmp_path: Path) -> None:
    path = written(tmp_path / "a.gguf", METADATA)

    assert rewritten(open_gguf(path), tmp_path / "b.gguf").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("alignment", [32, 8, 4096])
def test_a_file_of_the_gguf_package_is_written_as_it_was(tmp_path: Path, alignment: int) -> None:
    path = tmp_path / "a.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(alignment)
    writer.add_token_list(["a", "b"])
    writer.add_layer_norm_rms_eps(3.14e-6)
    generator = np.random.default_rng(0)
    for kind in ("F32", "F16", "BF16", "Q8_0", "Q4_0"):
        drawn = generator.standard_normal((3, 64)).astype(np.float32)
        code = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(kind, gguf.quants.quantize(drawn, code), raw_dtype=code)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    file = open_gguf(path)

    assert {name: tensor.shape for name, tensor in file.tensors.items()} == dict.fromkeys(
        ["F32", "F16", "BF16", "Q8_0", "Q4_0"], (3, 64)
    )
    assert rewritten(file, tmp_path / "b.gguf").read_bytes() == path.read_bytes()


def test_types_are_those_of_the_gguf_package() -> None:
    for kind in TensorType:
        theirs = gguf.GGMLQuantizationType[kind.name]
        assert (kind.code, gguf.GGML_QUANT_SIZES[theirs]) == (
            theirs.value,
            (kind.block_values, kind.block_bytes),
        )
    kinds = {kind.name: kind.code for kind in ValueKind}
    names = {"U8": "UINT8", "I8": "INT8", "U16": "UINT16", "I16": "INT16", "U32": "UINT32"} | {
        "I32": "INT32",
        "F32": "FLOAT32",
        "U64": "UINT64",
        "I64": "INT64",
        "F64": "FLOAT64",
    }
    assert all(gguf.GGUFValueType[names.get(name, name)] == code for name, code in kinds.items())


def test_writing_to_a_mapped_tensor_leaves_the_file(tmp_path: Path) -> None:
    path = written(tmp_path / "a.gguf", METADATA)
    before = path.read_bytes()

    open_gguf(path).content("w")[:] = 1

    assert path.read_bytes() == before


def test_a_write_that_fails_leaves_the_former_file_and_nothing_else(tmp_path: Path) -> None:
    path = written(tmp_path / "a.gguf", METADATA)
    before = path.read_bytes()

    def data() -> object:
        yield VECTOR
        raise KeyboardInterrupt

    planned = [(name, TensorType.F32, (3,)) for name in ("v", "w")]
    with pytest.raises(KeyboardInterrupt):
        write_gguf(path, METADATA, planned, data())  # type: ignore[arg-type]

    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        ({"k": Scalar(ValueKind.U8, 256)}, "k is 256"),
        ({"k": Scalar(ValueKind.U32, -1)}, "k is -1"),
        ({"k": Scalar(ValueKind.I32, 0.5)}, "k is 0.5"),
        ({"k": Scalar(ValueKind.F32, 1e39)}, "'k' is inf"),
        ({"k": Scalar(ValueKind.F64, float("nan"))}, "k is nan"),
        ({"": Scalar(ValueKind.U8, 1)}, "key ''"),
        ({"general.alignment": Scalar(ValueKind.U32, 3)}, "general.alignment is 3"),
    ],
)
def test_metadata_that_could_not_be_read_is_not_written(
    tmp_path: Path, metadata: dict[str, Value], found: str
) -> None:
    with pytest.raises(ModelFormatError) as refused:
        written(tmp_path / "a.gguf", metadata)

    assert refused.value.found == found
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "kind", "shape", "found"),
    [
        ("w" * 64, TensorType.F32, (1,), f"tensor name '{'w' * 64}' with 1 dimensions"),
        ("w", TensorType.F32, (1,) * 5, "tensor name 'w' with 5 dimensions"),
        ("w", TensorType.Q4_K, (2, 32), "tensor 'w' of shape [2, 32] as Q4_K"),
    ],
)
def test_a_tensor_that_the_format_cannot_hold_is_not_written(
    tmp_path: Path, name: str, kind: TensorType, shape: tuple[int, ...], found: str
) -> None:
    none: list[NDArray[np.float32]] = []
    with pytest.raises(ModelFormatError) as refused:
        write_gguf(tmp_path / "a.gguf", {}, [(name, kind, shape)], none)

    assert refused.value.found == found
