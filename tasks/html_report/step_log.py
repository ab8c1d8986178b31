"""The steps of a run's training, from the artefact that the record names, or from one under way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evidence.canonical import file_sha256
from tasks.html_report.facts import Facts, output_of
from tasks.live import training_directory
from tasks.sealed_files import UNREADABLE, sealed_file, why_absent
from tasks.training_log import TRAIN_LOG, read_lines, spikes_of, steps_of


@dataclass(frozen=True, slots=True)
class StepLog:
    """Steps that count, spikes that were not learnt from, and where they were read."""

    steps: Sequence[Mapping[str, Any]]
    spikes: Sequence[Mapping[str, Any]]
    name: str = ""
    sha256: str = ""
    note: str = ""
    """Why there are no steps, or why they are not all; empty where neither holds."""


def read_step_log(facts: Facts) -> StepLog:
    """Read the steps; what is not here, or is not what was sealed, is said in the note."""
    if ref := output_of(facts, "train"):
        try:
            path = sealed_file(ref, TRAIN_LOG)
        except UNREADABLE as error:
            why = f"The steps of {ref.short} are not shown: {why_absent(error)}."
            return StepLog([], [], note=f"{why} Epochs are from their own records.")
        return _log(path, f"{ref.short} {TRAIN_LOG}", "")
    under_way = training_directory(facts.run)
    if under_way is not None and (path := under_way / TRAIN_LOG).is_file():
        note = "This training did not end: its steps are not sealed, and are those of the moment."
        return _log(path, f"{TRAIN_LOG} of a training without an end", note)
    return StepLog([], [], note="No steps are recorded.")


def _log(path: Path, name: str, note: str) -> StepLog:
    lines = read_lines(path)
    return StepLog(steps_of(lines), spikes_of(lines), name, file_sha256(path), note)
