"""Aliases move by gates: the newest that passed is candidate, the better one champion."""

from dataclasses import replace
from typing import Any

import pytest

from tasks import registry
from tasks.registry import judge_candidate, judge_champion
from tests.tasks.tiny import Finished, begin, evaluated, train_again

GATE = {"id": "train.x", "required": True, "verdict": "pass"}


@pytest.mark.parametrize(
    ("record", "passed"),
    [
        ({"outcome": "completed", "gates": [GATE]}, True),
        ({"outcome": "completed", "gates": [GATE, {**GATE, "verdict": "FAIL"}]}, False),
        (
            {"outcome": "completed", "gates": [{**GATE, "required": False, "verdict": "missed"}]},
            True,
        ),
        ({"outcome": "failed", "gates": [GATE]}, False),
    ],
)
def test_a_run_whose_required_gates_held_gives_the_candidate(
    record: dict[str, Any], passed: bool
) -> None:
    assert [verdict.passed for verdict in judge_candidate(record)] == [passed]


def words(verdicts: Any) -> dict[str, str]:
    return {verdict.gate.id: verdict.word for verdict in verdicts}


def test_only_a_better_evaluation_on_the_same_data_makes_a_champion(
    copied: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, shards = copied.settings, copied.refs.shards
    shorter = replace(settings, train=replace(settings.train, num_steps=16))
    run = begin(settings, "shorter")
    worse = str(evaluated(run, train_again(run, shards, shorter), shards, settings))
    good = str(copied.refs.evaluation)
    assert words(judge_champion(good, worse)) == {
        "registry.better": "pass",
        "registry.comparable": "pass",
    }
    assert words(judge_champion(worse, good))["registry.better"] == "FAIL"
    # The same again is no better.
    assert words(judge_champion(good, good))["registry.better"] == "FAIL"
    assert words(judge_champion(good, "evaluation:" + 64 * "0")) == {"registry.comparable": "FAIL"}
    assert words(judge_champion(good, None)) == {"registry.comparable": "FAIL"}
    assert registry.evaluation_of(copied.run) == good
