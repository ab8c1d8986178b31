"""Settings that change how fast a result comes, not what it is; no recipe includes them."""

from dataclasses import dataclass
from typing import Literal

from data.fetch import Fetching
from model.errors import WrongSettingError
from tasks import places


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeSettings:
    """Resources of this machine."""

    num_threads: int
    "CPU threads of one process; 0 takes every core."
    device: Literal["auto", "cpu", "cuda"]
    "`auto` takes the first GPU where there is one; an explicit device is never replaced."
    evaluate_batch_rows: int
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
        if self.num_threads < 0:
            raise WrongSettingError("runtime.num_threads", self.num_threads, "at least 0")
        if self.evaluate_batch_rows < 1:
            found = self.evaluate_batch_rows
            raise WrongSettingError("runtime.evaluate_batch_rows", found, "at least 1")
        if self.scheduler and self.task_runner not in ("dask", "ray"):
            expected = "empty unless runtime.task_runner is dask or ray"
            raise WrongSettingError("runtime.scheduler", self.scheduler, expected)
        if self.num_workers < 0:
            raise WrongSettingError("runtime.num_workers", self.num_workers, "at least 0")
        if self.fetch_requests < 1:
            raise WrongSettingError("runtime.fetch_requests", self.fetch_requests, "at least 1")
        if self.fetch_retries < 0:
            raise WrongSettingError("runtime.fetch_retries", self.fetch_retries, "at least 0")
        if not self.fetch_patience_seconds > 0:
            seconds = self.fetch_patience_seconds
            raise WrongSettingError("runtime.fetch_patience_seconds", seconds, "above 0")

    @property
    def fetching(self) -> Fetching:
        """How to fetch; blobs of unfinished units are kept on this machine."""
        return Fetching(
            cache=str(places.home() / "fetch"),
            max_in_flight=self.fetch_requests,
            max_retries=self.fetch_retries,
            patience_seconds=self.fetch_patience_seconds,
        )
