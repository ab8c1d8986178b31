import errno
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from tasks import errors, evaluate_errors, ledger_errors, train_errors
from tasks.errors import (
    AmbiguousError,
    ArtefactDamagedError,
    BusyError,
    CompilerMissingError,
    DeviceUnavailableError,
    FeatureError,
    ImportedError,
    IsolationUnavailableError,
    MirrorError,
    NoRunsError,
    NotAModelError,
    NotFoundError,
    PreflightError,
    SandboxError,
    SchedulerError,
    StorageError,
    StoreRefusedError,
    StoreUnreachableError,
    TaskError,
    UnfaithfulFileError,
    UnitDiedError,
    UnitFailedError,
    UnsharedStoreError,
    UnsupportedStoreError,
    WrongNameError,
    storage_error,
)
from tasks.evaluate_errors import (
    DifferentTokenizerError,
    OutdatedEvaluationError,
    UnknownModelError,
)
from tasks.ledger_errors import OtherVersionError, SignatureError, WithdrawnError
from tasks.train_errors import (
    MemoryFullError,
    NodesMissingError,
    SnapshotDamagedError,
    StoppedError,
    WorkerDiedError,
    WorkerFailedError,
    WorkerHungError,
)
from tests.model.small_llama import small_tokenizer
from tests.tasks.full_disk import full_disk

EXAMPLES: list[tuple[TaskError, str]] = [
    (
        WithdrawnError("demo", 4, "other tokens"),
        "demo: withdrawn in line 4 (other tokens), should be a claim still",
    ),
    (
        OtherVersionError("x.plan.json", "train", 3, 4),
        "x.plan.json: train has version 3, should have 4",
    ),
    (
        SignatureError("demo", "signature verification failed"),
        "demo: signature verification failed, should be signed with this key",
    ),
    (NotFoundError("run x", "/evidence"), "/evidence: no run x, should exist"),
    (NoRunsError("/evidence"), "/evidence: no runs yet, should be one at least"),
    (
        WrongNameError("a/b"),
        "run name is 'a/b', should be letters, digits, '.', '_' and '-', at most 100",
    ),
    (
        AmbiguousError("de", ("a", "b", "c", "d", "e")),
        "de fits a, b, c, d, should fit one",
    ),
    (
        ArtefactDamagedError(Path("/s/a"), "9 bytes", "10 bytes"),
        "/s/a: 9 bytes, should be 10 bytes",
    ),
    (
        StorageError("/s", "No space left on device"),
        "/s: No space left on device, should be writable with space to spare",
    ),
    (
        UnsupportedStoreError("odd://x", "Protocol not known: odd"),
        "ASSAY_STORE is odd://x: Protocol not known: odd; should be a directory or a known URL",
    ),
    (
        StoreRefusedError("s3://x", "Access Denied"),
        "s3://x: Access Denied, should be readable and writable",
    ),
    (
        StoreUnreachableError("s3://x", "connection refused"),
        "s3://x: connection refused, should answer",
    ),
    (
        UnsharedStoreError("unit ab", Path("/s")),
        "/s: no unit ab, should be there for every machine that makes units",
    ),
    (
        FeatureError("runtime.task_runner", "ray", "prefect-ray"),
        "runtime.task_runner is ray, should be so only where prefect-ray is installed",
    ),
    (SchedulerError("tcp://x:1", "timed out"), "tcp://x:1: timed out, should make units"),
    (SchedulerError("", "timed out"), "the local cluster: timed out, should make units"),
    (
        BusyError("this recipe", Path("/s/lock")),
        "/s/lock: this recipe is held by another process, should be free",
    ),
    (
        DeviceUnavailableError("cuda:3", 2),
        "runtime.device is cuda:3, should be one of the 2 GPUs here",
    ),
    (
        CompilerMissingError("g++"),
        "runtime.compile is on and g++ is not found, should be a C++ compiler",
    ),
    (
        PreflightError("train.num_steps", 9, "at most 8"),
        "train.num_steps is 9, should be at most 8",
    ),
    (
        DifferentTokenizerError("checkpoint:ab", "0123456789ab", "ba9876543210"),
        (
            "checkpoint:ab: the shards' tokenizer is ba9876543210..., "
            "should be the model's 0123456789ab..."
        ),
    ),
    (
        OutdatedEvaluationError("evaluation:ab"),
        "evaluation:ab: does not say on what it was measured, should be a newer one",
    ),
    (
        UnknownModelError(Path("/m"), "a ref or an .apr file"),
        "/m: no model, should be a ref or an .apr file",
    ),
    (
        MirrorError("http://127.0.0.1:9", "refused"),
        "http://127.0.0.1:9: refused, should take the run",
    ),
    (
        WorkerFailedError("NonFiniteError", "loss is nan", "lower it", "NUMERICAL_INSTABILITY"),
        "NUMERICAL_INSTABILITY: loss is nan",
    ),
    (
        WorkerDiedError(
            rank=1, num_ranks=2, step=7, silent_seconds=0.25, status=-9, output="one\n two\n"
        ),
        (
            "training worker: rank 1 of 2, after step 7, last sign of life 0.2 s ago: "
            "exit status -9 (two), should be 0"
        ),
    ),
    (
        WorkerDiedError(rank=0, num_ranks=1, step=0, silent_seconds=None, status=None, output=""),
        "training worker: rank 0 of 1, after step 0, no sign of life: it is gone, should be 0",
    ),
    (
        WorkerHungError(
            rank=1,
            num_ranks=4,
            step=7,
            silent_seconds=61.0,
            doing="training",
            setting="runtime.step_timeout_seconds",
            limit_seconds=60.0,
        ),
        (
            "training worker: rank 1 of 4, after step 7, training: last sign of life 61.0 s ago, "
            "should be within 60 s"
        ),
    ),
    (
        NodesMissingError("a:29400", 2, 60.0),
        "runtime.rendezvous: fewer than 2 nodes came to a:29400, should be all within 60 s",
    ),
    (
        StoppedError(7, 9),
        "training: stopped after step 7 as asked, with a snapshot, should reach step 9",
    ),
    (
        SnapshotDamagedError(Path("ckpt/step-00000007.apr"), "no file", "abc", "step-00000007"),
        "ckpt/step-00000007.apr: no file, should be sha256 abc",
    ),
    (
        MemoryFullError(
            device="cuda:1",
            step=7,
            setting="train.micro_batch_rows",
            found=64,
            fits=24,
            row_bytes=1_500_000_000,
            free_bytes=36_000_000_000,
        ),
        (
            "after step 7: cuda:1 is out of memory, train.micro_batch_rows is 64 "
            "(about 1,500.0 MB a row, 36,000 MB free for rows), should be at most 24"
        ),
    ),
    (
        IsolationUnavailableError("namespaces: Operation not permitted"),
        (
            "sandbox: namespaces: Operation not permitted, should be isolated before generated "
            "code runs"
        ),
    ),
    (
        SandboxError("the judge", "ended with code 1 and no verdict"),
        "sandbox: the judge ended with code 1 and no verdict, should give a verdict",
    ),
    (
        UnfaithfulFileError(Path("model.apr"), 2.5, 2.25),
        (
            "model.apr: loaded again it gives other logits (mean loss 2.5), "
            "should give those of its tensors (2.25)"
        ),
    ),
    (
        ImportedError("checkpoint:0123", "training"),
        "checkpoint:0123 was imported: no training, should be sealed from a training",
    ),
    (
        NotAModelError("tokens:0123"),
        "tokens:0123 holds no sealed model, should be a checkpoint",
    ),
    (
        UnitDiedError("take in", 3),
        "take in: a worker was killed 3 times, should end its unit",
    ),
    (
        UnitFailedError("file 7", "OddError", "x"),
        "file 7: OddError: x, should be made",
    ),
]


@pytest.mark.parametrize(("error", "message"), EXAMPLES)
def test_the_message_says_where_what_is_and_what_should_be(error: TaskError, message: str) -> None:
    assert str(error) == message


@pytest.mark.parametrize("error", [error for error, _ in EXAMPLES])
def test_an_error_survives_pickling(error: TaskError) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert vars(back) == vars(error)
    assert (str(back), back.hint) == (str(error), error.hint)


def test_every_error_of_the_package_is_shown_here_and_in_the_tree() -> None:
    classes = set(TaskError.__subclasses__())
    assert {type(error) for error, _ in EXAMPLES} == classes
    for each in classes:
        drawn = f"{errors.__doc__}{train_errors.__doc__}{evaluate_errors.__doc__}"
        drawn += str(ledger_errors.__doc__)
        assert each.__name__ in drawn


def test_the_hint_of_a_failed_worker_is_the_workers_own() -> None:
    failed = WorkerFailedError("X", "y", "lower train.peak_lr", "FAILED")
    assert failed.hint == "lower train.peak_lr"


@pytest.mark.parametrize(
    ("reason", "hint"),
    [
        ("No space left on device", "free some space"),
        ("File too large", "free some space"),
        ("Permission denied", "set ASSAY_HOME, ASSAY_STORE and ASSAY_EVIDENCE to directories"),
        ("Read-only file system", "set ASSAY_HOME, ASSAY_STORE and ASSAY_EVIDENCE to directories"),
    ],
)
def test_the_hint_of_a_refusal_fits_its_reason(reason: str, hint: str) -> None:
    assert StorageError("/s", reason).hint.startswith(hint)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "No space left on device"),
        (errno.EROFS, "Read-only file system"),
        (errno.EACCES, "Permission denied"),
        (errno.EFBIG, "File too large"),
    ],
)
def test_a_refusal_of_the_disk_is_recognised(number: int, reason: str) -> None:
    found = storage_error(OSError(number, "x", "/s/file"))
    assert found is not None
    assert (found.path, found.reason) == ("/s/file", reason)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        FileNotFoundError(errno.ENOENT, "x", "/s/file"),
        RuntimeError("I/O error (os error 2)"),
        OSError("no number"),
    ],
)
def test_other_errors_are_no_refusal_of_the_disk(error: Exception) -> None:
    assert storage_error(error) is None


def test_what_python_raises_on_a_full_disk_is_recognised(tmp_path: Path) -> None:
    with full_disk(1000), pytest.raises(OSError, match="File too large") as caught:
        (tmp_path / "x").write_bytes(bytes(2000))
    assert storage_error(caught.value) is not None


def test_what_pyarrow_raises_on_a_full_disk_is_recognised(tmp_path: Path) -> None:
    table = pa.table({"x": list(range(5000))})
    with full_disk(1000), pytest.raises(OSError, match="File too large") as caught:
        pq.write_table(table, tmp_path / "x")
    found = storage_error(caught.value)
    assert found is not None
    assert found.reason == "File too large"


def test_what_safetensors_raises_on_a_full_disk_is_recognised(tmp_path: Path) -> None:
    with full_disk(1000), pytest.raises(SafetensorError) as caught:
        save_file({"x": torch.zeros(5000)}, tmp_path / "x")
    found = storage_error(caught.value)
    assert found is not None
    assert found.reason == "File too large"


def test_what_tokenizers_raises_on_a_full_disk_is_recognised(tmp_path: Path) -> None:
    with full_disk(1000), pytest.raises(Exception, match="os error") as caught:
        small_tokenizer().save(str(tmp_path / "x"))
    found = storage_error(caught.value)
    assert found is not None
    assert found.reason == "File too large"
