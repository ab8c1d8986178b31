import numpy as np
import torch

from model.evaluation import evaluate
from model.loss import PADDING, token_losses
from tests.model import tiny

# Another number of rows may make the matrix library sum in another order.
TOLERANCE_NATS = 1e-5


def test_every_target_of_every_row_is_scored() -> None:
    model = tiny.state().model
    batches = tiny.rows(2)

    losses = list(evaluate(model, batches, "cpu", document_end=None))

    assert [batch.shape for batch in losses] == [(3, 16), (3, 16)]
    assert all(batch.dtype == np.float32 for batch in losses)
    ids = torch.from_numpy(batches[1])
    expected = token_losses(model(ids[:, :-1]), ids[:, 1:])
    np.testing.assert_array_equal(losses[1], expected.detach().numpy())


def test_the_losses_do_not_depend_on_how_rows_are_batched() -> None:
    model = tiny.state().model
    rows = tiny.rows(4).reshape(12, -1)

    by_size = [
        np.concatenate(list(evaluate(model, np.split(rows, 12 // size), "cpu", document_end=None)))
        for size in (1, 3, 4, 12)
    ]

    for losses in by_size[1:]:
        np.testing.assert_allclose(losses, by_size[0], rtol=0, atol=TOLERANCE_NATS)


def test_an_untrained_model_scores_near_uniform() -> None:
    losses = np.concatenate(
        list(evaluate(tiny.state().model, tiny.rows(8), "cpu", document_end=None))
    )

    assert abs(losses.mean() - np.log(61)) < 0.2


def test_the_consumer_does_not_run_in_inference_mode() -> None:
    for _ in evaluate(tiny.state().model, tiny.rows(2), "cpu", document_end=None):
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()


def test_evaluation_leaves_no_gradient_and_no_change() -> None:
    model = tiny.state().model
    before = {name: value.clone() for name, value in model.state_dict().items()}

    list(evaluate(model, tiny.rows(2), "cpu", document_end=None))

    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_padding_costs_nothing_and_changes_no_other_loss() -> None:
    rows = tiny.rows(1)
    padded = rows.copy()
    padded[0, :, 12:] = PADDING

    (full,), (found,) = (
        list(evaluate(tiny.state().model, batches, "cpu", document_end=None))
        for batches in (rows, padded)
    )

    assert (found[:, 11:] == 0).all()
    np.testing.assert_allclose(found[:, :11], full[:, :11], rtol=0, atol=TOLERANCE_NATS)
