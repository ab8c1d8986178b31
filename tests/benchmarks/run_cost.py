"""What a run adds to the training in it: `python -m tests.benchmarks.run_cost SHARDS`.

The same recipe in three ways, in turns: as a bare loop that looks at nothing and waits for the
device at its end alone; as the worker, which measures, logs, judges and writes a snapshot an epoch;
and as `assay train`, where Prefect, MLflow's mirror and the evidence come on top. All read the
same rows, from the store. What a step takes is by the clock from the first steps on, validation
left out; what comes once an epoch is told by itself, since a short epoch would exaggerate it.
Prints one JSON document. `--set` changes the preset, as everywhere.

Units: seconds; shares of the bare loop's step.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from data.batches import batches
from data.prefetch import prefetched
from data.rows import open_rows
from data.shard import ShardsIndex
from evidence.refs import ShardsRef, parse_ref
from flows.settings import PipelineSettings, load_settings
from model.passes import passes_of
from model.training_state import new_state
from tasks.device import choose_device, is_compiled
from tasks.gpu import device_name
from tasks.rank_processes import run_ranks
from tasks.snapshots import complete_snapshots
from tasks.store import open_store
from tasks.train import training_job
from tasks.training_log import TRAIN_LOG, read_rows
from tests.benchmarks.facts import bare, wait
from tests.benchmarks.harness import ROOT, Contender

WARM_STEPS = 10
ASSAY = "from flows.cli import main; main()"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one training took."""

    step: float
    "The mean of all steps, by their own clocks."
    median_step: float | None
    epoch: float
    "What an epoch takes beside its steps and its validation."
    start: float | None = None
    "To the end of the worker's first step."


def of_log(directory: Path, begin: float | None = None) -> Cost:
    """Read what a training took from what it left; `begin` is when its worker was started."""
    rows = read_rows(directory / TRAIN_LOG)
    first, timed = rows[WARM_STEPS - 1], rows[WARM_STEPS:]
    seconds = [row["wall_seconds"] for row in timed]
    # The last epoch's end comes after the last step.
    ended = [each.read() for each in complete_snapshots(directory)][:-1]
    validating = sum(epoch["validation_seconds"] for epoch in ended)
    beside = rows[-1]["time"] - first["time"] - sum(seconds) - validating
    return Cost(
        step=statistics.mean(seconds),
        median_step=statistics.median(seconds),
        epoch=beside / max(len(ended), 1),
        start=rows[0]["time"] - begin if begin else None,
    )


def bare_loop(settings: PipelineSettings, shards: ShardsRef) -> Cost:
    """Make the updates and nothing else, after some that are not counted."""
    artefact, train = open_store().open(shards), settings.train
    rows = open_rows(artefact.directory, artefact.read_index(ShardsIndex), "train")
    device = torch.device(choose_device(settings.runtime))
    state = new_state(settings.model, train, device)
    passes = passes_of(state.model, train.precision, compiled=is_compiled(settings.runtime))
    stream = prefetched(
        batches(rows, batch_rows=train.batch_rows, seed=train.seed, max_passes=train.max_passes)
    )
    bare(state, stream, train, passes, last=WARM_STEPS)
    wait(device)
    begin = time.perf_counter()
    bare(state, stream, train, passes, first=WARM_STEPS + 1)
    wait(device)
    seconds = (time.perf_counter() - begin) / (train.num_steps - WARM_STEPS)
    return Cost(step=seconds, median_step=None, epoch=0.0)


def worker(settings: PipelineSettings, shards: ShardsRef) -> Cost:
    """Train in the worker, without a flow around it."""
    with tempfile.TemporaryDirectory() as scratch:
        artefact = open_store().open(shards)
        sections = (settings.model, settings.train, settings.thresholds, settings.runtime)
        job = training_job(Path(scratch), artefact, *sections)
        begin = time.time()
        run_ranks(job, lambda _pulse: None)
        return of_log(Path(scratch), begin)


def flow(shards: str, options: Sequence[str]) -> Cost:
    """Train as a user does."""
    done = subprocess.run(
        [sys.executable, "-c", ASSAY, "train", "--shards", shards, "--name", "cost", "--json",
         *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )  # fmt: skip
    training = parse_ref(json.loads(done.stdout)["output"])
    return of_log(open_store().open(training).directory)


def apart(shards: str, options: Sequence[str]) -> Cost:
    """Run the bare loop in a process of its own, so that it leaves the device's memory."""
    arguments = (shards, "--bare", *options)
    return Cost(**Contender("bare", __spec__.name, arguments, environment={}).run())


def main() -> None:
    """Train in all three ways, and say what each adds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", help="Ref of shards in the store.")
    parser.add_argument("--preset", default="python-packages")
    parser.add_argument("--set", action="append", default=[], dest="changes")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--bare", action="store_true", help="the bare loop alone, once")
    arguments = parser.parse_args()
    shards = parse_ref(arguments.shards)
    if not isinstance(shards, ShardsRef):
        parser.error(f"{shards} is no ref of shards")
    if arguments.bare:
        settings = load_settings(arguments.preset, arguments.changes)
        print(json.dumps(asdict(bare_loop(settings, shards))))
        return
    found: dict[str, list[Cost]] = {"flow": [], "worker": [], "bare": []}
    for turn in range(arguments.turns):
        # Another seed: the same training would be taken from the store.
        changes = [*arguments.changes, f"train.seed={turn + 1}"]
        settings = load_settings(arguments.preset, changes)
        options = ["--preset", arguments.preset, *(f"--set={change}" for change in changes)]
        found["flow"].append(flow(arguments.shards, options))
        found["worker"].append(worker(settings, shards))
        found["bare"].append(apart(arguments.shards, options))
        print({name: costs[-1] for name, costs in found.items()}, file=sys.stderr, flush=True)
    print(json.dumps(_compared(found, load_settings(arguments.preset, arguments.changes))))


def _compared(found: dict[str, list[Cost]], settings: PipelineSettings) -> dict[str, Any]:
    step = {name: statistics.mean(cost.step for cost in costs) for name, costs in found.items()}
    epoch = {name: statistics.mean(cost.epoch for cost in costs) for name, costs in found.items()}
    return {
        "device": device_name(torch.device(choose_device(settings.runtime))),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "num_steps": settings.train.num_steps,
        "steps_per_epoch": settings.train.steps_per_epoch,
        "turns": {name: [asdict(cost) for cost in costs] for name, costs in found.items()},
        "seconds_a_step": step,
        "seconds_an_epoch": epoch,
        "worker_to_bare": step["worker"] / step["bare"],
        "flow_to_worker": step["flow"] / step["worker"],
    }


if __name__ == "__main__":
    main()
