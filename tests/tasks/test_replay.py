"""Steps of real trainings made again, and planted faults that a replay tells from sound ones."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.errors import WrongSettingError
from tasks.loss_turns import find_regression, largest_spike
from tasks.recorded_training import RecordedTraining, stretch
from tasks.replay import (
    DEPARTS,
    INCOMPARABLE,
    REPRODUCES,
    WITHIN_NOISE,
    Replay,
    replay_line,
    require_step,
)
from tasks.run_replay import replay_run
from tasks.snapshots import complete_snapshots
from tasks.train_errors import SnapshotDamagedError
from tests.tasks.planted import FAULTS, FAULTY, Short, train_short
from tests.tasks.tiny import Finished, at_home

pytestmark = pytest.mark.usefixtures("own_threads_of_module")


@pytest.fixture(scope="module")
def own_threads_of_module() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def sound(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Short]:
    """A short training without a fault; everything of this module is at its home."""
    home = tmp_path_factory.mktemp("replay")
    with at_home(home):
        (home / "store").symlink_to(finished.home / "store")
        yield train_short(finished, home / "sound")


def replayed(training: RecordedTraining | Short, step: int) -> Replay:
    if isinstance(training, Short):
        training = RecordedTraining.of(training.run.name)
    return replay_line(training, require_step(training, step))


@pytest.mark.parametrize(
    ("step", "begun", "num_lines"),
    [(1, "the start", 1), (4, "the start", 4), (5, "epoch-000", 1), (11, "epoch-001", 3)],
)
def test_a_sound_step_reproduces_from_the_snapshot_before_it(
    sound: Short, step: int, begun: str, num_lines: int
) -> None:
    found = replayed(sound, step)

    assert found.verdict == REPRODUCES
    assert (found.begun, found.num_lines, found.surroundings) == (begun, num_lines, {})
    assert found.replayed is not None
    assert found.replayed["train_loss"] == found.recorded["train_loss"]
    assert found.floor is None


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("rows of the batch reordered", "data order"),
        ("a weight misread in one forward pass", "compute"),
        ("gradients clipped otherwise", "optimizer"),
        ("lowest bit of one weight", "memory"),
    ],
)
def test_a_step_with_a_fault_does_not_reproduce_and_the_kind_is_named(
    sound: Short, finished: Finished, tmp_path: Path, fault: str, kind: str
) -> None:
    faulty = train_short(finished, tmp_path / "faulty", FAULTS[fault])

    assert replayed(faulty, FAULTY - 1).verdict == REPRODUCES
    found = replayed(faulty, FAULTY)

    assert found.verdict == DEPARTS
    assert found.parting is not None
    assert (found.parting.step, found.parting.kind) == (FAULTY, kind)
    assert found.floor == {"train_loss": 0.0, "grad_norm": 0.0, "update_norm": 0.0}
    # The fault is of one moment: the next epoch's snapshot holds what came of it.
    assert replayed(faulty, 9).verdict == REPRODUCES


def test_on_another_machine_a_step_that_departs_cannot_be_compared(
    sound: Short, finished: Finished, tmp_path: Path
) -> None:
    faulty = train_short(finished, tmp_path / "faulty", FAULTS["one gradient changed"])
    training = RecordedTraining.of(faulty.run.name)
    elsewhere = replace(training, starts=[{**training.starts[0], "torch": "2.0"}])

    found = replayed(elsewhere, FAULTY)

    assert found.verdict == INCOMPARABLE
    assert list(found.surroundings) == ["torch"]


def test_two_replays_that_differ_excuse_a_record_that_differs_as_much(sound: Short) -> None:
    training = RecordedTraining.of(sound.run.name)
    # Other micro-batches add up in another order: what is recorded is then off by rounding.
    elsewhere = replace(
        training,
        starts=[{**training.starts[0], "num_ranks": 2}],
        train=replace(training.train, micro_batch_rows=2),
    )

    found = replayed(elsewhere, 3)

    assert found.verdict == WITHIN_NOISE
    assert found.floor is not None
    assert 0 < max(found.distance.values()) < 1e-4
    off = [{**line, "train_loss": line["train_loss"] * 1.001} for line in elsewhere.lines]
    assert replayed(replace(elsewhere, lines=off, steps=off), 3).verdict == INCOMPARABLE


def test_rounding_excuses_no_other_batch(sound: Short) -> None:
    training = RecordedTraining.of(sound.run.name)
    other = [{**line, "batch_digest": "0" * 16} for line in training.lines]
    elsewhere = replace(
        training,
        starts=[{**training.starts[0], "num_ranks": 2}],
        train=replace(training.train, micro_batch_rows=2),
        lines=other,
        steps=other,
    )
    assert replayed(elsewhere, 3).verdict == INCOMPARABLE


@pytest.mark.parametrize("step", [0, -1, 13])
def test_a_step_that_was_not_logged_is_refused(sound: Short, step: int) -> None:
    with pytest.raises(WrongSettingError, match=f"--step is {step}, should be from 1 to 12"):
        replayed(sound, step)


def test_without_a_snapshot_a_replay_begins_at_the_start(sound: Short, tmp_path: Path) -> None:
    training = bare(sound, tmp_path)
    shutil.rmtree(training.directory / "ckpt")

    found = replayed(training, 6)

    assert (found.verdict, found.begun, found.num_lines) == (REPRODUCES, "the start", 6)


def test_a_damaged_snapshot_is_refused(sound: Short, tmp_path: Path) -> None:
    training = bare(sound, tmp_path)
    weights = complete_snapshots(training.directory)[0].weights
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(SnapshotDamagedError):
        replayed(training, 6)


def test_a_snapshot_that_is_whole_and_of_another_state_is_a_matter_of_memory(
    sound: Short, finished: Finished, tmp_path: Path
) -> None:
    other = train_short(finished, tmp_path / "other", FAULTS["one token changed"])
    training = bare(sound, tmp_path)
    for path in (other.directory / "ckpt").glob("epoch-001*"):
        target = training.directory / "ckpt" / path.name
        if path.is_dir():
            shutil.copytree(path, target, dirs_exist_ok=True)
        else:
            shutil.copy(path, target)

    found = replayed(training, 10)

    assert found.verdict == DEPARTS
    assert found.parting is not None
    assert (found.parting.step, found.parting.kind) == (8, "memory")
    assert found.parting.look == "the snapshot is not the state that was logged"


def bare(short: Short, tmp_path: Path) -> RecordedTraining:
    """Copy a training that a test may damage."""
    directory = tmp_path / "copy"
    shutil.copytree(short.directory, directory)
    return replace(RecordedTraining.of(short.run.name), directory=directory)


def line(step: int, cursor_rows: int, **more: Any) -> dict[str, Any]:
    return {"step": step, "cursor_rows": cursor_rows, **more}


def test_a_stretch_begins_where_its_state_last_went_on() -> None:
    undone = [line(1, 4), line(2, 8), line(3, 12), line(4, 16, spike="train_loss", back_to_step=2)]
    log = [*undone, line(3, 20), line(4, 24, spike="grad_norm"), line(4, 28)]

    part = stretch(log, log[-1], 2)

    assert (part.cursor_rows, part.num_spikes) == (16, 1)
    assert [each["cursor_rows"] for each in part.lines] == [20, 24, 28]
    assert stretch(log, log[1], 0).lines == log[:2]
    assert stretch(log, log[3], 2).lines == log[2:4]


def test_a_step_after_a_spike_that_undid_an_epoch_reproduces(
    sound: Short, finished: Finished, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {
        "spike_response": "rollback",
        "spike_window": 3,
        "spike_deviations": 4.0,
    }
    spiky = train_short(finished, tmp_path / "spiky", None, max_spikes=50, **changes)
    training = RecordedTraining.of(spiky.run.name)
    spikes = [each for each in training.lines if "spike" in each]

    assert spikes
    for each in spikes:
        assert replay_line(training, each).verdict == REPRODUCES
    assert replayed(spiky, 12).verdict == REPRODUCES


def test_the_largest_spike_is_the_step_that_stands_out_most(sound: Short) -> None:
    training = RecordedTraining.of(sound.run.name)
    lines = [{**each, "grad_norm": 1.0 + 0.01 * (each["step"] % 2)} for each in training.lines]
    lines[10]["grad_norm"] = 9.0

    found = largest_spike(replace(training, lines=lines))

    assert found is not None
    assert (found.line["step"], found.quantity, found.value) == (11, "grad_norm", 9.0)
    assert found.num_before == 10
    assert found.deviations == pytest.approx((9 - found.mean) / 0.005)
    assert largest_spike(replace(training, lines=lines[:8])) is None


def test_a_validation_loss_that_rose_is_found_to_its_step(
    sound: Short, finished: Finished, tmp_path: Path
) -> None:
    """Training forgets at step 6, by a rate that is a thousand times too high."""
    broken = train_short(finished, tmp_path / "broken", _leap)
    with pytest.MonkeyPatch.context() as patch:
        _leap(patch)
        run, found = replay_run("search", broken.run.name, None)

    assert found.regression is not None
    assert (found.regression.begun, found.regression.step) == ("epoch-000", FAULTY)
    assert found.regression.first_step == 4
    assert found.regression.val_loss_after > found.regression.val_loss_before
    assert FAULTY in [replay.step for replay in found.replays]
    assert set(found.verdicts) == {REPRODUCES}
    recorded = json.loads((run.directory / "replay.json").read_text())
    assert recorded["regression"]["step"] == FAULTY
    assert f"passed the middle at step {FAULTY}" in (run.directory / "replay.md").read_text()


def _leap(patch: pytest.MonkeyPatch) -> None:
    from model.schedule import learning_rate

    patch.setattr(
        "model.train.learning_rate",
        lambda step, settings: learning_rate(step, settings) * (1000 if step == FAULTY else 1),
    )


def test_a_training_that_only_improved_has_no_regression(sound: Short) -> None:
    assert find_regression(RecordedTraining.of(sound.run.name)) is None
