"""What can go wrong in the tasks package.

TaskError
+-- NotFoundError          no such artefact, run or file
+-- NoRunsError            nothing has been recorded yet
+-- WrongNameError         a run's name that cannot name a directory
+-- AmbiguousError         a short name that fits several
+-- ArtefactDamagedError   an artefact's bytes are not what its index says
+-- UnfaithfulFileError    a file that does not compute what it was written to hold
+-- ImportedError          a checkpoint from elsewhere, of which there is no training
+-- NotAModelError         an artefact that holds no model
+-- StorageError           the disk refused: full, read-only, not permitted
+-- UnsupportedStoreError  a store of a kind that nothing here can open
+-- StoreRefusedError      the far store said no: denied, no such bucket, no credentials
+-- StoreUnreachableError  the far store did not answer
+-- UnsharedStoreError     what another machine made is not in this one's store
+-- FeatureError           an optional package that a setting asks for is not installed
+-- SchedulerError         the cluster that makes units cannot be reached, or went away
+-- BusyError              another process is doing the same work
+-- DeviceUnavailableError a GPU that was asked for and does not answer
+-- CompilerMissingError  compiled kernels are asked for and nothing compiles
+-- PreflightError         a model or a budget that the shards cannot serve
+-- MirrorError            MLflow did not take a run's evidence
+-- IsolationUnavailableError  generated code would run without walls here
+-- SandboxError           the sandbox itself failed, whatever the code in it did
+-- UnitDiedError          processes that make units died without a word, and again
+-- UnitFailedError        a unit raised something that cannot be handed on
+-- those of `train_errors`, `evaluate_errors` and `ledger_errors`
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

    def __post_init__(self) -> None:
        """Say where such things are listed, or how one is made."""
        self.hint = _WHERE_TO_LOOK.get(self.what.split()[0], "check the path")

    def __str__(self) -> str:
        return f"{self.where}: no {self.what}, should exist"


_WHERE_TO_LOOK = {
    "run": "`assay runs` lists the runs",
    "artefact": "`assay inspect RUN` lists a run's refs; ASSAY_STORE says which store is asked",
    "preset": "a name without a path and without .toml is one of assay's own presets",
    "plan": "`assay plan` registers one, and says its digest",
    "snapshot": "`assay inspect RUN` lists the epochs of a run",
    "record": "the run did not come to this stage; `assay status RUN` shows how far it came",
    "evaluation": "make one with `assay evaluate`",
    "finished": "the training goes on, or failed; `assay status RUN` says which",
}
"By the first word of what is not found; all else is a file."


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
class UnfaithfulFileError(TaskError):
    """A file of a checkpoint that does not compute what it was written to hold."""

    path: Path
    found_nats: float
    expected_nats: float
    hint = "nothing was sealed; check the disk and the memory, then seal again"

    def __str__(self) -> str:
        return (
            f"{self.path}: loaded again it gives other logits (mean loss {self.found_nats:.9g}), "
            f"should give those of its tensors ({self.expected_nats:.9g})"
        )


@dataclass(eq=False)
class ImportedError(TaskError):
    """A checkpoint that came from elsewhere, asked for something of its training."""

    ref: str
    what: str
    hint = "seal a training of your own with `assay checkpoint`"

    def __str__(self) -> str:
        return f"{self.ref} was imported: no {self.what}, should be sealed from a training"


@dataclass(eq=False)
class NotAModelError(TaskError):
    """An artefact that holds no model."""

    ref: str
    hint = "`assay verify` recomputes artefacts of every kind"

    def __str__(self) -> str:
        return f"{self.ref} holds no sealed model, should be a checkpoint"


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
    """A store URL of a kind that nothing here can open."""

    url: str
    reason: str
    hint = "set ASSAY_STORE to a local directory, or to s3://BUCKET/PREFIX with s3fs installed"

    def __str__(self) -> str:
        return f"ASSAY_STORE is {self.url}: {self.reason}; should be a directory or a known URL"


@dataclass(eq=False)
class StoreRefusedError(TaskError):
    """A far store that said no."""

    url: str
    reason: str
    hint = "check the bucket and the credentials; what is finished is kept here, and sent next time"

    def __str__(self) -> str:
        return f"{self.url}: {self.reason}, should be readable and writable"


@dataclass(eq=False)
class StoreUnreachableError(TaskError):
    """A far store that did not answer."""

    url: str
    reason: str
    hint = "run the same command when it answers; what is finished is kept here, and sent then"

    def __str__(self) -> str:
        return f"{self.url}: {self.reason}, should answer"


@dataclass(eq=False)
class UnsharedStoreError(TaskError):
    """What a worker on another machine made, or needs, is not where this one looks."""

    what: str
    path: Path
    hint = "set ASSAY_STORE to a directory that all machines share, or to s3://BUCKET/PREFIX"

    def __str__(self) -> str:
        return f"{self.path}: no {self.what}, should be there for every machine that makes units"


@dataclass(eq=False)
class FeatureError(TaskError):
    """A setting that asks for an optional package."""

    setting: str
    found: str
    package: str

    def __str__(self) -> str:
        return (
            f"{self.setting} is {self.found}, should be so only where {self.package} is installed"
        )

    @property
    def hint(self) -> str:  # type: ignore[override]  # names the package
        """Name the package."""
        return f"pip install {self.package}"


@dataclass(eq=False)
class SchedulerError(TaskError):
    """A cluster that cannot be reached, or that went away with its work."""

    address: str
    reason: str
    hint = "check runtime.scheduler and the cluster; finished units are kept"

    def __str__(self) -> str:
        return f"{self.address or 'the local cluster'}: {self.reason}, should make units"


@dataclass(eq=False)
class BusyError(TaskError):
    """Another process holds what this one needs."""

    what: str
    path: Path
    hint = "wait for the other process, or stop it"

    def __str__(self) -> str:
        return f"{self.path}: {self.what} is held by another process, should be free"


@dataclass(eq=False)
class DeviceUnavailableError(TaskError):
    """A GPU that was asked for and does not answer; no other device takes its place."""

    device: str
    num_gpus: int
    hint = 'set runtime.device to "cpu" or "auto", or look at the driver with nvidia-smi'

    def __str__(self) -> str:
        return f"runtime.device is {self.device}, should be one of the {self.num_gpus} GPUs here"


@dataclass(eq=False)
class CompilerMissingError(TaskError):
    """Compiled kernels are asked for, and there is no C++ compiler."""

    program: str
    hint = 'install one (Debian: apt install g++), or set runtime.compile to "off" or "auto"'

    def __str__(self) -> str:
        return f"runtime.compile is on and {self.program} is not found, should be a C++ compiler"


@dataclass(eq=False)
class PreflightError(TaskError):
    """A model, a budget or a validation that the data cannot serve, found before any compute."""

    setting: str
    found: object
    expected: str

    def __str__(self) -> str:
        return f"{self.setting} is {self.found}, should be {self.expected}"

    @property
    def hint(self) -> str:  # type: ignore[override]  # names the setting
        """Say how it is changed."""
        return f"--set {self.setting}=VALUE changes it for one run, the preset for all"


@dataclass(eq=False)
class MirrorError(TaskError):
    """MLflow did not take a run's evidence."""

    uri: str
    reason: str

    def __str__(self) -> str:
        return f"{self.uri}: {self.reason}, should take the run"

    @property
    def hint(self) -> str:  # type: ignore[override]  # depends on the reason
        """Say what helps against this reason; nothing of the run is lost by it."""
        if any(word in self.reason for word in ("401", "403", "credential", "ermission")):
            login = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            return f"set {login}, then run `assay mirror`: the record is safe"
        return "the record is safe; run `assay mirror` again when MLflow answers"


@dataclass(eq=False)
class IsolationUnavailableError(TaskError):
    """Untrusted code that would have to run without isolation."""

    reason: str
    hint = (
        "run on Linux where user namespaces are allowed; on a machine that may be harmed, "
        '--set code_benchmark.isolation="none"; or --set code_benchmark.problems=""'
    )

    def __str__(self) -> str:
        return f"sandbox: {self.reason}, should be isolated before generated code runs"


@dataclass(eq=False)
class SandboxError(TaskError):
    """A sandbox that did not do its work."""

    what: str
    found: str

    def __str__(self) -> str:
        return f"sandbox: {self.what} {self.found}, should give a verdict"


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
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EIO, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP),
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
