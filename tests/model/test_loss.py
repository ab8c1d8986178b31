import math

import pytest
import torch

from model.loss import token_losses


def test_a_loss_is_the_negative_logarithm_of_the_probability() -> None:
    logits = torch.tensor([[[0.0, math.log(3.0)], [5.0, 5.0]]])

    losses = token_losses(logits, torch.tensor([[1, 0]]))

    assert losses.tolist()[0] == pytest.approx([math.log(4 / 3), math.log(2.0)], rel=1e-6)


def test_half_precision_logits_are_scored_in_float32() -> None:
    logits = torch.tensor([[[1.0, 2.0, 3.0]]], dtype=torch.bfloat16)
    targets = torch.tensor([[0]])

    losses = token_losses(logits, targets)

    assert losses.dtype == torch.float32
    assert torch.equal(losses, token_losses(logits.float(), targets))
