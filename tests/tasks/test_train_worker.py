"""The worker's own work, in this process; `test_train.py` starts it as a process of its own."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evidence.errors import GateFailedError
from evidence.records import EPOCH_FIELDS
from model.errors import NonFiniteError, StreamExhaustedError
from model.reports import StepReport
from model.train import VERSION, train
from model.training_state import new_state
from tasks.pulse import Doing, Heart, read_pulse
from tasks.snapshots import complete_snapshots
from tasks.step_watch import FIELDS
from tasks.thresholds import Thresholds
from tasks.train_job import Job, read_job, write_job
from tasks.train_worker import work
from tasks.training_log import read_rows
from tests.model.small_llama import small_settings
from tests.tasks.tiny import EPOCH_STEPS, STEPS, Finished, tiny_settings

pytestmark = pytest.mark.usefixtures("own_threads")


def job_of(finished: Finished, directory: Path, **changes: Any) -> Job:
    """Ask for the finished training again, in another directory, with changes to either part."""
    shards = finished.store.open(finished.refs.shards)
    settings = finished.settings
    directory.mkdir(exist_ok=True)
    own = {name: changes.pop(name) for name in Job.__dataclass_fields__ if name in changes}
    job = Job(
        directory=str(directory),
        shards=str(shards.directory),
        shards_ref=str(shards.ref),
        shards_index=dict(shards.index["content"]),
        model=settings.model,
        train=replace(settings.train, **changes),
        thresholds=settings.thresholds,
        num_threads=1,
        device="cpu",
        num_ranks=1,
        num_nodes=1,
        rendezvous="",
        parallelism="ddp",
        deterministic=False,
        compiled=False,
        start_timeout_seconds=60.0,
        step_timeout_seconds=60.0,
        state_digest_steps=settings.runtime.state_digest_steps,
    )
    return replace(job, **own)


def lenient(finished: Finished) -> Thresholds:
    """Return thresholds for other batches and rows than so small a corpus is made for."""
    return replace(
        finished.settings.thresholds,
        min_val_batches=0.0,
        max_leaked_rows=99.0,
        max_val_below_train_errors=1e9,
        max_improvement_error_nats=1e9,
        max_gradient_error=1.0,
    )


def losses(directory: Path) -> list[tuple[int, float, float]]:
    rows = read_rows(directory / "train.jsonl")
    return [(row["step"], row["train_loss"], row["grad_norm"]) for row in rows]


def assert_same_training(left: Path, right: Path) -> None:
    """Assert that weights, optimizer states and losses are equal, bit for bit."""
    assert losses(left) == losses(right)
    epochs = [snapshot.epoch for snapshot in complete_snapshots(left)]
    assert epochs == [snapshot.epoch for snapshot in complete_snapshots(right)]
    for ours, theirs in zip(complete_snapshots(left), complete_snapshots(right), strict=True):
        assert ours.weights.read_bytes() == theirs.weights.read_bytes()
        for name in ("optimizer.safetensors", "state.json", "fingerprint.json"):
            assert (ours.state / name).read_bytes() == (theirs.state / name).read_bytes()


def test_a_job_is_read_as_it_was_written(finished: Finished, tmp_path: Path) -> None:
    job = job_of(finished, tmp_path)
    write_job(job, tmp_path)
    assert read_job(tmp_path) == job


def test_two_trainings_of_one_job_are_equal_bit_for_bit(finished: Finished, tmp_path: Path) -> None:
    work(job_of(finished, tmp_path))
    assert_same_training(tmp_path, finished.training.directory)


def test_a_validation_says_how_many_rows_it_has_scored(finished: Finished, tmp_path: Path) -> None:
    said: list[tuple[Doing, int, int]] = []

    class Listened(Heart):
        def beat(self, *what: Any, **more: Any) -> None:
            super().beat(*what, **more)
            pulse = read_pulse(tmp_path, 0)
            assert pulse is not None
            if pulse.num_all:
                said.append((pulse.doing, pulse.num_done, pulse.num_all))

    job = job_of(finished, tmp_path, num_steps=4, steps_per_epoch=4, warmup_steps=1)
    work(replace(job, thresholds=lenient(finished)), heart=Listened(tmp_path, 0))
    assert said == [("validating", done, 77) for done in (16, 32, 48, 64, 77)]


def test_the_log_has_every_step_with_what_was_measured(finished: Finished) -> None:
    rows = read_rows(finished.training.directory / "train.jsonl")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    digested = [16, 20, 32, 40, 48]
    assert [row["step"] for row in rows if "state_digest" in row] == digested
    assert {frozenset(row) - {"state_digest"} for row in rows} == {FIELDS}
    assert rows[-1]["batch_digest"] != rows[-2]["batch_digest"]
    assert [row["tokens"] for row in rows] == [8 * 32] * STEPS
    assert [row["tokens_seen"] for row in rows] == [256 * step for step in range(1, STEPS + 1)]


def test_an_epoch_record_has_the_nine_fields_first_then_what_they_lacked(
    finished: Finished,
) -> None:
    snapshots = complete_snapshots(finished.training.directory)
    assert [snapshot.epoch for snapshot in snapshots] == [0, 1, 2]
    record = snapshots[1].read()
    assert tuple(record)[:9] == EPOCH_FIELDS
    assert list(record)[9:] == [
        "step",
        "val_loss_standard_error",
        "val_tokens",
        "val_documents",
        "val_bits_per_byte",
        "learning_rate",
        "tokens_per_second",
        "files",
        "shards",
        "cursor_rows",
        "corpus_passes",
        "validation_seconds",
        "train_loss_at_end",
        "improvement_nats",
        "improvement_error_nats",
        "checkpoint_blocking_seconds",
        "checkpoint_write_seconds",
        *(["checkpoint_slowdown"] if "checkpoint_slowdown" in record else []),
        "record_sha256",
    ]
    assert record["step"] == 2 * EPOCH_STEPS
    assert record["tokens_seen"] == 2 * EPOCH_STEPS * 256
    assert record["corpus_passes"] == 2 * EPOCH_STEPS * 8 / 402
    assert record["shards"] == str(finished.refs.shards)


def test_a_half_written_epoch_is_dropped_and_trained_again(
    finished: Finished, tmp_path: Path
) -> None:
    directory = tmp_path / "training"
    shutil.copytree(finished.training.directory, directory)
    (directory / "ckpt" / "epoch-002.metadata.json").unlink()
    (directory / "ckpt" / "epoch-002.apr").write_bytes(b"half")
    (directory / "ckpt" / "epoch-002.state" / "state.json").unlink()
    (directory / "ckpt" / ".epoch-002.metadata.json.partial").write_bytes(b"{")
    work(job_of(finished, directory))
    assert_same_training(directory, finished.training.directory)
    assert not (directory / "ckpt" / ".epoch-002.metadata.json.partial").exists()


def test_a_log_cut_off_in_the_middle_of_a_line_is_continued(
    finished: Finished, tmp_path: Path
) -> None:
    directory = tmp_path / "training"
    shutil.copytree(finished.training.directory, directory)
    for epoch in (1, 2):
        (directory / "ckpt" / f"epoch-{epoch:03d}.metadata.json").unlink()
    log = (directory / "train.jsonl").read_text().splitlines(keepends=True)
    (directory / "train.jsonl").write_text("".join(log[:20]) + log[20][:30])
    work(job_of(finished, directory))
    assert_same_training(directory, finished.training.directory)


def test_a_training_that_had_only_to_be_stored_is_left_as_it_is(
    finished: Finished, tmp_path: Path
) -> None:
    directory = tmp_path / "training"
    shutil.copytree(finished.training.directory, directory)
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    work(job_of(finished, directory))
    assert before == {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_loss_that_is_not_finite_stops_the_training(finished: Finished, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError) as caught:
        work(job_of(finished, tmp_path, peak_lr=1e30))
    assert (caught.value.quantity, caught.value.step) == ("update norm", 1)
    assert read_rows(tmp_path / "train.jsonl") == []


@pytest.mark.parametrize("peak_lr", [3.0, 30.0])
def test_a_validation_loss_beyond_the_threshold_fails_its_gate(
    finished: Finished, tmp_path: Path, peak_lr: float
) -> None:
    job = job_of(finished, tmp_path, peak_lr=peak_lr)
    thresholds = replace(job.thresholds, max_val_loss_growth=1.0, max_loss_to_uniform=1e9)
    with pytest.raises(GateFailedError) as caught:
        work(replace(job, thresholds=thresholds))
    assert (caught.value.where, caught.value.gate) == ("epoch 0", "train.stable")
    assert caught.value.threshold == 1
    assert caught.value.value is not None
    assert caught.value.value > 1
    assert complete_snapshots(tmp_path) == []


def test_batches_that_end_before_the_budget_stop_the_training(
    finished: Finished, tmp_path: Path
) -> None:
    job = job_of(finished, tmp_path, batch_rows=64, max_passes=1, steps_per_epoch=48)
    with pytest.raises(StreamExhaustedError) as caught:
        work(replace(job, thresholds=replace(job.thresholds, min_val_batches=1.0)))
    assert (caught.value.step, caught.value.num_steps) == (6, STEPS)


def test_the_losses_of_a_fixed_training_belong_to_its_version() -> None:

    settings = replace(
        tiny_settings(Path("/")).train,
        num_steps=3,
        steps_per_epoch=3,
        warmup_steps=1,
        batch_rows=2,
        micro_batch_rows=2,
    )
    state = new_state(small_settings(), settings, "cpu")
    batches = ((np.arange(18, dtype=np.int64).reshape(2, 9) * 7 + step) % 264 for step in range(3))
    reports = [each for each in train(state, batches, settings) if isinstance(each, StepReport)]
    found = [(round(each.train_loss, 4), round(each.grad_norm, 4)) for each in reports]
    assert (VERSION, found) == (5, [(5.575, 1.0649), (5.5569, 1.0231), (5.565, 1.1382)])
