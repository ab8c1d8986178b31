"""Settings that change how fast a result comes, not what it is; no recipe includes them."""

from dataclasses import dataclass
from typing import Literal

from model.errors import WrongSettingError


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeSettings:
    """Resources of this machine."""

    num_threads: int
    "CPU threads of one process; 0 takes every core."
    device: Literal["auto", "cpu", "cuda"]
    "`auto` takes the first GPU where there is one; an explicit device is never replaced."
    evaluate_batch_rows: int

    def __post_init__(self) -> None:
        """Refuse resources that do not exist.

        Raises: WrongSettingError.
        """
        if self.num_threads < 0:
            raise WrongSettingError("runtime.num_threads", self.num_threads, "at least 0")
        if self.evaluate_batch_rows < 1:
            found = self.evaluate_batch_rows
            raise WrongSettingError("runtime.evaluate_batch_rows", found, "at least 1")
