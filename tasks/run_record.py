"""A run's evidence directory: the plan before, one record per stage, the run's record last.

`plan.json` is written before any work: settings and thresholds cannot move afterwards without
showing. `metadata.json` lists the sha256 of every other file and names its predecessor.
"""

import datetime
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from evidence.canonical import digest, file_sha256
from evidence.chain import append, read_chain
from evidence.records import (
    RUN_RECORD,
    RUN_SCHEMA,
    SEAL,
    STAGES,
    read_record,
    stage_file,
    write_record,
)
from evidence.statement import STATEMENTS, statements
from tasks import places
from tasks.errors import NotFoundError, StorageError, WrongNameError
from tasks.ledger import writing
from tasks.logins import without_login
from tasks.provenance import provenance

PLAN = "plan.json"
PREREGISTRATION = "preregistration.json"
"A copy of the plan that was registered before the run, if one was."
CHAIN_HEAD = "chain_head"
"The end of the chain of records when a run began; none before the first record."
PLAN_SCHEMA = "assay.plan/1"
CLOCK_SECONDS = 1.0
"By which the kernel's and Python's clock may differ."
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class Run:
    """One run's evidence directory."""

    directory: Path

    @property
    def name(self) -> str:
        """The run as people call it: its directory's name."""
        return self.directory.name

    def plan(self) -> dict[str, Any]:
        """Read what was planned."""
        return read_record(self.directory / PLAN)

    def record(self) -> dict[str, Any] | None:
        """Read the run's record; None while it runs, or if it never ended."""
        path = self.directory / RUN_RECORD
        return read_record(path) if path.is_file() else None

    def goes_on(self) -> bool:
        """Tell whether the process that wrote the plan is still there."""
        plan = self.plan()
        started = datetime.datetime.fromisoformat(plan["started"]).timestamp()
        try:
            process = psutil.Process(plan["process"])
            # A process that is younger than the plan only has the number of the one that wrote it.
            is_it = process.create_time() <= started + CLOCK_SECONDS
            return is_it and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def stage_records(self) -> dict[str, dict[str, Any]]:
        """Read the records of the stages done so far, in pipeline order."""
        paths = {stage: self.directory / stage_file(stage) for stage in STAGES}
        return {stage: read_record(path) for stage, path in paths.items() if path.is_file()}

    def gates(self) -> list[dict[str, Any]]:
        """List every recorded verdict, with its stage."""
        return [
            {"stage": stage, **gate}
            for stage, record in self.stage_records().items()
            for gate in record["gates"]
        ]


def start_run(
    name: str,
    settings: Mapping[str, Any],
    request: Mapping[str, Any],
    preregistration: Path | None = None,
) -> Run:
    """Make a run's directory and write its plan, beside the one that it was registered by.

    Raises: WrongNameError, StorageError, BrokenChainError: a run that could not be entered later.
    """
    check_name(name)
    chain = read_chain(places.evidence())
    chain.require_sound()
    run = Run(_new_directory(name))
    plan: dict[str, Any] = {
        "schema": PLAN_SCHEMA,
        "run": run.name,
        "request": dict(request),
        "settings": dict(settings),
        "settings_sha256": digest(settings),
        "started": now(),
        "process": os.getpid(),
        CHAIN_HEAD: str(chain.head) if chain.head else None,
        "provenance": provenance(),
    }
    if preregistration is not None:
        plan["preregistration"] = read_record(preregistration)[SEAL]
        shutil.copyfile(preregistration, run.directory / PREREGISTRATION)
    write_record(run.directory / PLAN, plan)
    return run


def check_name(name: str) -> None:
    """Refuse a name that cannot name a directory.

    Raises: WrongNameError.
    """
    if not NAME.fullmatch(name):
        raise WrongNameError(name)


def finish_run(run: Run, outcome: str, error: str | None) -> dict[str, Any]:
    """Write the run's record, last, and enter it in the chain.

    Raises: BrokenChainError after the record is written.
    """
    plan, stages = run.plan(), run.stage_records()
    write_statements(run)
    with writing(run.directory.parent) as chain:
        recorded = chain.recorded
        record = {
            "schema": RUN_SCHEMA,
            "run": run.name,
            "outcome": outcome,
            "error": error and without_login(error),
            "started": plan["started"],
            "finished": now(),
            "settings_sha256": plan["settings_sha256"],
            "recipes": {stage: each["recipe_sha256"] for stage, each in stages.items()},
            "refs": {stage: each["output"] for stage, each in stages.items()},
            "gates": run.gates(),
            "provenance": plan["provenance"],
            "files": {path.name: file_sha256(path) for path in _files(run)},
            "parent": recorded[-1].record_sha256 if recorded else None,
        }
        sealed = write_record(run.directory / RUN_RECORD, record)
        append(chain, "recorded", run.name, str(sealed[SEAL]), str(record["finished"]))
    return sealed


def write_statements(run: Run) -> None:
    """Write what the stages' records say in the form that other tools read, if there are any."""
    if stages := run.stage_records():
        (run.directory / STATEMENTS).write_bytes(statements(run.name, stages))


def find_run(text: str) -> Run:
    """Return the run of this directory or name, or the last whose name begins so.

    Raises: NotFoundError.
    """
    for path in (Path(text), places.evidence() / text):
        if (path / PLAN).is_file():
            return Run(path.resolve())
    found = [run for run in all_runs() if run.name.startswith(text)]
    if not found:
        raise NotFoundError(f"run {text}", str(places.evidence()))
    return found[-1]


def all_runs() -> list[Run]:
    """List the runs of the evidence directory, oldest first.

    Raises: StorageError if it is there and cannot be read.
    """
    evidence = places.evidence()
    try:
        # Unlike `glob`, this does not take what it may not read for nothing.
        plans = [path / PLAN for path in evidence.iterdir() if (path / PLAN).is_file()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(str(evidence), os.strerror(error.errno or 0)) from None
    return [Run(path.parent) for path in sorted(plans, key=lambda path: path.stat().st_mtime)]


def now() -> str:
    """Return the time in UTC, as ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def _new_directory(name: str) -> Path:
    day = time.strftime("%Y-%m-%d", time.gmtime())
    for suffix in _suffixes():
        path = places.evidence() / f"{name}-{day}{suffix}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise StorageError(str(path), os.strerror(error.errno or 0)) from None
        return path
    raise AssertionError


def _suffixes() -> Iterator[str]:
    yield ""
    number = 2
    while True:
        yield f"-{number}"
        number += 1


def _files(run: Run) -> list[Path]:
    return sorted(
        path
        for path in run.directory.iterdir()
        if path.is_file() and path.name != RUN_RECORD and not path.name.startswith(".")
    )
