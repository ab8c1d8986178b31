"""What can go wrong in the tasks package.

TaskError
+-- NotFoundError          no such artefact, run or file
+-- NoRunsError            nothing has been recorded yet
+-- WrongNameError         a run's name that cannot name a directory
+-- AmbiguousError         a short name that fits several
+-- ArtefactDamagedError   an artefact's bytes are not what its index says
+-- StorageError           the disk refused: full, read-only, not permitted
+-- UnsupportedStoreError  a store of a kind that this version cannot use
+-- BusyError              another process is doing the same work
+-- PreflightError         a model or a budget that the shards cannot serve
+-- MirrorError            MLflow did not take a run's evidence
+-- WorkerFailedError      the training worker stopped and said why
+-- WorkerDiedError        the training worker died without a word; may be retried
+-- UnitDiedError          processes that make units died without a word, and again
+-- UnitFailedError        a unit raised something that cannot be handed on
"""

import copyreg
import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path


class TaskError(Exception):
    """Base of this package; `hint` is the one useful action, or empty."""

    hint: str = ""

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by attributes: an error given its fields by keyword crosses processes too."""
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]


@dataclass(eq=False)
class NotFoundError(TaskError):
    """Something that was named and does not exist."""

    what: str
    where: str
    hint = "`assay runs` lists the runs; `assay inspect REF` shows an artefact"

    def __str__(self) -> str:
        return f"{self.where}: no {self.what}, should exist"


@dataclass(eq=False)
class NoRunsError(TaskError):
    """Nothing has been recorded yet."""

    where: str
    hint = "`assay run --preset demo` makes a run"

    def __str__(self) -> str:
        return f"{self.where}: no runs yet, should be one at least"


@dataclass(eq=False)
class WrongNameError(TaskError):
    """A run's name that cannot name a directory."""

    name: str

    def __str__(self) -> str:
        return (
            f"run name is {self.name!r}, should be letters, digits, '.', '_' and '-', at most 100"
        )


@dataclass(eq=False)
class AmbiguousError(TaskError):
    """A short name that fits several things."""

    text: str
    matches: tuple[str, ...]
    hint = "write more of the digest"

    def __str__(self) -> str:
        return f"{self.text} fits {', '.join(self.matches[:4])}, should fit one"


@dataclass(eq=False)
class ArtefactDamagedError(TaskError):
    """An artefact whose bytes are not what its index says."""

    path: Path
    found: str
    expected: str
    hint = "delete the artefact's directory and run the stage again"

    def __str__(self) -> str:
        return f"{self.path}: {self.found}, should be {self.expected}"


@dataclass(eq=False)
class StorageError(TaskError):
    """The disk refused."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}, should be writable with space to spare"

    @property
    def hint(self) -> str:  # type: ignore[override]  # depends on the reason
        """Say what helps against this reason."""
        if "space" in self.reason.lower() or "large" in self.reason.lower():
            return "free some space, or set ASSAY_STORE to a larger disk; finished work is kept"
        return "set ASSAY_HOME, ASSAY_STORE and ASSAY_EVIDENCE to directories that you may write"


@dataclass(eq=False)
class UnsupportedStoreError(TaskError):
    """A store URL of a kind that this version cannot use."""

    url: str
    hint = "set ASSAY_STORE to a local directory"

    def __str__(self) -> str:
        return f"ASSAY_STORE is {self.url}, should be a local path in this version"


@dataclass(eq=False)
class BusyError(TaskError):
    """Another process holds what this one needs."""

    what: str
    path: Path
    hint = "wait for the other process, or stop it"

    def __str__(self) -> str:
        return f"{self.path}: {self.what} is held by another process, should be free"


@dataclass(eq=False)
class PreflightError(TaskError):
    """A model or a budget that the shards cannot serve, found before any compute."""

    setting: str
    found: object
    expected: str

    def __str__(self) -> str:
        return f"{self.setting} is {self.found}, should be {self.expected}"


@dataclass(eq=False)
class MirrorError(TaskError):
    """MLflow did not take a run's evidence."""

    uri: str
    reason: str
    hint = "the record is safe; run `assay mirror` again when MLflow answers"

    def __str__(self) -> str:
        return f"{self.uri}: {self.reason}, should take the run"


@dataclass(eq=False)
class WorkerFailedError(TaskError):
    """The training worker stopped on purpose and said why."""

    error: str
    message: str
    advice: str = ""

    def __str__(self) -> str:
        return self.message

    @property
    def hint(self) -> str:  # type: ignore[override]  # the worker's own
        """Pass on the worker's hint."""
        return self.advice


@dataclass(eq=False)
class WorkerDiedError(TaskError):
    """The training worker died without a word: killed, out of memory, crashed."""

    status: int
    output: str
    hint = "run the same command again: training goes on from its last epoch"

    def __str__(self) -> str:
        tail = self.output.strip().splitlines()
        said = f" ({tail[-1]})" if tail else ""
        return f"training worker: exit status {self.status}{said}, should be 0"


@dataclass(eq=False)
class UnitDiedError(TaskError):
    """Processes that make units died without a word, as often as is tried."""

    what: str
    num_times: int
    hint = "usually memory: lower runtime.num_workers; the same command goes on from there"

    def __str__(self) -> str:
        return f"{self.what}: a worker was killed {self.num_times} times, should end its unit"


@dataclass(eq=False)
class UnitFailedError(TaskError):
    """A unit raised an exception that cannot be handed from process to process."""

    unit: str
    error: str
    message: str

    def __str__(self) -> str:
        return f"{self.unit}: {self.error}: {self.message}, should be made"


_STORAGE_ERRNOS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ENOTDIR,
}


def storage_error(error: BaseException) -> StorageError | None:
    """Recognise a refusal of the disk, also when a library has wrapped it.

    Source: safetensors and tokenizers report Rust's `(os error N)` as text.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (match := re.search(r"\(os error (\d+)\)", str(error))):
        number = int(match.group(1))
    if number not in _STORAGE_ERRNOS:
        return None
    path = str(getattr(error, "filename", None) or "store")
    return StorageError(path, os.strerror(number))
