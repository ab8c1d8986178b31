from typing import Any

import pytest

from tasks.parting import find_parting


def log(**changes: Any) -> list[dict[str, Any]]:
    """Three steps; the second one changed."""
    rows = [
        {"step": step, "tokens": 64, "cursor_rows": 4 * step, "train_loss": 6.0 - step,
         "grad_norm": 0.5, "learning_rate": 1e-3, "update_norm": 0.1, "time": 1e9 + step}
        for step in (1, 2, 3)
    ]  # fmt: skip
    rows[1] |= changes
    return rows


@pytest.mark.parametrize(
    ("changes", "fact", "kind"),
    [
        ({"cursor_rows": 9, "train_loss": 1.0}, "cursor_rows", "data"),
        ({"train_loss": 4.000000000000001, "update_norm": 9.0}, "train_loss", "the rows, the forw"),
        ({"train_loss": float("nan")}, "train_loss", "the rows, the forward"),
        ({"grad_norm": 0.6, "update_norm": 0.2}, "grad_norm", "the backward pass"),
        ({"learning_rate": 2e-3, "update_norm": 0.2}, "learning_rate", "the schedule"),
        ({"update_norm": 0.0}, "update_norm", "the optimizer"),
    ],
)
def test_the_first_fact_of_the_first_step_that_differs_is_named(
    changes: dict[str, Any], fact: str, kind: str
) -> None:
    found = find_parting(log(), log(**changes))

    assert found is not None
    assert (found.step, found.fact) == (2, fact)
    assert found.kind.startswith(kind)
    assert repr(found.right) == repr(changes[fact])


def test_equal_logs_do_not_part_whenever_they_were_made_and_however_long_they_are() -> None:
    assert find_parting(log(), log(time=0.0)) is None
    assert find_parting(log(), log()[:2]) is None
    nan = float("nan")
    assert find_parting(log(train_loss=nan), log(train_loss=nan)) is None
