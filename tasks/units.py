"""Make the units of a stage: those that do not exist yet, where the settings say.

Within a Prefect run the missing units of a kind are the tasks of one sub-flow, on a Prefect task
runner. A single unit, a single worker, and everything outside of a Prefect run is made here.
"""

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data.progress import Progress
from data.units import Given, MakeUnits, Unit
from tasks.errors import UnsharedStoreError
from tasks.runtime import RuntimeSettings
from tasks.store import open_store
from tasks.unit_cache import Keys, UnitCache, UnitJob

CHECK_THREADS = 8
"Units checked at a time; hashing leaves the interpreter to others."


def make_units(runtime: RuntimeSettings, on_progress: Progress | None = None) -> MakeUnits:
    """Return a function that makes units with these resources, in this machine's store."""

    def show(what: str, done: int, total: int) -> None:
        if on_progress is not None:
            on_progress(what, done, total)

    def make(what: str, units: Sequence[Unit]) -> list[Path]:
        return _make(UnitCache(open_store()), runtime, what, units, show)

    return make


def _make(
    cache: UnitCache,
    runtime: RuntimeSettings,
    what: str,
    units: Sequence[Unit],
    on_progress: Progress,
) -> list[Path]:
    keys = Keys()
    missing = _missing(cache, keys, units)
    wanted = {keys.of(unit) for unit in units}
    for wave in _waves(keys, missing):
        own = [unit for unit in wave if keys.of(unit) in wanted]
        others = [unit for unit in wave if keys.of(unit) not in wanted]
        for name, some in ((f"{what}: inputs", others), (what, own)):
            _make_all(runtime, name, [keys.job(unit) for unit in some], on_progress)
    return [_made(cache, keys.of(unit)) for unit in units]


def _missing(cache: UnitCache, keys: Keys, units: Sequence[Unit]) -> dict[str, Unit]:
    """Find what has to be made: units without a directory, and in turn what those need."""
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
            found = threads.map(cache.find, new)
            lacking = [key for key, directory in zip(new, found, strict=True) if directory is None]
            missing |= {key: new[key] for key in lacking}
            level = [need for key in lacking for need in _units_of(new[key])]
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


def _made(cache: UnitCache, key: str) -> Path:
    """Return a unit that was made; by a worker elsewhere, perhaps.

    Raises: UnsharedStoreError.
    """
    if directory := cache.find(key):
        return directory
    raise UnsharedStoreError(f"unit {key[:12]}", cache.directory(key))


def _make_all(
    runtime: RuntimeSettings, what: str, jobs: list[UnitJob], on_progress: Progress
) -> None:
    """Make jobs that do not depend on each other."""
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        on_progress(what, done, len(jobs))

    if jobs:
        on_progress(what, 0, len(jobs))
    if not _is_shared(runtime) or len(jobs) < 2:
        _make_here(jobs, count)
        return
    from tasks.unit_flow import make_on_runner

    make_on_runner(runtime, what, jobs, num_workers(runtime), count)


def _make_here(jobs: list[UnitJob], count: Callable[[], None]) -> None:
    cache = UnitCache(open_store())
    for job in jobs:
        cache.make(job)
        count()


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
