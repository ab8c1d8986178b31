"""Float32 weights to blocks of few bits: ours, llama.cpp's quantiser and the gguf package's.

    python -m tests.benchmarks.quantise [--rows 4096] [--repeats 5]

Needs llama-cpp-python (see `make test-interop`). Every contender quantises the same normal matrix,
in megabytes of float32 per second, on one thread and on two; the others' threads take rows each.
Machine code is compiled before the time starts. Then the errors of what they wrote.
"""

import argparse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import gguf
import numpy as np
import torch
from numpy.typing import NDArray

from model.k_quants import BlockKind, decode, encode
from tests.benchmarks.harness import (
    MEGABYTE,
    ONE_CORE,
    Contender,
    compare,
    print_header,
    print_table,
    report,
    timed,
)
from tests.interop import ggml

COLUMNS = 4096
MODULE = "tests.benchmarks.quantise"

Matrix = NDArray[np.float32]
Blocks = NDArray[np.uint8]


def ours(kind: BlockKind, matrix: Matrix) -> Blocks:
    """Quantise as this project does, on as many threads as torch is set to use."""
    return np.asarray(encode(kind, torch.from_numpy(matrix)).numpy())


def llama_cpp(kind: BlockKind, matrix: Matrix) -> Blocks:
    """Quantise with llama.cpp's library."""
    return _by_rows(lambda rows: ggml.quantize(kind, rows), matrix)


def gguf_package(kind: BlockKind, matrix: Matrix) -> Blocks:
    """Quantise with the gguf package, which has Q8_0 alone of these."""
    code = gguf.GGMLQuantizationType[kind.name]
    return _by_rows(lambda rows: gguf.quants.quantize(rows, code), matrix)


def _by_rows(quantise: Callable[[Matrix], Blocks], matrix: Matrix) -> Blocks:
    parts = np.array_split(matrix, torch.get_num_threads())
    with ThreadPoolExecutor(len(parts)) as threads:
        return np.vstack(list(threads.map(quantise, parts)))


QUANTISERS = {"ours": ours, "llama.cpp": llama_cpp, "gguf": gguf_package}


def contend(name: str, kind: BlockKind, num_rows: int, num_threads: int) -> None:
    """Quantise once with one quantiser; report its speed and its error."""
    torch.set_num_threads(num_threads)
    generator = np.random.default_rng(0)
    matrix = generator.standard_normal((num_rows, COLUMNS), np.float32)
    QUANTISERS[name](kind, matrix[:64])
    with timed() as timing:
        blocks = QUANTISERS[name](kind, matrix)
    values = decode(kind, torch.from_numpy(blocks), matrix.shape).numpy()
    rmse = float(np.sqrt(np.square(values - matrix, dtype=np.float64).mean()))
    report(timing, amount=matrix.nbytes / MEGABYTE, rmse=rmse)


def _arguments(name: str, kind: BlockKind, num_rows: int, num_threads: int) -> tuple[str, ...]:
    numbers = f"--rows {num_rows} --threads {num_threads}"
    return tuple(f"--quantiser {name} --kind {kind.name} {numbers}".split())


def main() -> None:
    """Compare the quantisers, or be one of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quantiser", choices=QUANTISERS, help=argparse.SUPPRESS)
    parser.add_argument("--kind", choices=[k.name for k in BlockKind], help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quantiser:
        contend(options.quantiser, BlockKind[options.kind], options.rows, options.threads)
        return
    packages = ("torch", "numpy", "numba", "gguf", "llama-cpp-python")
    print_header("Float32 weights to blocks", packages)
    for kind in BlockKind:
        names = [name for name in QUANTISERS if name != "gguf" or kind is BlockKind.Q8_0]
        contenders = [
            Contender(
                f"{name}, {num_threads} thread{'s' * (num_threads > 1)}",
                MODULE,
                _arguments(name, kind, options.rows, num_threads),
                environment={**ONE_CORE, "OMP_NUM_THREADS": str(num_threads)},
            )
            for num_threads in (1, 2)
            for name in names
        ]
        results = compare(contenders, repeats=options.repeats, unit="MB")
        print(f"\n{kind.name}\n")
        print_table(results, reference="llama.cpp, 1 thread")
        errors = {result.name: result.runs[0]["rmse"] for result in results}
        print("\nerror, root mean square: " + ", ".join(f"{k} {v:.6f}" for k, v in errors.items()))


if __name__ == "__main__":
    main()
