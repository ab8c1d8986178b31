"""Time contenders fairly: each in a process of its own, by processor seconds, children included.

A contender is a program that does its imports, then its work inside `timed()`, and prints what it
did as one line of JSON. This module needs the standard library alone, so that rivals can use it in
an environment of theirs.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
ONE_CORE = {
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "FASTOKENS_BPE_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
"""What keeps a contender's libraries to one core."""
MEGABYTE = 1_000_000


@dataclass
class Timing:
    """What one piece of work took, and what it says of itself."""

    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)


@contextmanager
def timed() -> Iterator[Timing]:
    """Measure the block: processor seconds of this process and of its children that ended."""
    timing = Timing()
    cpu, wall = _cpu_seconds(), time.perf_counter()
    yield timing
    timing.cpu_seconds = _cpu_seconds() - cpu
    timing.wall_seconds = time.perf_counter() - wall


def report(timing: Timing, **facts: Any) -> None:
    """Print a contender's result, as its last line."""
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MEGABYTE
    seconds = {"cpu_seconds": timing.cpu_seconds, "wall_seconds": timing.wall_seconds}
    print(json.dumps({**seconds, "peak_mb": peak_mb, **timing.facts, **facts}), flush=True)


@dataclass(frozen=True)
class Contender:
    """A program: `module` of this repository, run by the Python of some environment."""

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    python: str = sys.executable
    environment: Mapping[str, str] = field(default_factory=lambda: ONE_CORE)

    def run(self) -> dict[str, Any]:
        """Run once; return what it reported."""
        done = subprocess.run(
            [self.python, "-m", self.module, *self.arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **self.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{self.name} failed:\n{done.stderr}")
        return dict(json.loads(done.stdout.strip().splitlines()[-1]))


@dataclass(frozen=True)
class Result:
    """The runs of one contender, with the amount of work of each."""

    name: str
    runs: tuple[dict[str, Any], ...]
    unit: str

    def rates(self, seconds: str = "cpu_seconds") -> list[float]:
        """Work per second of every run; `amount` is what a contender reports as such."""
        return [run["amount"] / run[seconds] for run in self.runs]

    @property
    def rate(self) -> float:
        """Median of the work per processor second."""
        return statistics.median(self.rates())


def compare(contenders: Sequence[Contender], *, repeats: int, unit: str) -> list[Result]:
    """Run all contenders in turn, so many times, so that a busy spell hits all of them."""
    runs: dict[str, list[dict[str, Any]]] = {contender.name: [] for contender in contenders}
    for number in range(repeats):
        for contender in contenders:
            load = os.getloadavg()[0]
            runs[contender.name].append({**contender.run(), "load": load})
            print(f"run {number + 1}: {contender.name}", file=sys.stderr, flush=True)
    return [Result(name, tuple(found), unit) for name, found in runs.items()]


def print_table(results: Sequence[Result], *, reference: str) -> None:
    """Print medians, spreads and ratios to one of the results."""
    base = next(result.rate for result in results if result.name == reference)
    unit = results[0].unit
    print(
        f"| | {unit}/cpu-s, median (least-most) | {unit}/s wall | x {reference} | peak MB | load |"
    )
    print("|---|---|---|---|---|---|")
    for result in results:
        rates, walls = result.rates(), result.rates("wall_seconds")
        peak_mb = max(run["peak_mb"] for run in result.runs)
        load = max(run["load"] for run in result.runs)
        print(
            f"| {result.name} | {result.rate:.4g} ({min(rates):.4g}-{max(rates):.4g}) "
            f"| {statistics.median(walls):.4g} | {result.rate / base:.3g} "
            f"| {peak_mb:.0f} | {load:.1f} |"
        )


def print_header(title: str, packages: Sequence[str] = ()) -> None:
    """Print what it was measured on and with."""
    print(f"# {title}\n")
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    print(f"{_processor()}, {os.cpu_count()} cores, {gib:.0f} GiB; {platform.platform()}")
    print(f"Python {platform.python_version()}; {', '.join(map(_version, packages))}\n")


def require_equal(what: str, found: Mapping[str, Any]) -> None:
    """Stop if contenders that must agree do not."""
    if len({json.dumps(value, sort_keys=True) for value in found.values()}) > 1:
        lines = "\n".join(f"  {name}: {value}" for name, value in found.items())
        raise SystemExit(f"{what} differs:\n{lines}")
    print(f"{what}: the same for {', '.join(found)} ({next(iter(found.values()))})")


def _cpu_seconds() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.split(": ")[1] for line in lines if "model name" in line), "processor unknown"
    )


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} absent"
