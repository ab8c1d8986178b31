"""What a tiny run's losses are: whoever changes them changes `model.train.VERSION` with them."""

import pytest

from model.train import VERSION, StepReport, TrainSettings, train
from tests.model import tiny

# Processors differ by a fifth of this, because Muon orthogonalises in bfloat16.
TOLERANCE_NATS = 1e-3
ADAMW = [4.45435, 4.18694, 4.3797, 4.24605, 4.2279, 4.34398, 4.30112, 4.28938, 4.27409, 4.30736]
MUON = [4.45435, 4.18552, 4.36104, 4.21699, 4.23989, 4.2174, 4.16995, 4.31779, 4.2005, 4.2815]


@pytest.mark.parametrize(("settings", "losses"), [(tiny.TRAIN, ADAMW), (tiny.MUON, MUON)])
def test_version_1_of_training_gives_these_losses(
    settings: TrainSettings, losses: list[float]
) -> None:
    found = [
        report.train_loss
        for report in train(tiny.state(settings), iter(tiny.rows(10)), settings)
        if isinstance(report, StepReport)
    ]

    assert VERSION == 1
    assert found == pytest.approx(losses, abs=TOLERANCE_NATS)
