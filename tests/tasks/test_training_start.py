"""What a worker finds out before its first step."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from evidence.errors import GateFailedError
from model.training_state import TrainingState, load_training_state
from tasks.step_watch import FIELDS
from tasks.training_log import read_lines
from tasks.training_start import STARTS
from tests.faults.lab import Lab
from tests.tasks.tiny import Finished

pytestmark = pytest.mark.usefixtures("own_threads")


def test_a_start_says_where_it_was_and_what_held(finished: Finished) -> None:
    (start,) = read_lines(finished.training.directory / STARTS)
    assert (start["step"], start["cursor_rows"], start["num_ranks"]) == (0, 0, 1)
    assert (start["device"], start["device_name"]) == ("cpu", "cpu")
    assert start["fields"] == sorted(FIELDS)
    assert start["val_batches"] == 77 / 8
    assert start["uniform_nats"] == pytest.approx(5.703782474656201)
    assert (start["misplaced_tensors"], start["shared_documents"]) == (0, 0)
    assert 0 < start["forward_error"] < 1e-6
    assert 0 < start["gradient_error"] < 1e-5
    assert "resume_drift" not in start
    assert "peak_flops_per_second" not in start


def test_a_state_that_is_not_the_one_that_was_logged_is_not_trained_on(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def flipped(*arguments: Any) -> TrainingState:
        state = load_training_state(*arguments)
        state.optimizer.tensors()["model.norm.weight.exp_avg"].view(torch.int32)[0] ^= 1
        return state

    lab = Lab(finished, monkeypatch, tmp_path)
    lab.replace("tasks.train_worker.load_training_state", flipped)
    with pytest.raises(GateFailedError) as caught:
        lab.resume(epochs=2)
    assert (caught.value.gate, caught.value.where) == ("train.restored", "before step 33")


def test_going_on_is_a_start_of_its_own(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lab = Lab(finished, monkeypatch, tmp_path)
    lab.resume(epochs=2)
    first, second = read_lines(lab.directory / STARTS)
    assert (first["step"], second["step"], second["cursor_rows"]) == (0, 32, 256)
    assert second["pid"] == os.getpid()
    assert second["resume_drift"] == 0
    assert second["changed_states"] == 0
    assert "changed_states" not in first
    assert "spread_error" not in second
    lab.judge()


def test_bfloat16_has_a_gradient_of_its_own_precision(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lab = Lab(finished, monkeypatch, tmp_path)
    with pytest.raises(GateFailedError) as caught:
        lab.train(lab.job(precision="bfloat16"))
    assert (caught.value.where, caught.value.gate) == ("before step 1", "train.gradient")
    lab.train(lab.job(precision="bfloat16", thresholds={"max_gradient_error": 0.1}))
    assert [start["forward_error"] < 1e-6 for start in read_lines(lab.directory / STARTS)] == [
        True
    ] * 2
