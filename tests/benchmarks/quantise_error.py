"""What Q4_K and Q6_K lose, as a share of what llama.cpp's own quantiser loses.

    python -m tests.benchmarks.quantise_error [--checkpoint CHECKPOINT]

Needs llama-cpp-python (see `make test-interop`). Root mean square errors over matrices of several
kinds and, of a checkpoint of the store, over each of its matrices; plain, and under the weights by
which llama.cpp's quantiser judges. Below one, ours errs less.
"""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from model.apr_model import read_model
from model.k_quants import BlockKind, decode, encode
from tests.benchmarks.harness import print_header
from tests.interop import ggml

SHAPE = (256, 1024)
KINDS = (BlockKind.Q4_K, BlockKind.Q6_K)


def _outlier_rows(generator: Generator) -> object:
    matrix = generator.standard_normal(SHAPE) * 0.02
    matrix[::16] *= 50
    return matrix


def _outlier_columns(generator: Generator) -> object:
    matrix = generator.standard_normal(SHAPE) * 0.02
    matrix[:, ::97] *= 30
    return matrix


MATRICES: dict[str, Callable[[Generator], object]] = {
    "normal": lambda generator: generator.standard_normal(SHAPE),
    "Laplace": lambda generator: generator.laplace(size=SHAPE),
    "Student's t, 3 degrees": lambda generator: generator.standard_t(3, SHAPE),
    "Student's t, 1.5 degrees": lambda generator: generator.standard_t(1.5, SHAPE),
    "outlier rows": _outlier_rows,
    "outlier columns": _outlier_columns,
    "uniform on 0 to 1": lambda generator: generator.random(SHAPE),
    "magnitudes of normal": lambda generator: np.abs(generator.standard_normal(SHAPE)),
    "constant": lambda _: np.full(SHAPE, 0.37),
    "negative constant": lambda _: np.full(SHAPE, -0.37),
    "two levels": lambda generator: generator.choice([-1.0, 1.0], SHAPE),
    "one in fifty": lambda generator: generator.random(SHAPE) < 0.02,
    "zero": lambda _: np.zeros(SHAPE),
}


def shares(kind: BlockKind, matrix: Tensor) -> tuple[float, float]:
    """Compare the errors, plain and weighted; two that are zero are equal."""
    shape = tuple(matrix.shape)
    theirs = torch.from_numpy(ggml.quantize(kind, matrix.numpy()))
    ours, others = (
        (decode(kind, blocks, shape) - matrix).double().square()
        for blocks in (encode(kind, matrix), theirs)
    )
    weights = ggml.judging_weights(kind, matrix).double()
    plain, weighted = (
        float((w * ours).sum() / (w * others).sum()) ** 0.5 if (w * others).any() else 1.0
        for w in (torch.ones(()), weights)
    )
    return plain, weighted


def drawn() -> Iterable[tuple[str, list[Tensor]]]:
    """Draw the matrices, each from its own generator."""
    for name, draw in MATRICES.items():
        values = np.asarray(draw(np.random.default_rng(0)), np.float32)
        yield name, [torch.from_numpy(values)]


def trained(checkpoint: Path) -> Iterable[tuple[str, list[Tensor]]]:
    """Read the matrices of a checkpoint whose rows are whole super-blocks."""
    _, tensors = read_model(checkpoint / "model.apr")
    matrices = [tensor.clone() for tensor in tensors.values() if tensor.ndim == 2]
    whole = [matrix for matrix in matrices if not matrix.shape[1] % BlockKind.Q4_K.values]
    yield f"{len(whole)} trained matrices, least to most", whole


def main() -> None:
    """Print a table, a row for each kind of matrix."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path)
    options = parser.parse_args()
    print_header("Errors of blocks, as a share of llama.cpp's", ("numpy", "llama-cpp-python"))
    print("| matrix | Q4_K | weighted | Q6_K | weighted |\n|---|---|---|---|---|")
    cases = [*drawn(), *(trained(options.checkpoint) if options.checkpoint else ())]
    for name, matrices in cases:
        cells = []
        for kind in KINDS:
            for column in zip(*(shares(kind, matrix) for matrix in matrices), strict=True):
                ends = dict.fromkeys(f"{value:.3f}" for value in (min(column), max(column)))
                cells.append(" to ".join(ends))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
