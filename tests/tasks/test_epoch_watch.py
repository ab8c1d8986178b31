"""Each gate of an epoch on both of its sides."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.epoch_watch import EpochPlan, EpochWatch
from tasks.stage import judge_all
from tasks.step_watch import MFU
from tasks.train_gates import EPOCH_GATES
from tasks.val_losses import ValLosses
from tests.model import tiny
from tests.tasks.tiny import tiny_settings

THRESHOLDS = tiny_settings(Path("/nowhere")).thresholds
TRAIN = replace(
    tiny.TRAIN,
    warmup_steps=2,
    early_stop_patience=2,
    early_stop_min_epochs=3,
    early_stop_errors=2.0,
)
PLAN = EpochPlan(train=TRAIN, uniform_nats=6.0, unigram_nats=4.0)
NUM_DOCUMENTS = 100


def losses(mean: float, *, spread: float = 0.1, seed: int = 0) -> ValLosses:
    """Losses of documents of a hundred tokens each, with an error of `spread / 10`."""
    drawn = np.random.default_rng(seed).normal(0.0, spread, NUM_DOCUMENTS)
    return ValLosses(100 * (mean + drawn - drawn.mean()), np.full(NUM_DOCUMENTS, 100))


def rows(epoch: int, train_loss: float, **more: float) -> list[dict[str, Any]]:
    """Ten steps of an epoch whose loss falls along a line to its end, with a little noise."""
    first = 10 * epoch
    return [
        {"step": first + n, "train_loss": train_loss + 0.01 * (10 - n) + 0.001 * (-1) ** n, **more}
        for n in range(1, 11)
    ]


def failing(*epochs: tuple[float, float], spread: float = 0.1, **more: float) -> list[str]:
    """Name the gates that the last epoch fails, given train and validation loss of each."""
    watch = EpochWatch(PLAN)
    measured: dict[str, float | None] = {}
    for number, (train_loss, val_loss) in enumerate(epochs):
        measured = watch.measure(rows(number, train_loss, **more), losses(val_loss, spread=spread))
    verdicts = judge_all(EPOCH_GATES, measured, asdict(THRESHOLDS))
    return [verdict.gate.id for verdict in verdicts if not verdict.passed]


def test_epochs_of_a_sound_training_pass_every_gate() -> None:
    assert failing((3.5, 3.5), (3.0, 3.0), (2.7, 2.72)) == []


@pytest.mark.parametrize(
    ("passes", "fails", "gate"),
    [
        ([(3.0, 3.0), (4.0, 4.0)], [(2.0, 2.0), (3.1, 3.1)], "stable"),
        ([(9.0, 9.0)], [(9.1, 9.1)], "stable"),
        ([(0.3, 0.31)], [(0.3, 0.29)], "val-floor"),
        ([(4.5, 4.5), (3.9, 3.9)], [(4.5, 4.5), (4.1, 4.1)], "unigram"),
        ([(3.0, 2.93)], [(3.0, 2.9)], "too-good"),
        ([(3.0, 3.0), (2.9, 2.93)], [(3.0, 3.0), (2.9, 2.96)], "overfit"),
    ],
)
def test_a_gate_lets_one_epoch_pass_and_stops_another(
    passes: list[tuple[float, float]], fails: list[tuple[float, float]], gate: str
) -> None:
    assert failing(*passes) == []
    assert failing(*fails) == [f"train.{gate}"]


def test_before_the_warm_up_ended_a_table_may_be_better() -> None:
    assert failing((4.5, 4.5)) == []


def test_an_improvement_that_cannot_be_seen_is_named() -> None:
    def after(error: float) -> list[str]:
        watch = EpochWatch(PLAN)
        watch.measure(rows(0, 3.0), losses(3.0))
        measured = watch.measure(rows(1, 2.9), losses(2.9, spread=10 * error, seed=1))
        verdicts = judge_all(EPOCH_GATES, measured, asdict(THRESHOLDS))
        return [verdict.gate.id for verdict in verdicts if not verdict.passed]

    assert after(0.08) == []
    assert after(0.12) == ["train.resolution"]


def test_one_document_cannot_tell_how_sure_it_is() -> None:
    watch = EpochWatch(PLAN)
    alone = ValLosses(np.array([300.0]), np.array([100]))
    watch.measure(rows(0, 3.0), alone)

    measured = watch.measure(rows(1, 3.0), alone)

    assert measured["improvement_error_nats"] is None
    verdicts = judge_all(EPOCH_GATES, measured, asdict(THRESHOLDS))
    assert [each.gate.id for each in verdicts if not each.passed] == ["train.resolution"]


@pytest.mark.parametrize(
    ("more", "gates"),
    [
        ({MFU: 0.01}, []),
        ({MFU: 0.0099}, ["train.throughput"]),
        ({"gpu_utilization_percentage": 1, "gpu_memory_megabytes": 1.0}, []),
        ({"gpu_utilization_percentage": 0, "gpu_memory_megabytes": 1.0}, ["train.busy"]),
    ],
)
def test_a_gpu_must_be_at_work(more: dict[str, float], gates: list[str]) -> None:
    assert failing((3.0, 3.0), (2.9, 2.9), **more) == gates


def ended_after(*val_losses: float, seeds: bool = False) -> int | None:
    """Return after how many epochs training has ended, if it has."""
    watch = EpochWatch(PLAN)
    for number, val_loss in enumerate(val_losses):
        drawn = losses(val_loss, seed=number if seeds else 0)
        watch.measure(rows(number, val_loss), drawn)
        if watch.ended:
            return number + 1
    return None


def test_training_goes_on_while_it_improves() -> None:
    assert ended_after(3.0, 2.9, 2.8, 2.7, 2.6, 2.5) is None


def test_training_ends_when_nothing_improves_for_as_long_as_the_patience() -> None:
    assert ended_after(3.0, 2.9, 2.95, 2.91) == 4


def test_training_never_ends_before_its_least_number_of_epochs() -> None:
    assert ended_after(3.0, 3.1) is None
    assert ended_after(3.0, 3.1, 3.2) == 3


def test_an_improvement_within_its_own_error_is_none() -> None:
    # An error of a hundredth each, drawn anew: 1.4 hundredths of the difference.
    assert ended_after(3.0, 2.99, 2.985, 2.98, seeds=True) == 3
    assert ended_after(3.0, 2.9, 2.8, 2.7, seeds=True) is None


def test_an_improvement_within_the_error_of_either_loss_counts_if_the_documents_agree() -> None:
    assert ended_after(3.0, 2.999, 2.998, 2.997) is None


def test_epochs_are_compared_with_the_best_so_far_not_with_the_last() -> None:
    assert ended_after(3.0, 2.5, 2.9, 2.7, 2.6) == 4
