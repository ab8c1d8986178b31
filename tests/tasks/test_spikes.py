"""Batches that spike in a whole training: what is logged, what is learnt, and what follows."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.batches import batches
from data.row_digests import row_digests
from model.batch import batch_digest
from model.errors import LossSpikeError
from tasks import train_worker
from tasks.train_job import Job
from tasks.training_log import read_lines, read_rows, read_spikes
from tests.faults.lab import Lab
from tests.tasks.test_train_worker import assert_same_training, job_of, lenient
from tests.tasks.tiny import EPOCH_STEPS, STEPS, Finished

BAD_BATCH = 26


@pytest.fixture(autouse=True)
def bad_batch(own_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one batch hold tokens at random."""

    def broken(rows: Any, **named: Any) -> Iterator[np.ndarray]:
        first = named["cursor"] // named["batch_rows"] + 1
        for number, ids_BS in enumerate(batches(rows, **named), start=first):
            if number == BAD_BATCH:
                ids_BS = np.random.default_rng(0).integers(0, 300, ids_BS.shape)  # noqa: PLW2901
            yield ids_BS

    monkeypatch.setattr("tasks.train_worker.batches", broken)


def spiking(finished: Finished, directory: Path, response: str, **settings: Any) -> Job:
    settings = {"max_spikes": 1, "spike_window": 8, "spike_deviations": 20.0, **settings}
    return job_of(finished, directory, spike_response=response, **settings)


def test_a_skipped_batch_is_recorded_and_the_budget_is_still_met(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lab = Lab(finished, monkeypatch, tmp_path)
    lab.train(spiking(finished, lab.directory, "skip"))
    lab.judge()
    (spike,) = read_spikes(lab.directory / "train.jsonl")
    assert (spike["step"], spike["spike"], spike["response"]) == (26, "train_loss", "skip")
    assert spike["train_loss"] > spike["bound"]
    assert spike["cursor_rows"] == 8 * BAD_BATCH
    rows = read_rows(lab.directory / "train.jsonl")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert rows[-1]["cursor_rows"] == 8 * (STEPS + 1)
    assert rows[-1]["tokens_seen"] == 256 * STEPS


def test_steps_that_are_undone_stay_in_the_log_and_the_data_is_not_read_again(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lab = Lab(finished, monkeypatch, tmp_path)
    lab.train(spiking(finished, lab.directory, "rollback"))
    lab.judge()
    (spike,) = read_spikes(lab.directory / "train.jsonl")
    assert (spike["response"], spike["back_to_step"]) == ("rollback", EPOCH_STEPS)
    assert spike["tokens_seen"] == 256 * EPOCH_STEPS
    lines = read_lines(lab.directory / "train.jsonl")
    cursors = [line["cursor_rows"] for line in lines]
    assert cursors == [8 * number for number in range(1, len(lines) + 1)]
    undone = BAD_BATCH - 1 - EPOCH_STEPS
    assert len(lines) == STEPS + 1 + undone
    rows = read_rows(lab.directory / "train.jsonl")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))


def test_a_spike_in_the_first_epoch_goes_back_to_the_beginning(
    finished: Finished, tmp_path: Path
) -> None:
    train_worker.work(spiking(finished, tmp_path, "rollback", steps_per_epoch=STEPS))
    (spike,) = read_spikes(tmp_path / "train.jsonl")
    assert (spike["back_to_step"], spike["tokens_seen"]) == (0, 0)
    assert len(read_rows(tmp_path / "train.jsonl")) == STEPS


@pytest.mark.parametrize("response", ["skip", "rollback"])
@pytest.mark.parametrize("ahead", [False, True], ids=["behind", "ahead"])
def test_every_line_has_the_leaked_rows_of_its_own_batch(
    finished: Finished,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    response: str,
    *,
    ahead: bool,
) -> None:
    worker: Any = train_worker
    broken, counts = worker.batches, {}

    def counted(*rows: Any, **named: Any) -> Iterator[np.ndarray]:
        for ids_BS in broken(*rows, **named):
            counts[batch_digest(ids_BS)] = claimed(None, row_digests(ids_BS))
            yield ids_BS

    def claimed(_: object, digests_N: np.ndarray) -> int:
        return int(digests_N.sum() % 7)

    monkeypatch.setattr("tasks.leaks.LeakCount.among", claimed)
    monkeypatch.setattr("tasks.train_worker.batches", counted)
    monkeypatch.setattr("tasks.train_worker.is_ahead", lambda _job: ahead)
    train_worker.work(spiking(finished, tmp_path, response, thresholds=lenient(finished)))
    lines = [line for line in read_lines(tmp_path / "train.jsonl") if "spike" not in line]
    found = [line["leaked_rows"] for line in lines]
    assert len(lines) >= STEPS
    assert len(set(found)) > 3
    assert found == [counts[line["batch_digest"]] for line in lines]


@pytest.mark.parametrize("response", ["skip", "rollback"])
@pytest.mark.parametrize("epochs", [1, 2], ids=["before the spike", "after the spike"])
def test_a_resumed_training_answers_a_spike_as_the_uninterrupted_one_does(
    finished: Finished, tmp_path: Path, response: str, epochs: int
) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    train_worker.work(spiking(finished, straight, response))
    shutil.copytree(straight, broken)
    for record in sorted((broken / "ckpt").glob("*.metadata.json"))[epochs:]:
        record.unlink()
    train_worker.work(spiking(finished, broken, response))
    assert_same_training(broken, straight)
    timeless = [
        [(line["step"], line["train_loss"], line["cursor_rows"]) for line in read_lines(log)]
        for log in (straight / "train.jsonl", broken / "train.jsonl")
    ]
    assert timeless[0] == timeless[1]


@pytest.mark.parametrize(("response", "max_spikes"), [("stop", 1), ("skip", 0)])
def test_a_spike_that_is_not_answered_ends_the_training(
    finished: Finished, tmp_path: Path, response: str, max_spikes: int
) -> None:
    with pytest.raises(LossSpikeError) as caught:
        train_worker.work(spiking(finished, tmp_path, response, max_spikes=max_spikes))
    assert (caught.value.step, caught.value.quantity) == (BAD_BATCH, "train_loss")
