"""How far the units of one kind are: how many are done, and the tokens that all have written.

What is being made shows in the store: files of tokens grow. So the work itself tells nobody.
"""

import contextvars
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from data.progress import Progress, paced
from tasks.store import open_store
from tasks.unit_cache import SHORT, UnitCache, UnitJob

LOOK_SECONDS = 1.0
NEARLY = 0.99
"As much of a unit is done at most before it is heard to be."

Count = Callable[[str, int], None]
"Told the key and the tokens of a unit that is done."


@dataclass(slots=True)
class UnitProgress:
    """Counts the units of one kind, and looks at those that are being made."""

    what: str
    on_progress: Progress
    cache: UnitCache
    waiting: dict[str, UnitJob]
    "By the beginning of their keys; those that are done leave it."
    clock: Callable[[], float] = time.monotonic
    _num_all: int = field(init=False)
    _num_tokens: int = 0
    "Of the units that are done."
    _first: tuple[float, int] | None = None
    "When tokens were first seen, and how many: until then the workers were starting."
    _under_way: dict[str, int] = field(default_factory=dict)
    _telling: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Begin."""
        self._num_all = len(self.waiting)
        self.on_progress(self.what, 0, self._num_all)

    def count(self, key: str, num_tokens: int) -> None:
        """Count a unit that is done."""
        with self._telling:
            del self.waiting[key[:SHORT]]
            self._under_way.pop(key[:SHORT], None)
            self._num_tokens += num_tokens
            self._tell()

    def look(self) -> None:
        """Look how far those are that are being made."""
        with self._telling:
            if not self.waiting:
                return
            before, self._under_way = self._under_way, {}
            for short, directory in self.cache.under_way():
                self._see(short, directory)
            for short in before.keys() & self.waiting.keys() - self._under_way.keys():
                # Made, or given up, and not heard of yet.
                self._see(short, self.cache.directory(self.waiting[short].key))
            self._tell()

    def _see(self, short: str, directory: Path) -> None:
        # It may be moved or removed meanwhile.
        with suppress(OSError):
            if job := self.waiting.get(short):
                found = job.num_tokens(directory)
                self._under_way[short] = max(found, self._under_way.get(short, 0))

    def _tell(self) -> None:
        said = self.what
        if num_tokens := self._num_tokens + sum(self._under_way.values()):
            now = self.clock()
            since, before = self._first = self._first or (now, num_tokens)
            said += f", {paced(num_tokens, num_tokens - before, now - since)}"
        self.on_progress(said, self._num_done(), self._num_all)

    def _num_done(self) -> float:
        """Count units, those under way as parts: their tokens to those of one that is done."""
        num_done = self._num_all - len(self.waiting)
        if not self._num_tokens:
            return num_done
        usual = self._num_tokens / num_done
        return num_done + sum(min(found / usual, NEARLY) for found in self._under_way.values())


@contextmanager
def watched(what: str, jobs: Sequence[UnitJob], on_progress: Progress) -> Iterator[Count]:
    """Show how far jobs are while a block makes them, and yield what counts those that are done."""
    cache = UnitCache(open_store())
    progress = UnitProgress(what, on_progress, cache, {job.key[:SHORT]: job for job in jobs})
    over = threading.Event()

    def look_again() -> None:
        while not over.wait(LOOK_SECONDS):
            progress.look()

    # What is shown belongs to the task run that the block is in.
    inside = contextvars.copy_context()
    thread = threading.Thread(target=inside.run, args=(look_again,), daemon=True)
    thread.start()
    try:
        yield progress.count
    finally:
        over.set()
        thread.join()
