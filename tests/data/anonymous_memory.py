"""How much memory this process has allocated, and the most of it while something ran.

Mapped pages of files do not count: the kernel takes them back whenever it needs them.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from data.units import Unit
from tests.data.inline import InlineUnits

INTERVAL_SECONDS = 0.003


def anonymous_bytes() -> int:
    """Read what this process has allocated and touched."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


class Peaks:
    """The most that was allocated at once, by what was done at the time."""

    def __init__(self) -> None:
        self.bytes: dict[str, int] = {}
        self._doing = ""
        self._ended = threading.Event()

    @contextmanager
    def watching(self) -> Iterator["Peaks"]:
        """Look every so often, as long as the context lasts."""
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            thread.join()

    @contextmanager
    def of(self, doing: str) -> Iterator[None]:
        """Name what is done as long as the context lasts."""
        before, self._doing = self._doing, doing
        self._look()
        try:
            yield
        finally:
            self._look()
            self._doing = before

    def _watch(self) -> None:
        while not self._ended.wait(INTERVAL_SECONDS):
            self._look()

    def _look(self) -> None:
        doing, found = self._doing, anonymous_bytes()
        if doing:
            self.bytes[doing] = max(self.bytes.get(doing, 0), found)


class WatchedUnits(InlineUnits):
    """Units made inline, and the most that was allocated while those of a kind were made."""

    def __init__(self, root: Path, peaks: Peaks) -> None:
        super().__init__(root)
        self.peaks = peaks

    def __call__(self, what: str, units: Sequence[Unit]) -> list[Path]:
        """Make units of one kind."""
        with self.peaks.of(what):
            return super().__call__(what, units)
