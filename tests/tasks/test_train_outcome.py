import pytest

from evidence.errors import GateFailedError
from model.errors import LossSpikeError, NonFiniteError, StreamExhaustedError, WrongSettingError
from tasks.errors import DeviceUnavailableError
from tasks.train_gates import TRAIN_GATES
from tasks.train_outcome import OF_GATE, failure, success


@pytest.mark.parametrize(
    ("best", "early", "word"),
    [
        (2.2, False, "CONVERGED"),
        (2.2, True, "CONVERGED"),
        (2.2001, False, "BUDGET_EXHAUSTED"),
        (2.2001, True, "EARLY_STOP"),
    ],
)
def test_success_is_earned_by_the_target_alone(best: float, early: bool, word: str) -> None:
    assert success(best, 2.2, ended_early=early) == word


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (NonFiniteError("loss", 3, float("nan")), "NUMERICAL_INSTABILITY"),
        (LossSpikeError(3, "grad_norm", 9.0, 1.0, 0), "LOSS_SPIKE"),
        (StreamExhaustedError(3, 9), "STREAM_EXHAUSTED"),
        (DeviceUnavailableError("cuda", 0), "DEVICE_UNAVAILABLE"),
        (GateFailedError("train.stable", "s", 2.1, "<=", 2.0), "DIVERGENCE"),
        (GateFailedError("train.peak", "s", 0.9, "<=", 0.8), "THROUGHPUT_OUT_OF_RANGE"),
        (GateFailedError("train.device", "s", 1, "==", 0), "GPU_RESIDENCY_PROOF_FAILED"),
        (WrongSettingError("x", 1, "2"), "FAILED"),
    ],
)
def test_what_stops_a_training_has_one_word(error: Exception, word: str) -> None:
    assert failure(error) == word


def test_every_gate_that_can_stop_a_worker_has_its_word() -> None:
    stopping = {
        gate.id
        for gate in TRAIN_GATES
        if gate.required
        and gate.id not in {"train.budget", "train.learned", "train.digests", "train.moved"}
    }
    assert OF_GATE.keys() == stopping
