"""Training through its task: the worker is a process of its own here."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from tasks import places
from tasks.errors import BusyError, DeviceUnavailableError, PreflightError
from tasks.live import announce, training_directory
from tasks.snapshots import complete_snapshots
from tasks.store import Store
from tasks.train_errors import WorkerDiedError, WorkerFailedError
from tasks.train_worker import work
from tasks.training_log import read_rows
from tests.tasks.full_disk import full_disk
from tests.tasks.test_ranks import is_alive
from tests.tasks.test_train_worker import assert_same_training, job_of
from tests.tasks.tiny import Finished, begin, tiny_settings, train_again

# Long enough that a signal sent after the first steps arrives before the last one.
SLOW = (
    "train.batch_rows=40",
    "train.num_steps=150",
    "train.steps_per_epoch=50",
    "thresholds.min_val_batches=1.0",
)
PATIENCE_SECONDS = 120.0


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.002)


def work_directory(home: Path) -> Path | None:
    found = [path for path in (home / "store" / "tmp").glob("train-*") if path.is_dir()]
    return found[0] if found else None


def num_rows(home: Path) -> int:
    directory = work_directory(home)
    return len(read_rows(directory / "train.jsonl")) if directory else 0


def num_epochs(home: Path) -> int:
    directory = work_directory(home)
    return len(complete_snapshots(directory)) if directory else 0


def worker_of(pid: int | None = None) -> psutil.Process | None:
    found = [
        each for each in psutil.Process(pid).children() if "tasks.train_worker" in each.cmdline()
    ]
    return found[0] if found else None


@pytest.fixture
def alone(copied: Finished) -> Finished:
    """A copy of the finished run without its training, so that it must be made."""
    shutil.rmtree(copied.home / "store" / "training")
    return copied


def train_until(finished: Finished, changes: tuple[str, ...], holds: Callable[[], bool]) -> None:
    """Train, and kill the worker as soon as something holds."""
    settings = tiny_settings(finished.home, changes)
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(train_again, begin(settings), finished.refs.shards, settings)
        until(lambda: holds() or future.done())
        worker = worker_of()
        assert worker is not None, future.exception()
        worker.send_signal(signal.SIGKILL)
        with pytest.raises(WorkerDiedError) as caught:
            future.result()
    assert caught.value.status == -signal.SIGKILL


def test_a_killed_worker_goes_on_and_ends_where_it_would_have_ended(alone: Finished) -> None:
    home = alone.home
    train_until(alone, SLOW, lambda: num_rows(home) >= 55)
    assert num_epochs(home) == 1
    train_until(alone, SLOW, lambda: num_epochs(home) == 2)
    assert num_rows(home) < 150
    settings = tiny_settings(home, SLOW)
    run = begin(settings)
    ref = train_again(run, alone.refs.shards, settings)
    straight = home / "straight"
    threads = torch.get_num_threads()
    job = job_of(alone, straight)
    work(replace(job, train=settings.train, thresholds=settings.thresholds))
    torch.set_num_threads(threads)
    training = Store(home / "store").open(ref)
    assert training.index["content"]["num_steps"] == 150
    assert_same_training(training.directory, straight)
    assert run.stage_records()["train"]["outcome"] == "produced"


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_no_rank_outlives_the_process_that_started_it(alone: Finished, num_ranks: int) -> None:
    ranks = f"runtime.num_ranks={num_ranks}"
    endless = ("train.num_steps=1000000", "train.steps_per_epoch=1000000")
    code = """if True:
        import sys
        from pathlib import Path
        from evidence.refs import ShardsRef
        from tests.tasks.tiny import begin, tiny_settings, train_again
        settings = tiny_settings(Path(sys.argv[1]), sys.argv[3:])
        train_again(begin(settings), ShardsRef(sys.argv[2]), settings)
    """
    arguments = [
        str(alone.home),
        alone.refs.shards.digest,
        *endless,
        ranks,
        "train.max_passes=1000000",
    ]
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=places.PROJECT, stderr=subprocess.DEVNULL
    ) as parent:
        until(lambda: num_rows(alone.home) >= 2)
        # Ranks, and what launches them if they are several.
        children = psutil.Process(parent.pid).children(recursive=True)
        assert len(children) == (1 if num_ranks == 1 else 3)
        parent.kill()
    until(lambda: not any(is_alive(child) for child in children))
    rows = num_rows(alone.home)
    time.sleep(0.1)
    assert num_rows(alone.home) == rows
    directory = work_directory(alone.home)
    assert directory is not None
    with Store(alone.home / "store").resuming(directory.name) as free:
        assert free == directory


def test_a_loss_that_is_not_finite_comes_back_in_the_workers_words(alone: Finished) -> None:
    settings = tiny_settings(alone.home, ["train.peak_lr=1e30"])
    run = begin(settings)
    with pytest.raises(WorkerFailedError) as caught:
        train_again(run, alone.refs.shards, settings)
    assert vars(caught.value) == {
        "error": "NonFiniteError",
        "message": "step 1: update norm is inf, should be finite",
        "advice": "bisect the last snapshot, or lower train.peak_lr",
        "outcome": "NUMERICAL_INSTABILITY",
    }
    record = run.stage_records()["train"]
    assert record["outcome"] == "failed"
    message = "NUMERICAL_INSTABILITY: step 1: update norm is inf, should be finite"
    assert record["error"] == {"type": "WorkerFailedError", "message": message}


def test_a_training_that_diverges_comes_back_in_the_gates_words(alone: Finished) -> None:
    changes = ["train.peak_lr=30.0"]
    settings = tiny_settings(alone.home, changes)
    with pytest.raises(WorkerFailedError) as caught:
        train_again(begin(settings), alone.refs.shards, settings)
    assert (caught.value.error, caught.value.outcome) == ("GateFailedError", "DIVERGENCE")
    sentence = "the training loss is not above that of a uniform guess"
    assert caught.value.message.startswith(f"step 2, gate train.ceiling: {sentence}: measured ")
    assert caught.value.message.endswith("should be <= 1.1")


@pytest.mark.parametrize("limit", [100_000, 200_000])
def test_a_full_disk_stops_the_training_with_the_reason(alone: Finished, limit: int) -> None:
    """The first limit stops the weights, the second the optimizer's state."""
    settings = tiny_settings(alone.home)
    run = begin(settings)
    with full_disk(limit), pytest.raises(WorkerFailedError) as caught:
        train_again(run, alone.refs.shards, settings)
    assert caught.value.error == "StorageError"
    assert "File too large, should be writable with space to spare" in caught.value.message
    assert caught.value.advice.startswith("free some space")
    assert run.stage_records()["train"]["outcome"] == "failed"
    assert not (alone.home / "store" / "training").exists()


@pytest.mark.parametrize(
    ("changes", "setting", "found", "expected"),
    [
        (
            ["model.vocab_size=299", "tokenizer.vocab_size=299"],
            "model.vocab_size",
            299,
            "the tokenizer's 300",
        ),
        (
            ["model.max_position_embeddings=31", "shard.context_length=31"],
            "model.max_position_embeddings",
            31,
            "at least shard.context_length (32)",
        ),
        (
            ["train.max_passes=1", "train.num_steps=51"],
            "train.num_steps",
            51,
            "at most 50: 402 rows in batches of 8, 1 passes",
        ),
    ],
)
def test_what_the_shards_cannot_serve_is_refused_before_any_compute(
    alone: Finished, changes: list[str], setting: str, found: Any, expected: str
) -> None:
    settings = tiny_settings(alone.home, changes)
    run = begin(settings)
    with pytest.raises(PreflightError) as caught:
        train_again(run, alone.refs.shards, settings)
    assert vars(caught.value) == {"setting": setting, "found": found, "expected": expected}
    directory = work_directory(alone.home)
    assert directory is not None
    assert list(directory.iterdir()) == []
    assert run.stage_records()["train"]["error"]["type"] == "PreflightError"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_an_explicit_cuda_device_is_refused_where_there_is_none(alone: Finished) -> None:
    settings = tiny_settings(alone.home, ['runtime.device="cuda"'])
    with pytest.raises(DeviceUnavailableError) as caught:
        train_again(begin(settings), alone.refs.shards, settings)
    assert (caught.value.device, caught.value.num_gpus) == ("cuda", 0)


def test_two_processes_do_not_train_the_same_recipe(alone: Finished) -> None:
    settings = tiny_settings(alone.home)
    record = alone.run.stage_records()["train"]
    name = f"train-{record['recipe_sha256'][:16]}"
    with Store(alone.home / "store").resuming(name), pytest.raises(BusyError) as caught:
        train_again(begin(settings), alone.refs.shards, settings)
    assert caught.value.path == alone.home / "store" / "tmp" / f"{name}.lock"


def test_a_finished_training_is_reused_with_its_epoch_records(copied: Finished) -> None:
    settings = tiny_settings(copied.home)
    run = begin(settings)
    # The source's path is no part of a training's recipe, so the copy's training is found.
    assert train_again(run, copied.refs.shards, settings) == copied.refs.training
    record = run.stage_records()["train"]
    assert (record["outcome"], record["reused_from"]) == ("reused", copied.run.name)
    for epoch in range(3):
        name = f"epoch-{epoch:03d}.metadata.json"
        assert (run.directory / name).read_bytes() == (copied.run.directory / name).read_bytes()


def test_the_index_of_a_training_names_its_best_epoch(finished: Finished) -> None:
    epochs = [snapshot.read() for snapshot in complete_snapshots(finished.training.directory)]
    best = min(epochs, key=lambda epoch: float(epoch["val_loss"]))
    assert finished.training.index["content"] == {
        "num_epochs": 3,
        "num_steps": 48,
        "tokens_seen": 12288,
        "outcome": "CONVERGED",
        "best_epoch": best["epoch"],
        "best_val_loss": best["val_loss"],
        "best_record": best["record_sha256"],
    }


def test_the_settings_stand_beside_the_training(finished: Finished) -> None:
    found = json.loads((finished.training.directory / "settings.json").read_text())
    assert list(found) == ["model", "train", "shards", "context_length"]
    assert found["train"]["peak_lr"] == 1e-2
    assert found["shards"] == str(finished.refs.shards)


def test_viewers_are_told_where_the_training_is(reading: Finished) -> None:
    assert training_directory(reading.run) == reading.training.directory


def test_a_run_without_a_training_has_none(home: Path) -> None:
    run = begin(tiny_settings(home))
    assert training_directory(run) is None
    announce(run, home / "x")
    assert training_directory(run) == home / "x"
