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
