import numpy as np
import pytest
import torch

from model.evaluation import evaluate, round_weights
from model.loss import PADDING, token_losses
from tests.model import tiny


def losses_of(ids_BS: np.ndarray) -> np.ndarray:
    return evaluate(tiny.state().model, ids_BS, "cpu", document_end=None)


def test_every_target_of_every_row_is_scored() -> None:
    model, (ids_BS,) = tiny.state().model, tiny.rows(1)

    losses_BT = losses_of(ids_BS)

    assert losses_BT.shape == (3, 16)
    assert losses_BT.dtype == np.float32
    for losses_T, row_S in zip(losses_BT, torch.from_numpy(ids_BS), strict=True):
        expected = token_losses(model(row_S[None, :-1]), row_S[None, 1:])
        np.testing.assert_array_equal(losses_T, expected[0].detach().numpy())


@pytest.mark.parametrize("batch_rows", [1, 3, 16])
def test_the_losses_are_the_same_bits_however_rows_are_batched(batch_rows: int) -> None:
    rows = tiny.rows(16).reshape(48, -1)

    batched = [losses_of(rows[first : first + batch_rows]) for first in range(0, 48, batch_rows)]

    np.testing.assert_array_equal(np.concatenate(batched), losses_of(rows))


def test_an_untrained_model_scores_near_uniform() -> None:
    assert abs(losses_of(tiny.rows(8).reshape(24, -1)).mean() - np.log(61)) < 0.2


def test_the_caller_is_not_left_in_inference_mode() -> None:
    losses_of(tiny.rows(1)[0])

    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()


def test_evaluation_leaves_no_gradient_and_no_change() -> None:
    model = tiny.state().model
    before = {name: value.clone() for name, value in model.state_dict().items()}

    evaluate(model, tiny.rows(1)[0], "cpu", document_end=None)

    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_padding_costs_nothing_and_changes_no_other_loss() -> None:
    rows = tiny.rows(1)[0]
    padded = rows.copy()
    padded[:, 12:] = PADDING

    full, found = losses_of(rows), losses_of(padded)

    assert (found[:, 11:] == 0).all()
    np.testing.assert_array_equal(found[:, :11], full[:, :11])


def test_weights_are_rounded_where_that_is_asked_for() -> None:
    exact, (ids_BS,) = tiny.state().model, tiny.rows(1)
    rounded = round_weights(tiny.state().model, "bfloat16")

    assert {each.dtype for each in rounded.parameters()} == {torch.bfloat16}
    assert {each.dtype for each in round_weights(exact, "float32").parameters()} == {torch.float32}
    exact_BT, rounded_BT = (
        evaluate(model, ids_BS, "cpu", document_end=None) for model in (exact, rounded)
    )
    difference = np.abs(exact_BT - rounded_BT).max()
    assert 0 < difference < 0.05
