"""This process as one of those that train: its group, its seed, its signals, its last words."""

import json
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from model.ranks import RankGroup, Ranks
from tasks.determinism import repeat_every_bit
from tasks.pulse import Heart
from tasks.train_job import Job
from tasks.train_outcome import failure

Ending = Literal["done", "stopped", "failed", "crashed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What a rank says before it ends."""

    kind: Ending
    step: int
    error: str
    message: str
    hint: str
    outcome: str
    seconds: float
    "When, by the monotonic clock: what crashed first is the cause of what crashed next."


def own_rank() -> int:
    """Return which rank the launcher made this process; a process started alone is the first."""
    return int(os.environ.get("RANK", "0"))


def own_device(job: Job) -> str:
    """Return the device of this rank: under several, each its own GPU."""
    if job.num_ranks == 1 or job.device == "cpu":
        return job.device
    return f"cuda:{os.environ['LOCAL_RANK']}"


def say(control: Path, kind: Ending, step: int, error: Exception | None = None) -> None:
    """Leave last words for the process that watches."""
    told = "".join(traceback.format_exception(error)) if kind == "crashed" else str(error or "")
    words = Words(
        kind=kind,
        step=step,
        error=type(error).__name__ if error else "",
        message=told,
        hint=getattr(error, "hint", ""),
        outcome=failure(error) if error else "",
        seconds=time.monotonic(),
    )
    path = said_file(control, own_rank())
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(words)))
    partial.replace(path)


def said_file(control: Path, rank: int) -> Path:
    """Name the file of a rank's last words."""
    return control / f"rank-{rank}.said"


def statuses_file(control: Path, node: str = "0") -> Path:
    """Name the file in which a node's launcher leaves the exit statuses of ranks that failed."""
    return control / f"statuses-{node}.json"


def read_statuses(control: Path) -> dict[int, int]:
    """Read the exit statuses that the launchers of all nodes have left, by rank."""
    paths = sorted(control.glob(statuses_file(control, "*").name))
    found = [json.loads(path.read_text()) for path in paths]
    return {int(rank): status for each in found for rank, status in each.items()}


def read_words(control: Path, rank: int) -> Words | None:
    """Read the last words of a rank, if it said any."""
    path = said_file(control, rank)
    return Words(**json.loads(path.read_text())) if path.is_file() else None


def asked_to_stop() -> Callable[[], bool]:
    """Take a SIGTERM as the wish to stop after the step under way; tell whether one has come.

    An interrupt typed at the terminal reaches every process there; the parent answers it for all.
    """
    came: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: came.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return lambda: bool(came)


@contextmanager
def joined(
    job: Job, control: Path, heart: Heart, is_asked_to_stop: Callable[[], bool]
) -> Iterator[Ranks]:
    """Join the other ranks, if there are any, for the length of a block."""
    torch.set_num_threads(job.num_threads)
    _seed(job, own_rank())
    if job.deterministic:
        repeat_every_bit()
    if job.num_ranks == 1:
        yield Ranks(is_asked_to_stop)
        return
    import torch.distributed as dist

    device = torch.device(own_device(job))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Longer than the watcher waits: it names the rank that is missing, a timeout here only itself.
    limit = timedelta(seconds=2 * max(job.start_timeout_seconds, job.step_timeout_seconds))
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend, _meeting(job, control), limit, world_size=job.num_ranks, rank=own_rank()
    )
    yield RankGroup(job.parallelism, job.num_nodes, is_asked_to_stop, heart.waiting)
    dist.destroy_process_group()


def _meeting(job: Job, control: Path) -> str:
    """Name where ranks find each other: on one machine a file, since a store would listen."""
    return "env://" if job.rendezvous else f"file://{control}/ranks"


def _seed(job: Job, rank: int) -> None:
    """Seed the default generators, of every rank otherwise: what draws by mistake repeats at least.

    Whatever decides the result draws from generators of its own.
    """
    torch.manual_seed(int(np.random.SeedSequence([job.train.seed, rank]).generate_state(1)[0]))


def group_facts(job: Job, ranks: Ranks) -> dict[str, Any]:
    """Say on what this start runs, read back rather than repeated from the job; all must ask."""
    own = {"pid": os.getpid(), "device": own_device(job), "seed": torch.initial_seed()}
    grouped = ranks if isinstance(ranks, RankGroup) else None
    return {
        "parallelism": grouped.parallelism if grouped else "none",
        "backend": grouped.backend if grouped else "none",
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "num_threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "ranks": ranks.gather(own),
    }
