"""Measure the memory and the time of a bisection at the size of the project's model.

`python -m tests.benchmarks.bisect_memory --tokens 2048 [--in-file]`: 370 million parameters with
random weights, ours against ours, one row of one matrix zero. Prints one JSON line; the peak is of
the whole process, so each figure needs a process of its own.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from flows.settings import load_settings
from model.bisection import Bisection, bisect
from model.file_values import ValueFile
from model.llama import Llama, initialise
from model.teacher_forcing import Keep
from model.torch_side import llama_side

SETTINGS = replace(load_settings("llama-370m").model, tie_embeddings=True)
FAULTY = "model.layers.11.mlp.down_proj.weight"


def models() -> tuple[Llama, Llama]:
    """Build the model twice, the second time with a fault."""
    pair = Llama(SETTINGS), Llama(SETTINGS)
    for model in pair:
        initialise(model, seed=0)
    with torch.no_grad():
        pair[1].get_parameter(FAULTY)[7] = 0.0
    return pair


def peak_bytes() -> int:
    """Return the most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def timed(pair: tuple[Llama, Llama], num_tokens: int, keep_in: Keep) -> tuple[Bisection, float]:
    """Bisect, and say how many seconds it took."""
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(SETTINGS.vocab_size, (1, num_tokens), generator=generator)
    sides = (llama_side("reference", pair[0]), llama_side("candidate", pair[1]))
    start = time.perf_counter()
    found = bisect(*sides, ids_BT, keep_in)
    return found, time.perf_counter() - start


def main(arguments: Sequence[str]) -> int:
    """Print what one bisection took; return 1 if it named anything but the planted site."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--in-file", action="store_true", help="keep the values in a file")
    options = parser.parse_args(arguments)
    pair = models()
    before = peak_bytes()
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(dir=Path.cwd()))
        file = stack.enter_context(ValueFile(Path(directory)))
        keep_in: Keep = file.new_values if options.in_file else dict
        found, seconds = timed(pair, options.tokens, keep_in)
    named = [fault.error.site for fault in found.faults]
    line = {
        "tokens": options.tokens,
        "values in": "a file" if options.in_file else "memory",
        "models, peak GB": round(before / 1e9, 2),
        "bisection, peak GB": round(peak_bytes() / 1e9, 2),
        "seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "named": named,
        "local relative L2": [fault.error.max_relative_l2 for fault in found.faults],
    }
    print(json.dumps(line))
    return int(named != ["layers.11.ffn_out"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
