"""Quantised tensors of an .apr file: their bytes, their values, and what cannot be quantised."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.apr_blocks import BlockTensor, decode_blocks, quantize
from model.apr_dtypes import BLOCKS, AprDtype
from model.apr_file import open_apr, write_apr
from model.apr_layout import AprFlag
from model.apr_model import read_model, write_model
from model.errors import ModelFormatError
from model.k_quants import BlockKind, encode
from model.llama import LlamaSettings
from tests.model.small_llama import small_settings, small_tensors, small_tokenizer

PATH = Path("m.apr")
QUANTIZED = [AprDtype.Q4K, AprDtype.Q6K, AprDtype.AprQ4, AprDtype.AprQ8]


def stored(dtype: AprDtype, values: Tensor) -> BlockTensor:
    return quantize(PATH, "w", dtype, values)


def matrix(rows: int = 3, columns: int = 256) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))


def test_the_bytes_of_eight_bits() -> None:
    blocks = stored(AprDtype.AprQ8, torch.tensor([1.0, -0.5, 0.25, -1.0])).blocks
    assert bytes(blocks.tolist()).hex() == "0402013c" + "7fc02081"


def test_the_bytes_of_four_bits() -> None:
    values = torch.zeros(32)
    values[:3] = torch.tensor([7.0, -7.0, 3.5])
    blocks = stored(AprDtype.AprQ4, values).blocks
    assert bytes(blocks.tolist()).hex() == "003c" + "1f8c" + "88" * 14


def test_a_last_block_of_four_bits_ends_in_zero_bytes() -> None:
    short = stored(AprDtype.AprQ4, torch.tensor([7.0, -7.0, 7.0]))
    assert bytes(short.blocks.tolist()).hex() == "003c" + "1f0f" + "00" * 14
    assert decode_blocks(short).tolist() == [7.0, -7.0, 7.0]


@pytest.mark.parametrize(("dtype", "kind"), [(AprDtype.Q4K, "Q4_K"), (AprDtype.Q6K, "Q6_K")])
def test_blocks_of_256_are_ggmls(dtype: AprDtype, kind: str) -> None:
    blocks = stored(dtype, matrix()).blocks
    assert torch.equal(blocks, encode(BlockKind[kind], matrix()).reshape(-1))
    assert BLOCKS[dtype] == (BlockKind[kind].values, BlockKind[kind].bytes)


@pytest.mark.parametrize(
    ("dtype", "bound"),
    [
        (AprDtype.Q4K, 0.075),
        (AprDtype.Q6K, 0.02),
        (AprDtype.AprQ4, 0.12),
        (AprDtype.AprQ8, 0.012),
    ],
)
def test_values_come_back_as_near_as_their_bits_allow(dtype: AprDtype, bound: float) -> None:
    found = decode_blocks(stored(dtype, matrix()))
    assert (found.shape, found.dtype) == ((3, 256), torch.float32)
    assert (found - matrix()).norm() / matrix().norm() < bound


@pytest.mark.parametrize("dtype", QUANTIZED)
def test_zeros_stay_zeros(dtype: AprDtype) -> None:
    assert decode_blocks(stored(dtype, torch.zeros(2, 256))).abs().max() == 0


@pytest.mark.parametrize("dtype", [AprDtype.AprQ4, AprDtype.AprQ8])
@settings(max_examples=40, deadline=None)
@given(shape=st.lists(st.integers(0, 9), max_size=3), peak=st.floats(1e-30, 6e4))
def test_no_value_moves_by_more_than_half_a_step(
    dtype: AprDtype, shape: list[int], peak: float
) -> None:
    values = torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 * peak - peak
    found = decode_blocks(stored(dtype, values))
    assert found.shape == values.shape
    steps = {AprDtype.AprQ4: 7, AprDtype.AprQ8: 127}[dtype]
    # Four bits round their scale to half precision, and keep it above the smallest normal one.
    step = max(peak / steps * 1.001, 2.0**-14 if dtype is AprDtype.AprQ4 else 0)
    clipped = peak * 2**-11 if dtype is AprDtype.AprQ4 else 0
    assert torch.all((found - values).abs() <= step * 0.501 + clipped)


def test_a_scale_that_other_readers_take_for_zero_gives_zeros() -> None:
    blocks = torch.tensor([0xFF, 0x03] + [0xFF] * 16, dtype=torch.uint8)
    assert decode_blocks(BlockTensor(AprDtype.AprQ4, (32,), blocks)).abs().max() == 0


@pytest.mark.parametrize("dtype", QUANTIZED)
@pytest.mark.parametrize(
    ("value", "found", "expected"),
    [
        (float("nan"), "tensor 'w' with NaN or infinity", "finite"),
        (float("inf"), "tensor 'w' with NaN or infinity", "finite"),
        (1e9, "tensor 'w' with values up to 1e+09", "at most 65504"),
    ],
)
def test_a_value_that_no_scale_can_hold_is_refused(
    dtype: AprDtype, value: float, found: str, expected: str
) -> None:
    values = matrix()
    values[1, 2] = value
    with pytest.raises(ModelFormatError) as caught:
        stored(dtype, values)
    assert (caught.value.found, caught.value.expected) == (found, expected)


@pytest.mark.parametrize("shape", [(), (255,), (256, 255)])
def test_rows_that_are_not_whole_blocks_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = tmp_path / "m.apr"
    with pytest.raises(ModelFormatError) as caught:
        write_apr(path, {}, {"w": torch.ones(shape)}, {"w": AprDtype.Q4K})
    assert caught.value.found == f"tensor 'w' of Q4K and shape {list(shape)}"
    assert not path.exists()


@pytest.mark.parametrize("dtype", QUANTIZED)
def test_a_quantised_tensor_is_written_marked_and_read(tmp_path: Path, dtype: AprDtype) -> None:
    path = tmp_path / "m.apr"
    write_apr(path, {}, {"b": torch.ones(3), "w": matrix()}, {"w": dtype})
    file = open_apr(path)
    file.verify()
    assert file.header.flags == AprFlag.ROW_MAJOR | AprFlag.QUANTIZED
    assert file.tensors["w"].dtype is dtype
    assert torch.equal(file.tensor("w"), decode_blocks(stored(dtype, matrix())))
    assert file.tensor("b").tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("dtype", QUANTIZED)
def test_a_quantised_file_is_rewritten_byte_for_byte(tmp_path: Path, dtype: AprDtype) -> None:
    one, two = tmp_path / "one.apr", tmp_path / "two.apr"
    write_apr(one, {"a": 1}, {"w": matrix(), "x": torch.ones(2)}, {"w": dtype})
    file = open_apr(one)
    write_apr(two, file.metadata, {name: file.stored(name) for name in file.tensors})
    assert two.read_bytes() == one.read_bytes()


def wide_model() -> tuple[LlamaSettings, dict[str, Tensor]]:
    llama = replace(small_settings(), hidden_size=256, intermediate_size=264)
    return llama, small_tensors(llama)


@pytest.mark.parametrize(
    ("dtype", "quantization"),
    [
        (
            AprDtype.Q4K,
            {"quant_type": "q4_k", "bits": 4, "block_size": 256, "symmetric": False},
        ),
        (AprDtype.AprQ8, {"quant_type": "q8", "bits": 8, "block_size": None, "symmetric": True}),
    ],
)
def test_a_model_says_how_its_matrices_are_quantised(
    tmp_path: Path, dtype: AprDtype, quantization: dict[str, object]
) -> None:
    path = tmp_path / "m.apr"
    llama, tensors = wide_model()
    tokenizer_json = small_tokenizer().to_str()
    write_model(
        path, llama, tensors, tokenizer_json=tokenizer_json, provenance={}, quantization=dtype
    )
    file = open_apr(path)
    assert file.metadata["quantization"] == quantization
    stored_as = {name: entry.dtype for name, entry in file.tensors.items()}
    assert stored_as["model.embed_tokens.weight"] is AprDtype.F32
    assert stored_as["model.norm.weight"] is AprDtype.F32
    assert stored_as["lm_head.weight"] is stored_as["model.layers.0.mlp.up_proj.weight"] is dtype
    # Its rows of 264 are no whole blocks of 256.
    narrow = stored_as["model.layers.0.mlp.down_proj.weight"]
    assert narrow is (AprDtype.F32 if dtype is AprDtype.Q4K else dtype)
    settings_read, read = read_model(path, scan=True)
    assert settings_read == llama
    assert torch.equal(read["model.norm.weight"], tensors["model.norm.weight"])
    assert torch.equal(
        read["lm_head.weight"], decode_blocks(stored(dtype, tensors["lm_head.weight"]))
    )


def test_the_bytes_of_a_quantised_file_stay_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "m.apr"
    values = (torch.arange(96) - 48.0).reshape(3, 32) / 7
    own = {"four": AprDtype.AprQ4, "eight": AprDtype.AprQ8}
    write_apr(path, {}, dict.fromkeys(own, values), own)
    assert path.stat().st_size == 64 + 64 + 128 + 128 + 64 + 4
    assert hashlib.sha256(path.read_bytes()).hexdigest()[:16] == "a46f4d5b6936e8d9"
