"""Settings that change how fast a result comes, not what it is; no recipe includes them."""

import re
from dataclasses import dataclass
from typing import Literal

from data.fetch import Fetching
from model.errors import WrongSettingError
from model.ranks import Parallelism
from tasks import places

DEVICE = re.compile(r"cpu|cuda(:([0-9]|1[0-5]))?|auto")
ENDPOINT = re.compile(r"(?P<host>[A-Za-z0-9._-]+):(?P<port>[1-9][0-9]{0,4})")


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeSettings:
    """Resources of this machine."""

    num_threads: int
    "CPU threads of one process; 0 takes every core."
    device: str
    "`cpu`, `cuda`, `cuda:N` or `auto`, which alone takes the CPU where there is no GPU."
    num_ranks: int
    "Processes of a machine that train together, on a GPU each or on the CPU; 0 takes every GPU."
    num_nodes: int
    "Machines that train together, each with as many ranks; they share a file system."
    rendezvous: str
    "HOST:PORT on the first of several machines, where they meet; empty for one."
    parallelism: Parallelism
    "What ranks hold: `ddp` all of the model each, `fsdp` a part of it each."
    deterministic: bool
    "The same bits again on a GPU, at some cost; on the CPU they are the same without it."
    compile: Literal["auto", "on", "off"]
    "Kernels made for the model at the start; `auto` where there are a GPU and a C++ compiler."
    start_timeout_seconds: float
    "Until the first step a rank must give a sign of life as often as this."
    step_timeout_seconds: float
    "From the first step on."
    state_digest_steps: int
    "The log has a digest of weights and optimizer at every so-manieth step, and at epochs' ends."
    task_runner: Literal["processes", "inline", "dask", "ray"]
    "Where units of work are made: in processes of this machine, in this one, or on a cluster."
    scheduler: str
    "Address of a Dask or Ray cluster; empty has dask and ray start one on this machine."
    num_workers: int
    "Processes that make units on this machine; 0 takes one a core."

    fetch_requests: int
    "Requests to a bucket at a time, of one process."
    fetch_retries: int
    fetch_patience_seconds: float
    "After which a request is given up, however many retries are left."

    def __post_init__(self) -> None:
        """Refuse resources that do not exist.

        Raises: WrongSettingError.
        """
        if not DEVICE.fullmatch(self.device):
            expected = "cpu, cuda, cuda:N with N from 0 to 15, or auto"
            raise WrongSettingError("runtime.device", self.device, expected)
        for name in ("num_threads", "num_ranks", "num_workers", "fetch_retries"):
            self._require(name, getattr(self, name) >= 0, "at least 0")
        for name in ("state_digest_steps", "num_nodes", "fetch_requests"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        expected = "HOST:PORT where runtime.num_nodes is above 1, else empty"
        self._require("rendezvous", self._has_place_to_meet, expected)
        for name in ("start_timeout_seconds", "step_timeout_seconds", "fetch_patience_seconds"):
            self._require(name, getattr(self, name) > 0, "above 0")
        has_cluster = self.task_runner in ("dask", "ray")
        expected = "empty unless runtime.task_runner is dask or ray"
        self._require("scheduler", has_cluster or not self.scheduler, expected)

    def _require(self, name: str, holds: bool, expected: str) -> None:  # noqa: FBT001
        if not holds:
            raise WrongSettingError(f"runtime.{name}", getattr(self, name), expected)

    @property
    def _has_place_to_meet(self) -> bool:
        if self.num_nodes == 1:
            return not self.rendezvous
        return bool(ENDPOINT.fullmatch(self.rendezvous))

    @property
    def fetching(self) -> Fetching:
        """How to fetch; blobs of unfinished units are kept on this machine."""
        return Fetching(
            cache=str(places.home() / "fetch"),
            max_in_flight=self.fetch_requests,
            max_retries=self.fetch_retries,
            patience_seconds=self.fetch_patience_seconds,
        )
