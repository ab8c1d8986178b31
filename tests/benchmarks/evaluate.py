"""What scoring rows one at a time costs, and by how much batches of rows differ from it.

    python -m tests.benchmarks.evaluate --preset llama-370m --device cuda --rows 48

`model.evaluation` scores rows one by one, so that a row has the same bits in any batch. Beside it
the same model scores batches. All in one process, in turns; the median of the turns counts.
"""

import argparse
import json
import platform
import statistics
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from model.evaluation import evaluate, round_weights
from model.llama import Llama, LlamaSettings, initialise
from model.loss import row_losses

PRESETS = Path(__file__).parents[2] / "flows" / "presets"
BATCHES = (1, 3, 16)
TURNS = 3


@torch.inference_mode()
def batched(model: Llama, ids_NS: np.ndarray, device: str, batch_rows: int) -> np.ndarray:
    """Score so many rows at once."""
    ids = torch.from_numpy(ids_NS).to(device)
    pieces = (ids[first : first + batch_rows] for first in range(0, len(ids), batch_rows))
    losses = [row_losses(model, piece, None) for piece in pieces]
    return torch.cat(losses).float().cpu().numpy()


def ways(model: Llama, ids_NS: np.ndarray, device: str) -> Iterator[tuple[str, float, np.ndarray]]:
    """Score the rows in every way; yield its name, seconds and losses."""
    # Other work on a machine takes wall time from a CPU; the results are fetched from a GPU.
    clock = time.process_time if device == "cpu" else time.perf_counter
    for batch_rows in (0, *BATCHES):
        begin = clock()
        if batch_rows:
            losses = batched(model, ids_NS, device, batch_rows)
        else:
            # As a rank is given them: in pieces, which may be of any size.
            pieces = np.array_split(ids_NS, 5)
            found = [evaluate(model, piece, device, document_end=None) for piece in pieces]
            losses = np.concatenate(found)
        name = f"batches of {batch_rows}" if batch_rows else "evaluate"
        yield name, clock() - begin, losses


def compare(model: Llama, ids_NS: np.ndarray, device: str) -> list[dict[str, object]]:
    """Return rates, and differences to what `evaluate` gives."""
    list(ways(model, ids_NS, device))
    seconds: dict[str, list[float]] = {}
    losses: dict[str, np.ndarray] = {}
    for _ in range(TURNS):
        for name, taken, found in ways(model, ids_NS, device):
            seconds.setdefault(name, []).append(taken)
            losses[name] = found
    num_tokens = ids_NS[:, 1:].size
    exact = losses["evaluate"].astype(np.float64)
    return [
        {
            "way": name,
            "tokens_per_second": round(num_tokens / statistics.median(seconds[name])),
            "same_bits": bool((losses[name] == losses["evaluate"]).all()),
            "largest_difference_nats": float(np.abs(losses[name] - exact).max()),
            "mean_difference_nats": abs(float(losses[name].mean(dtype=np.float64) - exact.mean())),
        }
        for name in losses
    ]


def main() -> None:
    """Measure and print one JSON document."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    preset = tomllib.loads((PRESETS / f"{options.preset}.toml").read_text())
    settings, context = LlamaSettings(**preset["model"]), preset["shard"]["context_length"]
    draw = np.random.default_rng(0)
    ids_NS = draw.integers(0, settings.vocab_size, (options.rows, context + 1))
    is_cuda = options.device.startswith("cuda")
    device = torch.cuda.get_device_name(options.device) if is_cuda else platform.machine()
    results = {}
    for precision in ("float32", "bfloat16"):
        model = Llama(settings)
        initialise(model, 0)
        model = round_weights(model.to(options.device).eval(), precision)
        results[precision] = compare(model, ids_NS, options.device)
    about = {"device": device, "torch": torch.__version__, "preset": options.preset}
    print(json.dumps({**about, "context": context, "rows": options.rows, **results}, indent=1))


if __name__ == "__main__":
    main()
