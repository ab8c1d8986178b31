"""Gates: thresholds fixed before a run, verdicts computed from what was measured.

A gate compares one measurement with a number or with another measurement. A measurement that is
absent fails its gate: nothing is passed by default. The exception says so itself: `if_measured`.
"""

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from evidence.errors import SEE_ALL, GateFailedError

Operator = Literal["<", "<=", "==", ">=", ">"]
Measurements = Mapping[str, float | int | str | None]

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    ">=": operator.ge,
    ">": operator.gt,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One condition on a stage's measurements."""

    id: str
    sentence: str
    "What holds when the gate passes; it is the message when it does not."
    measured: str
    operator: Operator
    threshold: float | str
    "A number, or the name of the measurement to compare with."
    required: bool = True
    "A gate that is not required is an aim: missing it is shown and stops nothing."
    if_measured: bool = False
    "Judged only where there is something to judge, such as on a device whose peak is known."
    hint: str = field(default=SEE_ALL, compare=False)
    "What to do if it fails; advice, and so no part of a record."


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A gate with the two numbers it compared."""

    gate: Gate
    value: float | None
    threshold: float | None
    passed: bool

    @property
    def word(self) -> str:
        """Say the verdict as people read it."""
        return "pass" if self.passed else "FAIL" if self.gate.required else "missed aim"


def judge_all(gates: Iterable[Gate], measurements: Measurements) -> list[Verdict]:
    """Decide every gate that applies."""
    return [
        judge(gate, measurements)
        for gate in gates
        if gate.measured in measurements or not gate.if_measured
    ]


def judge(gate: Gate, measurements: Measurements) -> Verdict:
    """Decide one gate from the measurements alone."""
    value = _number(measurements.get(gate.measured))
    bound = gate.threshold
    threshold = _number(measurements.get(bound) if isinstance(bound, str) else bound)
    passed = (
        value is not None and threshold is not None and _COMPARE[gate.operator](value, threshold)
    )
    return Verdict(gate=gate, value=value, threshold=threshold, passed=passed)


def require(verdicts: Iterable[Verdict], where: str = "") -> None:
    """Stop at the first required gate that did not hold, saying where if there are several places.

    Raises: GateFailedError.
    """
    for verdict in verdicts:
        gate = verdict.gate
        if gate.required and not verdict.passed:
            compared = (verdict.value, gate.operator, verdict.threshold)
            raise GateFailedError(gate.id, gate.sentence, *compared, where, gate.hint)


def verdict_record(verdict: Verdict) -> dict[str, object]:
    """Write a verdict as plain values."""
    gate = verdict.gate
    return {
        "id": gate.id,
        "sentence": gate.sentence,
        "measured": gate.measured,
        "value": verdict.value,
        "operator": gate.operator,
        "threshold": gate.threshold,
        "threshold_value": verdict.threshold,
        "required": gate.required,
        "if_measured": gate.if_measured,
        "verdict": verdict.word,
    }


def gate_of(record: Mapping[str, object]) -> Gate:
    """Read back the gate of a recorded verdict."""
    threshold = record["threshold"]
    return Gate(
        id=str(record["id"]),
        sentence=str(record["sentence"]),
        measured=str(record["measured"]),
        operator=record["operator"],  # type: ignore[arg-type]  # judge() refuses any other text
        threshold=threshold if isinstance(threshold, str) else float(threshold),  # type: ignore[arg-type]
        required=bool(record["required"]),
        if_measured=bool(record["if_measured"]),
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
