import math
from typing import Any, get_args

import pytest

from evidence.errors import GateFailedError
from evidence.gates import (
    Gate,
    Operator,
    gate_of,
    judge,
    judge_all,
    require,
    verdict_record,
)


def gate(**changes: Any) -> Gate:
    values: dict[str, Any] = {
        "id": "stage.small",
        "sentence": "the value is small",
        "measured": "value",
        "operator": "<",
        "threshold": 2.0,
    }
    return Gate(**(values | changes))


@pytest.mark.parametrize(
    ("operator", "below", "equal", "above"),
    [
        ("<", True, False, False),
        ("<=", True, True, False),
        ("==", False, True, False),
        (">=", False, True, True),
        (">", False, False, True),
    ],
)
def test_every_operator_compares_as_it_reads(
    operator: Operator, below: bool, equal: bool, above: bool
) -> None:
    verdicts = [judge(gate(operator=operator), {"value": value}).passed for value in (1, 2, 3)]
    assert verdicts == [below, equal, above]


def test_those_are_all_operators() -> None:
    assert get_args(Operator) == ("<", "<=", "==", ">=", ">")


@pytest.mark.parametrize("value", [None, "1", math.nan])
def test_what_is_not_a_number_fails(value: Any) -> None:
    assert not judge(gate(), {"value": value}).passed


@pytest.mark.parametrize("operator", get_args(Operator))
def test_a_missing_measurement_fails_whatever_is_asked(operator: Operator) -> None:
    verdict = judge(gate(operator=operator), {})
    assert (verdict.value, verdict.threshold, verdict.passed) == (None, 2.0, False)


def test_a_threshold_can_be_another_measurement() -> None:
    named = gate(threshold="limit")
    assert judge(named, {"value": 3, "limit": 4}).passed
    assert not judge(named, {"value": 4, "limit": 4}).passed
    verdict = judge(named, {"value": 3})
    assert (verdict.value, verdict.threshold, verdict.passed) == (3.0, None, False)


def test_a_missed_aim_stops_nothing() -> None:
    verdict = judge(gate(required=False), {"value": 5})
    assert verdict.word == "missed aim"
    require([verdict])


def test_the_words_of_verdicts() -> None:
    assert judge(gate(), {"value": 1}).word == "pass"
    assert judge(gate(), {"value": 5}).word == "FAIL"
    assert judge(gate(required=False), {"value": 1}).word == "pass"


def test_the_first_required_gate_that_fails_is_raised() -> None:
    measured = {"value": 5}
    verdicts = [
        judge(gate(id="stage.aim", required=False), measured),
        judge(gate(id="stage.holds", operator=">"), measured),
        judge(gate(id="stage.first", hint="make it smaller"), measured),
        judge(gate(id="stage.second"), measured),
    ]
    with pytest.raises(GateFailedError) as caught:
        require(verdicts)
    assert vars(caught.value) == {
        "gate": "stage.first",
        "sentence": "the value is small",
        "value": 5.0,
        "operator": "<",
        "threshold": 2.0,
        "where": "",
        "hint": "make it smaller",
    }


def test_a_gate_without_advice_says_where_all_gates_are() -> None:
    with pytest.raises(GateFailedError) as caught:
        require([judge(gate(), {"value": 5})])
    assert caught.value.hint == "`assay status` lists every gate of a run with its threshold"


def test_advice_is_no_part_of_what_is_recorded() -> None:
    advised = judge(gate(hint="make it smaller"), {"value": 5})
    assert verdict_record(advised) == verdict_record(judge(gate(), {"value": 5}))
    assert gate_of(verdict_record(advised)) == advised.gate


def test_a_gate_that_fails_says_where() -> None:
    with pytest.raises(GateFailedError) as caught:
        require([judge(gate(), {"value": 5})], "step 7")
    assert str(caught.value) == (
        "step 7, gate stage.small: the value is small: measured 5, should be < 2"
    )


def test_a_gate_on_what_not_every_machine_has_is_judged_where_it_is_measured() -> None:
    gates = (gate(id="stage.maybe", if_measured=True), gate())
    assert [each.gate.id for each in judge_all(gates, {})] == ["stage.small"]
    found = judge_all(gates, {"value": None})
    assert [(each.gate.id, each.passed) for each in found] == [
        ("stage.maybe", False),
        ("stage.small", False),
    ]


def test_verdicts_that_all_hold_raise_nothing() -> None:
    require([judge(gate(), {"value": 1})])


def test_a_recorded_verdict_is_these_fields() -> None:
    assert verdict_record(judge(gate(threshold="limit"), {"value": 1, "limit": 3})) == {
        "id": "stage.small",
        "sentence": "the value is small",
        "measured": "value",
        "value": 1.0,
        "operator": "<",
        "threshold": "limit",
        "threshold_value": 3.0,
        "required": True,
        "if_measured": False,
        "verdict": "pass",
    }


@pytest.mark.parametrize(
    "each", [gate(), gate(threshold="limit", required=False, if_measured=True)]
)
def test_the_gate_of_a_recorded_verdict_is_read_back(each: Gate) -> None:
    assert gate_of(verdict_record(judge(each, {}))) == each
