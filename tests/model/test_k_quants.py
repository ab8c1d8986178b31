import hashlib
from collections.abc import Iterator

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from model.errors import UnencodableError
from model.k_quants import BlockKind, decode, encode

KINDS = list(BlockKind)


def normal(rows: int, columns: int, *, seed: int = 0) -> Tensor:
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.standard_normal((rows, columns)).astype(np.float32))


def heavy_tailed(rows: int, columns: int) -> Tensor:
    generator = np.random.default_rng(1)
    return torch.from_numpy(generator.standard_t(3, (rows, columns)).astype(np.float32))


def outlier_rows(rows: int, columns: int) -> Tensor:
    matrix = normal(rows, columns, seed=2) * 0.02
    matrix[::16] *= 50
    return matrix


def ours(kind: BlockKind, matrix: Tensor) -> Tensor:
    return decode(kind, encode(kind, matrix), tuple(matrix.shape))


def rmse(kind: BlockKind, matrix: Tensor) -> float:
    return (ours(kind, matrix) - matrix).double().square().mean().sqrt().item()


def theirs(kind: BlockKind, blocks: Tensor) -> Tensor:
    values = gguf.quants.dequantize(blocks.numpy(), gguf.GGMLQuantizationType[kind.name])
    return torch.from_numpy(values)


def random_blocks(kind: BlockKind, num_blocks: int) -> Tensor:
    """Any bytes, but for the half-precision scales, which are finite."""
    generator = np.random.default_rng(3)
    blocks = generator.integers(0, 256, (num_blocks, kind.bytes), np.uint8)
    halves = generator.standard_normal((num_blocks, 2)).astype("<f2").view(np.uint8)
    scales = {BlockKind.Q8_0: [0, 1], BlockKind.Q4_K: [0, 1, 2, 3], BlockKind.Q6_K: [208, 209]}
    blocks[:, scales[kind]] = halves[:, : len(scales[kind])]
    return torch.from_numpy(blocks)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("kind", "values", "num_bytes"),
    [(BlockKind.Q8_0, 32, 34), (BlockKind.Q4_K, 256, 144), (BlockKind.Q6_K, 256, 210)],
)
def test_a_kind_knows_its_block(kind: BlockKind, values: int, num_bytes: int) -> None:
    assert (kind.values, kind.bytes) == (values, num_bytes)
    assert encode(kind, torch.zeros(3, 2 * values)).shape == (3, 2 * num_bytes)
    assert encode(kind, torch.zeros(0, values)).shape == (0, num_bytes)


@pytest.mark.parametrize("kind", KINDS)
def test_any_block_decodes_to_what_the_gguf_package_reads(kind: BlockKind) -> None:
    blocks = random_blocks(kind, 700)

    found = decode(kind, blocks, (700, kind.values))

    assert torch.equal(found.view(torch.int32), theirs(kind, blocks).view(torch.int32))


def test_a_q4_k_block_written_out() -> None:
    # Scale 0.5, offset 0.25; group 0 has scale 3 and offset 2, group 4 has scale 33 and offset 20.
    block = torch.zeros(1, 144, dtype=torch.uint8)
    block[0, :4] = torch.tensor([0x00, 0x38, 0x00, 0x34])
    block[0, 4] = 3 | 2 << 6
    block[0, 8] = 2 | 1 << 6
    block[0, 12] = 1 | 4 << 4
    block[0, 16] = 0x0F
    block[0, 16 + 64] = 0x07

    values = decode(BlockKind.Q4_K, block, (256,))

    assert values[:3].tolist() == [0.5 * 3 * 15 - 0.25 * 2, -0.5, -0.5]
    assert values[32] == 0
    assert values[128:130].tolist() == [0.5 * 33 * 7 - 0.25 * 20, -5]


@pytest.mark.parametrize("matrix", [normal(5, 320), heavy_tailed(40, 64), outlier_rows(32, 32)])
def test_q8_0_bytes_are_those_of_the_gguf_package(matrix: Tensor) -> None:
    expected = gguf.quants.quantize(matrix.numpy(), gguf.GGMLQuantizationType.Q8_0)

    assert encode(BlockKind.Q8_0, matrix).numpy().tobytes() == expected.tobytes()


def test_q8_0_rounds_halves_away_from_zero() -> None:
    row = torch.zeros(1, 32)
    row[0, :7] = torch.tensor([127, 0.5, -0.5, 1.5, -2.5, 0.49999997, -127])

    quantities = encode(BlockKind.Q8_0, row)[0, 2:].view(torch.int8)

    assert quantities[:7].tolist() == [127, 1, -1, 2, -3, 0, -127]


# What llama.cpp's own quantiser (`ggml_quantize_chunk` of llama-cpp-python 0.3.36) leaves on the
# same matrices; tests/interop compares with the library itself.
LLAMA_CPP_RMSE = {
    (BlockKind.Q4_K, "normal"): 0.071428,
    (BlockKind.Q4_K, "heavy-tailed"): 0.155037,
    (BlockKind.Q4_K, "outlier rows"): 0.017932,
    (BlockKind.Q6_K, "normal"): 0.017768,
    (BlockKind.Q6_K, "heavy-tailed"): 0.042042,
    (BlockKind.Q6_K, "outlier rows"): 0.004468,
}
MATRICES = {"normal": normal, "heavy-tailed": heavy_tailed, "outlier rows": outlier_rows}


@pytest.mark.parametrize(("kind", "name"), LLAMA_CPP_RMSE)
def test_k_quants_err_less_than_llama_cpp(kind: BlockKind, name: str) -> None:
    assert rmse(kind, MATRICES[name](64, 1024)) < LLAMA_CPP_RMSE[kind, name]


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_stay_zeros(kind: BlockKind) -> None:
    assert torch.equal(ours(kind, torch.zeros(2, 512)), torch.zeros(2, 512))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.37, -0.37, 1000.0])
def test_a_constant_matrix_is_off_by_the_scales_rounding_at_most(
    kind: BlockKind, value: float
) -> None:
    matrix = torch.full((2, 512), value)

    assert rmse(kind, matrix) <= abs(value) * 2**-11


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.4714202, 9.4911693, 170.93])
def test_two_levels_are_off_by_the_scales_rounding_at_most(kind: BlockKind, value: float) -> None:
    # Many steps hold them exactly; of those, one that spans them plainly is rounded least.
    matrix = normal(2, 512).sign() * value

    assert (ours(kind, matrix) - matrix).abs().max() <= value * 2**-10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [1e-30, 1e-42, 1e-9])
def test_values_below_every_scale_become_almost_zero(kind: BlockKind, value: float) -> None:
    found = ours(kind, normal(2, 256) * value)

    assert found.isfinite().all()
    assert found.abs().max() <= 1e-7


@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_magnitude_is_held(kind: BlockKind) -> None:
    matrix = normal(4, 512).clamp(-4, 4) * 2**18

    assert rmse(kind, matrix) < 0.08 * 2**18


# The same on every processor: no sum is reordered and nothing is contracted.
DIGESTS = {
    BlockKind.Q8_0: "08c7a3d52b403526",
    BlockKind.Q4_K: "87ef3b6f5e8e5949",
    BlockKind.Q6_K: "f6aa3a556ff61702",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_threads", [1, 3])
def test_the_bytes_depend_on_the_values_alone(
    kind: BlockKind, num_threads: int, threads: None
) -> None:
    torch.set_num_threads(num_threads)
    steps = torch.arange(600 * 512, dtype=torch.float32).reshape(600, 512)
    matrix = (steps * 0.6180339887).remainder(1) - 0.5

    digest = hashlib.sha256(encode(kind, matrix).numpy().tobytes()).hexdigest()

    assert digest[:16] == DIGESTS[kind]


@pytest.mark.parametrize(
    ("matrix", "found"),
    [
        (torch.full((1, 256), torch.nan), "a matrix with NaN or infinity"),
        (torch.full((1, 256), -torch.inf), "a matrix with NaN or infinity"),
        (torch.full((1, 256), 2.0**21), "a value of magnitude 2.1e+06"),
        (torch.zeros(256), "a float32 tensor of shape [256]"),
        (torch.zeros(2, 250), "a float32 tensor of shape [2, 250]"),
        (torch.zeros(2, 256, dtype=torch.float16), "a float16 tensor of shape [2, 256]"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_no_block_can_hold_is_refused(kind: BlockKind, matrix: Tensor, found: str) -> None:
    with pytest.raises(UnencodableError) as refused:
        encode(kind, matrix)

    assert (refused.value.kind, refused.value.found) == (kind.name, found)


@pytest.mark.parametrize("shape", [(2, 256), (255,), ()])
def test_blocks_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UnencodableError) as refused:
        decode(BlockKind.Q6_K, torch.zeros(1, 210, dtype=torch.uint8), shape)

    assert refused.value.found == f"210 bytes for shape {list(shape)}"
    assert refused.value.expected == "210 bytes for every 256 values"
