"""What the training worker needs to know, as a file that every rank reads."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from evidence.canonical import pretty
from model.llama import LlamaSettings
from model.ranks import Parallelism
from model.train_settings import TrainSettings
from tasks.thresholds import Thresholds

JOB = "job.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that the worker needs to know, as plain values."""

    directory: str
    shards: str
    shards_ref: str
    shards_index: dict[str, Any]
    model: LlamaSettings
    train: TrainSettings
    thresholds: Thresholds
    num_threads: int
    "Of one rank."
    device: str
    num_ranks: int
    "Of all nodes."
    num_nodes: int
    rendezvous: str
    "HOST:PORT where the nodes meet; empty for one."
    parallelism: Parallelism
    deterministic: bool
    compiled: bool
    start_timeout_seconds: float
    step_timeout_seconds: float
    state_digest_steps: int


def write_job(job: Job, control: Path) -> None:
    """Leave a job where its workers look."""
    (control / JOB).write_bytes(pretty(asdict(job)))


def read_job(control: Path) -> Job:
    """Read the job of this worker."""
    job: Job = TypeAdapter(Job).validate_json((control / JOB).read_bytes())
    return job
