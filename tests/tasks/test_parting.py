"""Faults planted in the loop of real trainings, and where two logs say that they part."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import NotFoundError
from tasks.parting import find_parting, part_runs
from tests.tasks.planted import FAULTS, FAULTY, STEPS, Short, train_short
from tests.tasks.tiny import Finished, at_home, begin

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
    home = tmp_path_factory.mktemp("parting")
    with at_home(home):
        (home / "store").symlink_to(finished.home / "store")
        yield train_short(finished, home / "sound")


@pytest.mark.parametrize(
    ("fault", "step", "kind", "fact"),
    [
        ("rows of the batch reordered", FAULTY, "data order", "batch_digest"),
        ("one token changed", FAULTY, "data order", "batch_digest"),
        ("a weight misread in one forward pass", FAULTY, "compute", "train_loss"),
        ("one gradient changed", FAULTY, "compute", "grad_norm"),
        ("learning rate doubled", FAULTY, "optimizer", "learning_rate"),
        ("gradients clipped otherwise", FAULTY, "optimizer", "update_norm"),
        ("update skipped", FAULTY, "optimizer", "updates"),
        ("lowest bit of one weight", FAULTY, "memory", "state_digest"),
        ("exponent bit of one weight", FAULTY, "memory", "state_digest"),
        ("second moments zeroed", FAULTY, "memory", "state_digest"),
    ],
)
def test_a_planted_fault_is_named_with_its_step_and_its_kind(
    sound: Short, finished: Finished, tmp_path: Path, fault: str, step: int, kind: str, fact: str
) -> None:
    faulty = train_short(finished, tmp_path / "faulty", FAULTS[fault])

    found = part_runs(sound.run.name, faulty.run.name)

    assert found.settings == {}
    assert found.parting is not None
    assert (found.parting.step, found.parting.kind, found.parting.fact) == (step, kind, fact)
    assert found.parting.left != found.parting.right
    assert found.parting.same_state == step - 1


def test_between_two_digests_a_changed_state_is_told_from_the_loss_and_called_open(
    sound: Short, finished: Finished, tmp_path: Path
) -> None:
    plant = FAULTS["exponent bit of one weight"]
    faulty = train_short(finished, tmp_path / "faulty", plant, state_digest_steps=100)

    found = part_runs(sound.run.name, faulty.run.name).parting

    assert found is not None
    assert (found.step, found.fact) == (FAULTY + 1, "train_loss")
    assert found.kind == "compute or memory"
    assert found.same_state == 4  # the end of an epoch has its digest, whatever the interval
    assert found.look == "the forward pass, or a state that changed before it"


def test_two_sound_trainings_do_not_part(sound: Short, finished: Finished, tmp_path: Path) -> None:
    again = train_short(finished, tmp_path / "again")

    found = part_runs(sound.run.name, again.run.name)

    assert (found.num_steps, found.settings, found.parting) == (STEPS, {}, None)


def test_other_first_weights_and_other_settings_are_named(
    sound: Short, finished: Finished, tmp_path: Path
) -> None:
    other = train_short(finished, tmp_path / "other", seed=7)

    found = part_runs(sound.run.name, other.run.name)

    assert list(found.settings) == ["train.seed"]
    assert found.parting is not None
    assert (found.parting.step, found.parting.kind) == (0, "start")


def test_a_run_that_trained_nothing_is_not_found(sound: Short, finished: Finished) -> None:
    untrained = begin(finished.settings, "untrained")
    with pytest.raises(NotFoundError, match="no training with a log, should exist"):
        part_runs(sound.run.name, untrained.name)


def line(step: int, **changes: Any) -> dict[str, Any]:
    sound = {"step": step, "cursor_rows": 4 * step, "train_loss": 6.0 - step, "grad_norm": 0.5}
    return {**sound, **changes}


def test_a_spike_that_only_one_answered_is_a_matter_of_settings() -> None:
    found = find_parting([line(1), line(2)], [line(1), line(2, spike="train_loss")])
    assert found is not None
    assert (found.step, found.kind, found.left, found.right) == (2, "settings", None, "train_loss")


def test_equal_logs_do_not_part_whenever_they_were_made_and_however_long_they_are() -> None:
    log = [line(1), line(2), line(3)]
    assert find_parting(log, [line(1, time=0.0), line(2), line(3)]) is None
    assert find_parting(log, log[:2]) is None
    nan = float("nan")
    assert find_parting([line(1, train_loss=nan)], [line(1, train_loss=nan)]) is None


def test_facts_that_an_older_log_lacks_are_not_compared() -> None:
    assert find_parting([line(1)], [line(1, batch_digest="0" * 16)]) is None
