"""What a tiny run's losses are: whoever changes them changes `model.train.VERSION` with them."""

import pytest

from model.reports import StepReport
from model.train import VERSION, TrainSettings, train
from tests.model import tiny

TOLERANCE_NATS = 1e-4
ADAMW = [4.45435, 4.18694, 4.3797, 4.24605, 4.2279, 4.34398, 4.30112, 4.28938, 4.27409, 4.30736]
MUON = [4.45435, 4.18549, 4.36104, 4.21684, 4.24002, 4.21738, 4.17003, 4.31776, 4.20043, 4.28143]


@pytest.mark.parametrize(("settings", "losses"), [(tiny.TRAIN, ADAMW), (tiny.MUON, MUON)])
def test_version_5_of_training_gives_these_losses(
    settings: TrainSettings, losses: list[float]
) -> None:
    found = [
        report.train_loss
        for report in train(tiny.state(settings), iter(tiny.rows(10)), settings)
        if isinstance(report, StepReport)
    ]

    assert VERSION == 5
    assert found == pytest.approx(losses, abs=TOLERANCE_NATS)
