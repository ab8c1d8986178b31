"""What the reference demanded of a training has a gate here, or a test where a gate cannot be."""

from collections import Counter

import pytest

from evidence.errors import SEE_ALL
from evidence.gates import Gate, Operator
from tasks.thresholds import Thresholds
from tasks.train_gates import TRAIN_GATES, worst

DEMANDED = {
    "GATE-TRAIN-001": ("train.complete", "train.order"),
    "GATE-TRAIN-002": ("train.digests",),
    "GATE-TRAIN-003": ("train.target", "train.digests"),
    "GATE-TRAIN-004": ("train.resolution", "train.budget"),
    "GATE-TRAIN-005": ("train.stable", "train.ceiling"),
    "GATE-TRAIN-006": ("tests/model/test_train.py", "tests/tasks/test_train_worker.py"),
    "GATE-TRAIN-007": ("train.complete", "model/errors.py"),
    "GATE-TRAIN-008": ("train.complete", "train.throughput"),
    "GATE-TRAIN-009": ("tests/flows/test_settings.py",),
    "GATE-TRAIN-010": ("train.moves", "train.gradient"),
    "GATE-TRAIN-011": ("train.constant", "train.wall", "train.updates"),
    "GATE-GPUTRAIN-001": ("tests/tasks/test_settings.py",),
    "GATE-GPUTRAIN-002": ("tests/tasks/test_settings.py",),
    "GATE-GPUTRAIN-003": ("train.device", "train.busy"),
    "GATE-GPUTRAIN-004": ("train.throughput", "train.peak"),
    "GATE-GPUTRAIN-005": ("tests/tasks/test_train_worker.py",),
    "GATE-GPUTRAIN-006": ("tests/tasks/test_provenance.py",),
    "GATE-GPUTRAIN-007": ("train.forward", "train.gradient"),
}
IDS = [gate.id for gate in TRAIN_GATES]


def test_no_gate_has_the_id_or_the_sentence_of_another() -> None:
    assert [each for each, number in Counter(IDS).items() if number > 1] == []
    assert len({gate.sentence for gate in TRAIN_GATES}) == len(TRAIN_GATES)


@pytest.mark.parametrize("demanded", DEMANDED)
def test_what_the_reference_demanded_is_held(demanded: str) -> None:
    from tests.test_architecture import PROJECT

    for holder in DEMANDED[demanded]:
        assert holder in IDS if "/" not in holder else (PROJECT / holder).is_file()


def test_a_gate_names_a_threshold_that_exists() -> None:
    named = {str(gate.threshold) for gate in TRAIN_GATES if isinstance(gate.threshold, str)}
    thresholds = {name.removeprefix("thresholds.") for name in named if "thresholds." in name}
    assert thresholds
    assert thresholds <= set(Thresholds.__dataclass_fields__)


def gate(measured: str, operator: Operator) -> Gate:
    return Gate(
        id="x",
        sentence="y",
        measured=measured,
        operator=operator,
        threshold=1,
    )


def test_the_worst_measurement_is_the_one_furthest_from_passing() -> None:
    gates = [gate("low", ">="), gate("high", "<="), gate("error", "=="), gate("never", "<")]
    measured = [
        {"low": 3.0, "high": 1.0, "error": 0},
        {"low": 2.0, "high": 5.0},
        {"low": 4.0, "error": 2},
    ]
    assert worst(gates, measured) == {"low": 2.0, "high": 5.0, "error": 2}


def test_a_measurement_that_is_absent_once_is_absent_in_all() -> None:
    assert worst([gate("low", ">")], [{"low": 3.0}, {"low": None}]) == {"low": None}


def test_a_gate_that_a_setting_decides_names_the_setting() -> None:
    hold_out_more = "raise pretokenize.validation_fraction, or use a larger corpus"
    assert {gate.id: gate.hint for gate in TRAIN_GATES if gate.hint != SEE_ALL} == {
        "train.validation": hold_out_more,
        "train.resolution": hold_out_more,
        "train.leak": "shard the tokens again: `assay shard` leaves such rows out",
    }
