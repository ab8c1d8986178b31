import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model.errors import CorruptFileError, ModelFormatError, WrongTensorsError
from model.ranks import Ranks
from model.reports import EpochReport, Report
from model.state_copy import Staging
from model.train import TrainSettings, train
from model.training_state import (
    OPTIMIZER_FILE,
    STATE_FILE,
    TrainingState,
    load_training_state,
    weights,
)
from tests.model import tiny

BOTH = pytest.mark.parametrize("settings", [tiny.TRAIN, tiny.MUON], ids=["adamw", "muon"])


def advance(state: TrainingState, settings: TrainSettings, until: int) -> list[Report]:
    """Train on the rows that the cursor names, to the end of this step's reports."""
    batches = tiny.rows(settings.num_steps)[state.cursor_rows // settings.batch_rows :]
    found = []
    for report in train(state, iter(batches), settings):
        if report.step > until:
            break
        found.append(report)
        ends_epoch = report.step % settings.steps_per_epoch == 0
        if report.step == until and (isinstance(report, EpochReport) or not ends_epoch):
            break
    return found


def save(state: TrainingState, directory: Path) -> None:
    copy = Staging().copy(state, Ranks())
    assert copy is not None
    copy.save(directory)
    copy.require_saved(directory)


def reload(state: TrainingState, settings: TrainSettings, directory: Path) -> TrainingState:
    save(state, directory)
    copies = {name: value.clone() for name, value in weights(state).items()}
    return load_training_state(tiny.LLAMA, settings, copies, directory, "cpu")


def assert_same_state(first: TrainingState, second: TrainingState) -> None:
    for left, right in (
        (weights(first), weights(second)),
        (first.optimizer.tensors(), second.optimizer.tensors()),
    ):
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)
    assert (first.step, first.tokens_seen) == (second.step, second.tokens_seen)
    assert first.cursor_rows == second.cursor_rows
    assert (first.num_spikes, first.recent) == (second.num_spikes, second.recent)
    assert torch.equal(first.generator.get_state(), second.generator.get_state())


@BOTH
@pytest.mark.parametrize("pause", [0, 1, 4, 5, 8])
def test_a_resumed_run_equals_an_unbroken_one_to_the_bit(
    settings: TrainSettings, pause: int, tmp_path: Path
) -> None:
    unbroken = tiny.state(settings)
    expected = advance(unbroken, settings, until=settings.num_steps)

    paused = tiny.state(settings)
    before = advance(paused, settings, until=pause) if pause else []
    resumed = reload(paused, settings, tmp_path)
    after = advance(resumed, settings, until=settings.num_steps)

    assert before + after == expected
    assert_same_state(resumed, unbroken)


@BOTH
def test_equal_states_give_equal_bytes(settings: TrainSettings, tmp_path: Path) -> None:
    saved = []
    for name in ("first", "second"):
        directory = tmp_path / name
        directory.mkdir()
        state = tiny.state(settings)
        advance(state, settings, until=3)
        save(state, directory)
        saved.append([(directory / file).read_bytes() for file in (OPTIMIZER_FILE, STATE_FILE)])

    assert saved[0] == saved[1]


def test_the_state_file_says_how_far_training_came(tmp_path: Path) -> None:
    state = tiny.state()
    advance(state, tiny.TRAIN, until=3)
    save(state, tmp_path)

    facts = json.loads((tmp_path / STATE_FILE).read_text())

    assert facts.pop("rng")
    assert facts == {
        "version": 1,
        "step": 3,
        "tokens_seen": 144,
        "cursor_rows": 9,
        "num_spikes": 0,
        "recent": {"train_loss": state.recent.train_loss, "grad_norm": state.recent.grad_norm},
    }
    assert len(state.recent.train_loss) == 3


def test_one_changed_moment_changes_the_file(tmp_path: Path) -> None:
    state = tiny.state()
    advance(state, tiny.TRAIN, until=3)
    save(state, tmp_path)
    before = (tmp_path / OPTIMIZER_FILE).read_bytes()
    state.optimizer.tensors()["model.norm.weight.exp_avg"][0] += 1
    save(state, tmp_path)

    assert (tmp_path / OPTIMIZER_FILE).read_bytes() != before


def saved(directory: Path) -> dict[str, torch.Tensor]:
    state = tiny.state()
    advance(state, tiny.TRAIN, until=3)
    save(state, directory)
    return weights(state)


def load(tensors: dict[str, torch.Tensor], directory: Path) -> TrainingState:
    return load_training_state(tiny.LLAMA, tiny.TRAIN, tensors, directory, "cpu")


def test_the_state_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    tensors = saved(tmp_path)

    with pytest.raises(WrongTensorsError) as caught:
        load_training_state(tiny.LLAMA, tiny.MUON, tensors, tmp_path, "cpu")

    assert caught.value.where == str(tmp_path / OPTIMIZER_FILE)
    assert "model.layers.0.mlp.up_proj.weight.momentum_buffer" in caught.value.missing


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    tensors = dict(saved(tmp_path))
    tensors["extra"] = tensors.pop("lm_head.weight")
    tensors["model.norm.weight"] = torch.ones(3)

    with pytest.raises(WrongTensorsError) as caught:
        load(tensors, tmp_path)

    assert caught.value.where == "weights"
    assert caught.value.missing == ("lm_head.weight",)
    assert caught.value.unexpected == ("extra",)
    assert caught.value.misshapen == ("model.norm.weight",)


def test_a_truncated_optimizer_file_is_refused(tmp_path: Path) -> None:
    tensors = saved(tmp_path)
    path = tmp_path / OPTIMIZER_FILE
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(CorruptFileError) as caught:
        load(tensors, tmp_path)

    assert caught.value.path == path


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def edited(raw: bytes) -> bytes:
        facts = json.loads(raw)
        change(facts)
        return json.dumps(facts).encode()

    return edited


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda raw: raw[:-3], CorruptFileError),
        (lambda _raw: b"\xff", CorruptFileError),
        (lambda _raw: b"[]", ModelFormatError),
        (edit(lambda facts: facts.pop("step")), ModelFormatError),
        (edit(lambda facts: facts.update(extra=1)), ModelFormatError),
        (edit(lambda facts: facts.update(step=4)), ModelFormatError),
        (edit(lambda facts: facts.update(step=0)), ModelFormatError),
        (edit(lambda facts: facts.update(step=True)), ModelFormatError),
        (edit(lambda facts: facts.update(cursor_rows=-1)), ModelFormatError),
        (edit(lambda facts: facts.update(tokens_seen=1.5)), ModelFormatError),
        (edit(lambda facts: facts.update(num_spikes=-1)), ModelFormatError),
        (edit(lambda facts: facts.update(recent=[])), ModelFormatError),
        (edit(lambda facts: facts["recent"].pop("grad_norm")), ModelFormatError),
        (edit(lambda facts: facts["recent"].update(grad_norm=3.0)), ModelFormatError),
        (edit(lambda facts: facts["recent"].update(grad_norm=["x"])), ModelFormatError),
        (edit(lambda facts: facts.update(rng=1)), CorruptFileError),
        (edit(lambda facts: facts.update(rng="***")), CorruptFileError),
        (edit(lambda facts: facts.update(rng="AAAA")), CorruptFileError),
    ],
)
def test_a_wrong_state_file_is_refused(
    change: Callable[[bytes], bytes], error: type[ModelFormatError], tmp_path: Path
) -> None:
    tensors = saved(tmp_path)
    path = tmp_path / STATE_FILE
    path.write_bytes(change(path.read_bytes()))

    with pytest.raises(ModelFormatError) as caught:
        load(tensors, tmp_path)

    assert type(caught.value) is error
    assert caught.value.path == path
