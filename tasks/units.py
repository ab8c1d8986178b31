"""Make the units of a stage: those that do not exist yet, where the settings say.

Within a Prefect run the missing units of a kind are the tasks of one sub-flow, on a Prefect task
runner. A single unit, a single worker, and everything outside of a Prefect run is made here.
"""

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from data.progress import Progress
from data.units import Given, MakeUnits, Unit
from tasks.errors import UnsharedStoreError
from tasks.runtime import RuntimeSettings
from tasks.store import open_store
from tasks.unit_cache import Keys, UnitCache, UnitJob
from tasks.unit_progress import Count, watched

FoundT = TypeVar("FoundT")
CHECK_THREADS = 8
"Units checked at a time; hashing leaves the interpreter to others."


def make_units(runtime: RuntimeSettings, on_progress: Progress | None = None) -> MakeUnits:
    """Return what makes units with these resources, in this machine's store."""

    def show(what: str, done: float, total: int) -> None:
        if on_progress is not None:
            on_progress(what, done, total)

    return Maker(runtime, show)


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes units that do not exist yet, with some resources."""

    runtime: RuntimeSettings
    on_progress: Progress

    def __call__(self, what: str, units: Sequence[Unit]) -> list[Path]:
        """Return the directories of all, in order.

        Raises: UnsharedStoreError, and what a unit raises.
        """
        cache, keys = UnitCache(open_store()), Keys()
        self._make(cache, keys, what, units, cache.find)
        return [_present(cache, keys.of(unit), cache.find) for unit in units]

    def somewhere(self, what: str, units: Sequence[Unit]) -> None:
        """Make units without having them here: where the store is elsewhere, there they stay.

        Raises: UnsharedStoreError, and what a unit raises.
        """
        cache, keys = UnitCache(open_store()), Keys()
        for key in self._make(cache, keys, what, units, cache.exists):
            _present(cache, key, cache.exists)

    def _make(
        self,
        cache: UnitCache,
        keys: Keys,
        what: str,
        units: Sequence[Unit],
        look: Callable[[str], object],
    ) -> dict[str, Unit]:
        """Make those that `look` does not find, and what they need; return them by key."""
        missing = _missing(cache, keys, units, look)
        wanted = {keys.of(unit) for unit in units}
        for wave in _waves(keys, missing):
            own = [unit for unit in wave if keys.of(unit) in wanted]
            others = [unit for unit in wave if keys.of(unit) not in wanted]
            for name, some in ((f"{what}: inputs", others), (what, own)):
                _make_all(self.runtime, name, [keys.job(unit) for unit in some], self.on_progress)
        return missing


def _missing(
    cache: UnitCache, keys: Keys, units: Sequence[Unit], look: Callable[[str], object]
) -> dict[str, Unit]:
    """Find what has to be made: units that `look` misses, and what they need that is nowhere."""
    missing: dict[str, Unit] = {}
    seen: set[str] = set()
    level = list(units)
    with ThreadPoolExecutor(CHECK_THREADS) as threads:
        while level:
            new: dict[str, Unit] = {}
            for unit in level:
                if keys.of(unit) not in seen:
                    new.setdefault(keys.of(unit), unit)
            seen |= new.keys()
            found = threads.map(look, new)
            lacking = [key for key, each in zip(new, found, strict=True) if not each]
            missing |= {key: new[key] for key in lacking}
            level = [need for key in lacking for need in _units_of(new[key])]
            look = cache.exists
    return missing


def _waves(keys: Keys, missing: dict[str, Unit]) -> list[list[Unit]]:
    """Order what is missing so that nothing comes before what it needs."""
    depths: dict[str, int] = {}

    def depth(unit: Unit) -> int:
        key = keys.of(unit)
        if key not in depths:
            needs = [need for need in _units_of(unit) if keys.of(need) in missing]
            depths[key] = 1 + max(map(depth, needs), default=-1)
        return depths[key]

    waves: list[list[Unit]] = []
    for unit in missing.values():
        while len(waves) <= depth(unit):
            waves.append([])
        waves[depth(unit)].append(unit)
    return waves


def _units_of(unit: Unit) -> list[Unit]:
    return [need for need in (*unit.inputs, *unit.aside) if not isinstance(need, Given)]


def _present(cache: UnitCache, key: str, look: Callable[[str], FoundT | None]) -> FoundT:
    """Return what `look` finds of a unit that was made; by a worker elsewhere, perhaps.

    Raises: UnsharedStoreError.
    """
    if found := look(key):
        return found
    raise UnsharedStoreError(f"unit {key[:12]}", cache.directory(key))


def _make_all(
    runtime: RuntimeSettings, what: str, jobs: list[UnitJob], on_progress: Progress
) -> None:
    """Make jobs that do not depend on each other."""
    if not jobs:
        return
    with watched(what, jobs, on_progress) as count:
        # A single one is made here, unless that would bring what it needs here too.
        if not _is_shared(runtime) or (len(jobs) < 2 and not runtime.scheduler):
            _make_here(jobs, count)
            return
        from tasks.unit_flow import make_on_runner

        make_on_runner(runtime, what, jobs, num_workers(runtime), count)


def _make_here(jobs: list[UnitJob], count: Count) -> None:
    cache = UnitCache(open_store())
    for job in jobs:
        count(job.key, job.num_tokens(cache.make(job)))


def _is_shared(runtime: RuntimeSettings) -> bool:
    """Return whether other processes are to help; without a Prefect run there is no way to."""
    has_others = bool(runtime.scheduler) or num_workers(runtime) > 1
    if runtime.task_runner == "inline" or not has_others or "prefect" not in sys.modules:
        return False
    from prefect.context import FlowRunContext

    return FlowRunContext.get() is not None


def num_workers(runtime: RuntimeSettings) -> int:
    """Return the number of processes that make units on this machine."""
    return runtime.num_workers or len(os.sched_getaffinity(0))
