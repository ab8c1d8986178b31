"""Snapshots written beside training: one at a time, in a thread of its own."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

LOOK_SECONDS = 1.0


class SnapshotWriter:
    """Runs one write at a time; what fails there is raised here. Leaving it lets a write end."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="snapshots")
        self._under_way: Future[None] | None = None

    def start(self, write: Callable[[], None]) -> None:
        """Begin a write; the one before must have been waited for."""
        assert self._under_way is None
        self._under_way = self._thread.submit(write)

    def check(self) -> None:
        """Raise what made a write fail, if one did."""
        if self._under_way is not None and self._under_way.done():
            self._under_way.result()

    def wait(self, beat: Callable[[], None]) -> float:
        """Wait for the write under way, and return the seconds that it took to wait."""
        begin = time.perf_counter()
        if self._under_way is not None:
            while not wait((self._under_way,), LOOK_SECONDS).done:
                beat()
            self._under_way.result()
            self._under_way = None
        return time.perf_counter() - begin

    def __enter__(self) -> "SnapshotWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True)
