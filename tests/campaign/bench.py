"""Homes in which runs are disturbed, and the lanes that run them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tasks import places
from tests.campaign.inject import Injection
from tests.campaign.request import STAGES, Request, write_request
from tests.campaign.result import directory, refs, result
from tests.tasks.tiny import write_corpus

PATIENCE_SECONDS = 240.0
KIND_OF = dict(
    zip(STAGES, ("tokens", "shards", "training", "evaluation", "checkpoint", "trace"), strict=True)
)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended."""

    code: int
    orphans: list[str]
    seconds: float
    said: str
    happened: bool
    "Whether what was to go wrong did."
    counts: dict[str, int]
    "How many operations of every kind there were, where they were counted."


@dataclass(slots=True)
class Lane:
    """The process that runs are forks of, which has imported everything."""

    process: "subprocess.Popen[str]"

    def start(self, request: Path) -> int:
        """Start a run; return its pid."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{request}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@contextmanager
def lane() -> Iterator[Lane]:
    """Run a lane as long as the block."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.campaign.lane"],
        cwd=places.PROJECT,
        env={**environment, "RAYON_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Lane(process)
        assert process.stdin is not None
        process.stdin.close()


@dataclass(slots=True)
class Bench:
    """A directory of homes, the undisturbed run among them, and a lane."""

    root: Path
    lane: Lane
    number: int = 0
    straight: dict[str, Any] = field(default_factory=dict)
    "What the undisturbed run computed."
    of_two_ranks: dict[str, Any] = field(default_factory=dict)
    "The same of two ranks."
    usual: dict[tuple[str, str], float] = field(default_factory=dict)
    "How long undisturbed stages take, by the first and the last."

    @property
    def whole(self) -> Path:
        """The home of the undisturbed run; benches beside each other share it."""
        return self.root.parent / "whole"

    def prepare(self) -> Ended:
        """Make the undisturbed run."""
        write_corpus(self.whole / "corpus")
        ended = self.run(self.whole)
        assert ended.code == 0, ended.said
        return ended

    def usual_seconds(self, stage: str, until: str) -> float:
        """Return how long it takes from one stage to another when nothing happens."""
        if (stage, until) not in self.usual:
            self.usual[stage, until] = self.run(self.home(stage), until=until).seconds
        return self.usual[stage, until]

    def expected(self, until: str) -> dict[str, Any]:
        """Return what a run up to a stage must compute."""
        kinds = {KIND_OF[stage] for stage in STAGES[: STAGES.index(until) + 1]}
        kinds |= {"losses"} if "training" in kinds else set()
        if not self.straight:
            self.straight = result(self.whole)
        return {key: value for key, value in self.straight.items() if key in kinds}

    def copy(self) -> Path:
        """Return a new home like that of the undisturbed run."""
        self.number += 1
        home = self.root / f"home-{self.number}"
        shutil.copytree(self.whole, home)
        return home

    def home(self, before: str) -> Path:
        """Return a new home in which everything before a stage is made, and no more."""
        home = self.copy()
        shutil.rmtree(home / "evidence")
        for stage in STAGES[STAGES.index(before) :]:
            self._forget(home, stage)
        if before == "pretokenize":
            shutil.rmtree(home / "store" / "units")
        return home

    def _forget(self, home: Path, stage: str) -> None:
        """Remove what a stage has made, as if it had never been made."""
        shutil.rmtree(home / "store" / KIND_OF[stage], ignore_errors=True)
        for path in (home / "store" / "recipes").glob("*/*.json"):
            if json.loads(path.read_bytes())["recipe"]["stage"] == stage:
                path.unlink()

    def clear(self) -> None:
        """Remove the homes and the runs; a finding is all that stays of them."""
        for path in self.root.iterdir():
            shutil.rmtree(path, ignore_errors=True)

    def start(self, home: Path, **asked: Any) -> "Running":
        """Start a run in a home."""
        self.number += 1
        out = self.root / f"run-{self.number}"
        out.mkdir()
        told = out / "told"
        injection: Injection | None = asked.pop("injection", None)
        if injection is not None:
            injection = replace(injection, under=f"{home}/", told=str(told))
        # The corpus of all homes, for its path is in what they compute.
        changes = (f'source.path="{self.whole / "corpus"}"', *asked.pop("changes", ()))
        request = Request(
            home=str(home),
            out=str(out),
            injection=injection.encoded() if injection else "",
            changes=changes,
            **asked,
        )
        write_request(out / "request.json", request)
        return Running(self.lane.start(out / "request.json"), out)

    def run(self, home: Path, **asked: Any) -> Ended:
        """Run to the end."""
        return self.start(home, **asked).wait()

    def verify(self, home: Path) -> tuple[int, list[str]]:
        """Verify the last run of a home; return the number of checks and what does not hold."""
        running = self.start(home, verify=True)
        ended = running.wait()
        if not (running.out / "verified.json").is_file():
            return 0, [ended.said]
        found = json.loads((running.out / "verified.json").read_text())
        return found["checks"], found["failures"]

    def training(self, home: Path) -> Path | None:
        """Return the last run's training, if it came so far."""
        ref = refs(home).get("training")
        return directory(home, ref) if ref else None


@dataclass(frozen=True, slots=True)
class Running:
    """A run under way."""

    pid: int
    out: Path

    def ended(self) -> bool:
        """Tell whether it is over, and everything that it started as well."""
        return (self.out / "status.json").is_file()

    def wait(self, meanwhile: Callable[[], object] = lambda: None) -> Ended:
        """Wait for the end."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not self.ended():
            meanwhile()
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
                raise TimeoutError(f"{self.out}: a run hangs")
            time.sleep(0.01)
        status = json.loads((self.out / "status.json").read_text())
        told = (self.out / "told").read_text() if (self.out / "told").exists() else ""
        said = (self.out / "said.txt").read_text() if (self.out / "said.txt").exists() else ""
        return Ended(
            code=status["status"],
            orphans=status["orphans"],
            seconds=status["seconds"],
            said=said,
            happened=told.endswith(" 1\n"),
            counts=json.loads(told) if told.startswith("{") else {},
        )
