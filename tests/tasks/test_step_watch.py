"""Each gate of a step on both of its sides: lines of a sound training, and one change."""

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from evidence.gates import Verdict
from model.schedule import learning_rate
from tasks.stage import judge_all
from tasks.step_watch import FIELDS, GPU_FIELDS, MFU, StepPlan, StepWatch
from tasks.thresholds import Thresholds
from tasks.train_gates import STEP_GATES
from tests.model import tiny
from tests.tasks.tiny import tiny_settings

THRESHOLDS = tiny_settings(Path("/nowhere")).thresholds
TRAIN = replace(tiny.TRAIN, num_steps=100, batch_rows=4, micro_batch_rows=4)
PLAN = StepPlan(train=TRAIN, context_length=8, uniform_nats=4.0)
GPU = {MFU: 0.4, "gpu_utilization_percentage": 90, "gpu_memory_megabytes": 1000.0}


def row(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "updates": step,
        "train_loss": 4.0 - step / 100,
        "grad_norm": 2.0 - step / 100,
        "update_norm": 0.1,
        "learning_rate": learning_rate(step, TRAIN),
        "tokens": 32,
        "tokens_seen": 32 * step,
        "cursor_rows": 4 * step,
        "batch_digest": "0123456789abcdef",
        "leaked_rows": 0,
        "tokens_per_second": 32.0,
        "wall_seconds": 1.0,
        "time": 1e9 + step,
    }


def failing(lines: list[dict[str, Any]], *, fields: frozenset[str] = FIELDS) -> list[str]:
    """Name the gates that the last of some lines fails, the others having passed all."""
    watch = StepWatch(PLAN, [{"cursor_rows": 0, "fields": sorted(fields)}])
    *earlier, last = lines
    for line in earlier:
        assert not names(judged(watch.measure(line)))
    return names(judged(watch.measure(last)))


def judged(measured: dict[str, float], thresholds: Thresholds = THRESHOLDS) -> list[Verdict]:
    # Nothing else can be told of a line that is flawed, or that is a spike.
    gates = [gate for gate in STEP_GATES if gate.measured in measured]
    return judge_all(gates, measured, asdict(thresholds))


def names(verdicts: list[Verdict]) -> list[str]:
    return [verdict.gate.id for verdict in verdicts if not verdict.passed]


def changed(num_steps: int, /, **changes: Any) -> list[dict[str, Any]]:
    rows = [row(number) for number in range(1, num_steps + 1)]
    return [*rows[:-1], {**rows[-1], **changes}]


def without(step: int, name: str) -> list[dict[str, Any]]:
    rows = changed(step)
    del rows[-1][name]
    return rows


def test_lines_of_a_sound_training_pass_every_gate() -> None:
    assert failing([row(step) for step in range(1, 101)]) == []
    assert (
        failing([{**row(step), **GPU} for step in range(1, 101)], fields=FIELDS | GPU.keys()) == []
    )


@pytest.mark.parametrize(
    ("passes", "fails", "gate"),
    [
        (changed(3), changed(3, step=4, updates=4, learning_rate=learning_rate(4, TRAIN)), "order"),
        (changed(3, updates=3), changed(3, updates=4), "updates"),
        (changed(3), changed(3, learning_rate=learning_rate(3, TRAIN) * (1 + 1e-9)), "schedule"),
        (changed(3, update_norm=1e-12), changed(3, update_norm=0.0), "moves"),
        (changed(3), changed(3, tokens=33, tokens_seen=97), "tokens"),
        (changed(3, tokens=31, tokens_seen=95), changed(3, tokens=31, tokens_seen=96), "sum"),
        (changed(3), changed(3, cursor_rows=13), "cursor"),
        (changed(3, leaked_rows=0), changed(3, leaked_rows=1), "leak"),
        (changed(3, train_loss=0.3), changed(3, train_loss=0.2999), "floor"),
        (changed(3, train_loss=4.4), changed(3, train_loss=4.4001), "ceiling"),
        (changed(17, wall_seconds=0.1), changed(17, wall_seconds=0.0999), "wall"),
    ],
)
def test_a_gate_lets_one_line_pass_and_stops_another(
    passes: list[dict[str, Any]], fails: list[dict[str, Any]], gate: str
) -> None:
    assert failing(passes) == []
    assert failing(fails) == [f"train.{gate}"]


@pytest.mark.parametrize("name", ["train_loss", "grad_norm"])
def test_two_equal_values_are_chance_and_three_are_none(name: str) -> None:
    def lines(number: int) -> list[dict[str, Any]]:
        return [{**row(step), name: 2.5} for step in range(1, number + 1)]

    assert failing(lines(2)) == []
    assert failing(lines(3)) == ["train.constant"]


def test_a_value_that_comes_back_later_is_no_constant() -> None:
    assert failing([{**row(step), "grad_norm": 1.0 + step % 2} for step in range(1, 20)]) == []


def test_no_time_is_compared_before_there_are_some() -> None:
    assert failing(changed(16, wall_seconds=1e-6)) == []


def test_time_is_compared_with_the_fastest_step_not_with_slow_ones() -> None:
    slow = [{**row(step), "wall_seconds": 100.0} for step in range(2, 20)]

    assert failing([row(1), *slow, {**row(20), "wall_seconds": 0.5}]) == []


@pytest.mark.parametrize("name", sorted(FIELDS))
@pytest.mark.parametrize("value", [None, math.nan, math.inf, "1", True, -1])
def test_a_field_that_holds_no_measurement_is_a_flaw(name: str, value: Any) -> None:
    assert failing(changed(3, **{name: value})) == ["train.complete"]


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_a_missing_field_is_a_flaw(name: str) -> None:
    assert failing(without(3, name)) == ["train.complete"]


@pytest.mark.parametrize("name", sorted(GPU_FIELDS | {MFU}))
def test_a_field_that_this_device_cannot_measure_is_a_flaw(name: str) -> None:
    assert failing(changed(3, **{name: 50.0})) == ["train.complete"]


@pytest.mark.parametrize(
    ("changes", "gates"),
    [
        ({"gpu_utilization_percentage": 100}, []),
        ({"gpu_utilization_percentage": 101}, ["train.complete"]),
        ({"tokens_per_second": 1e-9}, []),
        ({"tokens_per_second": 0.0}, ["train.complete"]),
        ({MFU: 0.8}, []),
        ({MFU: 0.8001}, ["train.peak"]),
    ],
)
def test_what_a_gpu_tells_has_a_range(changes: dict[str, float], gates: list[str]) -> None:
    rows = [{**row(step), **GPU} for step in range(1, 4)]

    assert failing([*rows[:-1], {**rows[-1], **changes}], fields=FIELDS | GPU.keys()) == gates


def spike(step: int, cursor_rows: int, **changes: Any) -> dict[str, Any]:
    return {"step": step, "spike": "train_loss", "cursor_rows": cursor_rows, **changes}


def moved_on(step: int, num_batches: int) -> dict[str, Any]:
    return {**row(step), "cursor_rows": 4 * (step + num_batches)}


def test_a_skipped_batch_is_part_of_the_cursor_and_of_nothing_else() -> None:
    assert failing([row(1), row(2), spike(3, 12), moved_on(3, 1)]) == []
    assert failing([row(1), row(2), spike(3, 13)]) == ["train.cursor"]
    assert failing([row(1), row(2), spike(3, 12), row(3)]) == ["train.cursor"]


def test_after_steps_were_undone_their_numbers_come_again() -> None:
    back = spike(4, 16, back_to_step=1, tokens_seen=32)

    assert failing([row(1), row(2), row(3), back, moved_on(2, 3), moved_on(3, 3)]) == []
    assert failing([row(1), row(2), row(3), back, moved_on(4, 1)])[0] == "train.order"


def test_a_line_is_held_to_the_device_on_which_its_worker_started() -> None:
    starts = [
        {"cursor_rows": 0, "fields": sorted(FIELDS)},
        {"cursor_rows": 8, "fields": sorted(FIELDS | GPU.keys())},
    ]
    watch = StepWatch(PLAN, starts)
    lines: list[tuple[Callable[[int], dict[str, Any]], int]] = [(row, 1), (row, 2)]

    assert [watch.measure(make(step))["flawed_fields"] for make, step in lines] == [0, 0]
    assert watch.measure({**row(3), **GPU})["flawed_fields"] == 0
    assert watch.measure(row(4))["flawed_fields"] == 3
