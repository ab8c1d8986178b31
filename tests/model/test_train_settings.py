from dataclasses import replace
from typing import Any

import pytest

from model.errors import WrongSettingError
from tests.model import tiny


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("num_steps", 0, "at least 1"),
        ("steps_per_epoch", 0, "at least 1"),
        ("batch_rows", 0, "at least 1"),
        ("max_passes", 0, "at least 1"),
        ("micro_batch_rows", 0, "at least 1"),
        ("micro_batch_rows", 2, "a divisor of train.batch_rows (3)"),
        ("early_stop_patience", 0, "at least 1"),
        ("early_stop_min_epochs", 0, "at least 1"),
        ("early_stop_errors", -0.1, "at least 0"),
        ("spike_window", 1, "at least 2: one has no deviation"),
        ("spike_deviations", 0.0, "above 0"),
        ("max_spikes", -1, "at least 0"),
        ("decay_steps", 1, "0 under train.schedule cosine"),
        ("peak_lr", 0.0, "above 0"),
        ("adam_eps", 0.0, "above 0"),
        ("clip_norm", 0.0, "above 0"),
        ("beta1", 1.0, "from 0 to below 1"),
        ("beta2", -0.1, "from 0 to below 1"),
        ("muon_momentum", 1.0, "from 0 to below 1"),
        ("warmup_steps", 10, "from 0 to below train.num_steps (10)"),
        ("final_lr_ratio", 0.0, "above 0 and at most 1"),
        ("weight_decay", -0.1, "at least 0"),
        ("peak_lr", float("nan"), "above 0"),
        ("weight_decay", float("nan"), "at least 0"),
    ],
)
def test_a_setting_out_of_range_is_refused(name: str, value: float, expected: str) -> None:
    changes: dict[str, Any] = {name: value}

    with pytest.raises(WrongSettingError) as caught:
        replace(tiny.TRAIN, **changes)

    assert caught.value.setting == f"train.{name}"
    assert caught.value.found is value
    assert caught.value.expected == expected


@pytest.mark.parametrize("decay_steps", [0, 9])
def test_a_wsd_decay_that_does_not_fit_after_the_warmup_is_refused(decay_steps: int) -> None:
    with pytest.raises(WrongSettingError) as caught:
        replace(tiny.TRAIN, schedule="wsd", decay_steps=decay_steps)

    assert caught.value.setting == "train.decay_steps"
    assert caught.value.expected == "from 1 to the 8 steps after the warm-up"
