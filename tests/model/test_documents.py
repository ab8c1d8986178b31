"""Documents of a row kept apart: each is computed as if it were alone."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.documents import documents_of, separate
from model.evaluation import evaluate
from model.llama import Llama, LlamaSettings
from model.loss import PADDING, row_losses
from model.reports import StepReport
from model.train import train
from tests.model import tiny
from tests.model.oracle import ARCHITECTURES, ours, relative, theirs

END = 0
EXACT = 1e-12
"""Relative, in float64: masked sums are added in another order."""
LENGTHS = (5, 1, 3, 8)
"""Of the documents of a row with their ends of text; the second is an end of text alone."""

each_architecture = pytest.mark.parametrize(
    "settings", ARCHITECTURES.values(), ids=ARCHITECTURES.keys()
)


def packed_row() -> Tensor:
    """One row of four documents, the last of which goes on in another row."""
    generator = np.random.default_rng(0)
    ids = generator.integers(1, tiny.LLAMA.vocab_size, sum(LENGTHS))
    ids[np.cumsum(LENGTHS)[:-1] - 1] = END
    return torch.from_numpy(ids)[None]


def pieces(row_1S: Tensor) -> Iterator[Tensor]:
    """Every document with what follows its end, which is a target of its own."""
    start = 0
    for length in LENGTHS:
        yield row_1S[:, start : start + length + 1]
        start += length


def alone(model: nn.Module, row_1S: Tensor) -> Tensor:
    losses = [row_losses(model, piece, None) for piece in pieces(row_1S) if piece.shape[1] > 1]
    return torch.cat(losses, dim=1)


def gradients(model: Llama, losses: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    torch.autograd.backward(losses.sum())
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_documents_and_positions_are_those_of_the_ends_of_text() -> None:
    documents = documents_of(torch.tensor([[7, 8, 0, 0, 9, 9, 0], [0, 7, 7, 7, 0, 7, 7]]), END)

    assert documents.tolist() == [[0, 0, 0, 1, 2, 2, 2], [0, 1, 1, 1, 1, 2, 2]]
    positions = separate(documents).positions_BT
    assert positions.tolist() == [[0, 1, 2, 0, 0, 1, 2], [0, 0, 1, 2, 3, 0, 1]]


def test_a_token_sees_its_document_up_to_itself() -> None:
    visible = separate(torch.tensor([[0, 0, 1, 1]])).visible_B1TT

    assert visible.int().tolist() == [[[[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]]]


@each_architecture
def test_losses_and_gradients_of_a_packed_row_are_those_of_its_documents_alone(
    settings: LlamaSettings,
) -> None:
    model = ours(settings, torch.float64)
    row = packed_row()

    found = row_losses(model, row, END)
    expected = alone(model, row)

    assert relative(found, expected) < EXACT
    apart, by_itself = gradients(model, found), gradients(model, expected)
    assert max(relative(apart[name], by_itself[name]) for name in apart) < EXACT
    assert relative(row_losses(model, row, None), expected) > 0.01


@each_architecture
def test_transformers_computes_the_same_from_positions_and_a_mask(settings: LlamaSettings) -> None:
    model = ours(settings, torch.float64)
    ids = packed_row()[:, :-1]
    places = [(document, at) for document, length in enumerate(LENGTHS) for at in range(length)]
    mask = torch.full((1, 1, ids.shape[1], ids.shape[1]), -torch.inf, dtype=torch.float64)
    for query, (document, at) in enumerate(places[:-1]):
        for key, (other, before) in enumerate(places[:-1]):
            if other == document and before <= at:
                mask[0, 0, query, key] = 0.0
    positions = torch.tensor([[at for _, at in places[:-1]]])
    reference: Any = theirs(model)

    expected = reference(input_ids=ids, position_ids=positions, attention_mask=mask).logits

    assert relative(model(ids, documents_of(ids, END)), expected) < EXACT


def test_no_bit_of_a_document_depends_on_another() -> None:
    model = ours(tiny.LLAMA)
    row = packed_row()
    other = row.clone()
    other[:, 9:] = row[:, 9:] % 7 + 1
    other[:, :4] = row[:, :4] % 5 + 1

    found, after = row_losses(model, row, END), row_losses(model, other, END)

    assert torch.equal(found[:, 5:8], after[:, 5:8])
    assert not torch.equal(found[:, :4], after[:, :4])


def test_a_row_of_one_document_needs_no_mask() -> None:
    model = ours(tiny.LLAMA, torch.float64)
    ids = torch.from_numpy(tiny.rows(1)[0]).clamp(min=1)

    assert relative(row_losses(model, ids, END), row_losses(model, ids, None)) < EXACT


@pytest.mark.parametrize("end", [END, 60])
def test_padding_after_the_last_document_changes_nothing(end: int) -> None:
    model = ours(tiny.LLAMA, torch.float64)
    row = torch.where(packed_row() == END, end, packed_row().clamp(max=59))
    padded = nn.functional.pad(row[:, :10], (0, 7), value=PADDING)

    found, short = row_losses(model, padded, end), row_losses(model, row[:, :10], end)

    assert relative(found[:, :9], short) < EXACT
    assert found[:, 9:].tolist() == [[0.0] * 7]
    both = gradients(model, found), gradients(model, short)
    assert max(relative(both[0][name], both[1][name]) for name in both[0]) < EXACT


def test_training_learns_every_document_as_it_is_alone() -> None:
    row = packed_row()
    batch = np.repeat(row.numpy(), 3, axis=0)
    settings = replace(tiny.TRAIN, num_steps=1, warmup_steps=0, document_masking=True)
    expected = alone(tiny.state().model, row).mean().item()

    states = tiny.state(), tiny.state()
    ends = settings.document_end(END), tiny.TRAIN.document_end(END)
    masked, plain = (
        next(train(state, iter([batch]), settings, document_end=end))
        for state, end in zip(states, ends, strict=True)
    )

    assert isinstance(masked, StepReport)
    assert isinstance(plain, StepReport)
    assert masked.train_loss == pytest.approx(expected, rel=1e-6)
    assert plain.train_loss != pytest.approx(expected, rel=1e-4)
    assert masked.tokens == plain.tokens == 3 * (sum(LENGTHS) - 1)


def test_evaluation_scores_every_document_as_it_is_alone() -> None:
    model, row = ours(tiny.LLAMA), packed_row()

    found = evaluate(model, row.numpy(), "cpu", document_end=END)

    assert found == pytest.approx(alone(model, row).detach().numpy(), rel=1e-5)
