import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from model.accumulate import accumulate
from model.architecture import expected_tensors
from model.errors import LossSpikeError, NonFiniteError, StreamExhaustedError, WrongSettingError
from model.fast_llama import FastLlama
from model.loss import PADDING, token_losses
from model.ranks import Ranks
from model.reports import EpochReport, Report, SpikeReport, StepReport, StopReport
from model.schedule import learning_rate
from model.train import TrainSettings, train
from model.training_state import TrainingState, new_state, weights
from tests.model import tiny

BOTH = pytest.mark.parametrize("settings", [tiny.TRAIN, tiny.MUON], ids=["adamw", "muon"])


def reports(state: TrainingState, settings: TrainSettings, batches: np.ndarray) -> list[Report]:
    return list(train(state, iter(batches), settings))


def steps(found: list[Report]) -> list[StepReport]:
    return [report for report in found if isinstance(report, StepReport)]


def snapshot(state: TrainingState) -> dict[str, torch.Tensor]:
    both = {**weights(state), **state.optimizer.tensors()}
    return {name: value.clone() for name, value in both.items()}


def assert_same(state: TrainingState, before: dict[str, torch.Tensor]) -> None:
    now = snapshot(state)
    assert now.keys() == before.keys()
    assert all(torch.equal(now[name], before[name]) for name in now)


@BOTH
def test_the_step_budget_is_honoured_exactly(settings: TrainSettings) -> None:
    state = tiny.state(settings)

    found = reports(state, settings, tiny.rows(99))

    assert [report.step for report in steps(found)] == list(range(1, 11))
    assert state.step == state.optimizer.num_updates() == 10
    assert state.cursor_rows == 30
    assert state.tokens_seen == sum(report.tokens for report in steps(found)) == 480


def test_an_epoch_ends_after_its_steps_and_after_the_last_step() -> None:
    found = reports(tiny.state(), tiny.TRAIN, tiny.rows(10))

    epochs = [report for report in found if isinstance(report, EpochReport)]
    assert epochs == [
        EpochReport(epoch=0, step=4, num_steps=4),
        EpochReport(epoch=1, step=8, num_steps=4),
        EpochReport(epoch=2, step=10, num_steps=2),
    ]
    assert isinstance(found[4], EpochReport)
    assert isinstance(found[-1], EpochReport)


def test_a_batch_is_read_only_when_its_step_is_asked_for() -> None:
    batches = enumerate(tiny.rows(10))

    following = train(tiny.state(), (batch for _, batch in batches), tiny.TRAIN)
    next(following)

    index_of_next, _ = next(batches)
    assert index_of_next == 1


def test_the_reported_loss_is_that_of_the_batch_before_its_update() -> None:
    batches = tiny.rows(10)
    state = tiny.state()
    ids = torch.from_numpy(batches[0])
    expected = token_losses(state.model(ids[:, :-1]), ids[:, 1:]).mean().item()

    first = next(train(state, iter(batches), tiny.TRAIN))

    assert isinstance(first, StepReport)
    assert first.train_loss == pytest.approx(expected, rel=1e-6)


def test_the_gradient_norm_is_global_and_taken_before_clipping() -> None:
    batches = tiny.rows(10)
    reference = tiny.state().model
    ids = torch.from_numpy(batches[0])
    torch.autograd.backward(token_losses(reference(ids[:, :-1]), ids[:, 1:]).mean())
    squares = [p.grad.double().square().sum() for p in reference.parameters() if p.grad is not None]
    settings = replace(tiny.TRAIN, clip_norm=1e-3)

    state = tiny.state()
    first = next(train(state, iter(batches), settings))

    assert isinstance(first, StepReport)
    assert len(squares) == len(weights(state))
    assert first.grad_norm == pytest.approx(math.sqrt(sum(squares)), rel=1e-6)
    clipped = [p.grad.square().sum() for p in state.model.parameters() if p.grad is not None]
    assert math.sqrt(sum(clipped)) == pytest.approx(1e-3, rel=1e-3)


@BOTH
def test_the_learning_rate_that_was_used_is_the_scheduled_one(settings: TrainSettings) -> None:
    found = steps(reports(tiny.state(settings), settings, tiny.rows(10)))

    expected = [learning_rate(step, settings) for step in range(1, 11)]
    assert [report.learning_rate for report in found] == expected


def test_two_budgets_give_different_losses() -> None:
    batches = tiny.rows(20)

    short = steps(reports(tiny.state(), tiny.TRAIN, batches))
    long = steps(reports(tiny.state(), replace(tiny.TRAIN, num_steps=20), batches))

    assert short[2].train_loss == long[2].train_loss
    assert short[9].train_loss != long[9].train_loss


def test_nothing_changes_while_training_is_suspended() -> None:
    state = tiny.state()
    following = train(state, iter(tiny.rows(10)), tiny.TRAIN)
    next(following)
    before = snapshot(state)

    assert torch.is_grad_enabled()
    assert torch.get_float32_matmul_precision() == "highest"
    state.model(torch.from_numpy(tiny.rows(1)[0]))

    assert_same(state, before)


@pytest.mark.parametrize("digest_steps", [1, 3])
@BOTH
def test_the_next_step_is_begun_before_a_step_is_reported_and_changes_nothing(
    settings: TrainSettings, digest_steps: int
) -> None:
    def followed(*, ahead: bool) -> Iterator[tuple[Report, dict[str, torch.Tensor]]]:
        state, batches = tiny.state(settings), iter(tiny.rows(10))
        for report in train(state, batches, settings, digest_steps=digest_steps, ahead=ahead):
            yield report, snapshot(state)

    for (one, before), (other, after) in zip(
        followed(ahead=False), followed(ahead=True), strict=True
    ):
        assert one == other
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_batch_is_taken_ahead_except_at_the_end_of_an_epoch() -> None:
    settings = replace(tiny.TRAIN, steps_per_epoch=4)
    taken: list[int] = []
    batches = (taken.append(number) or ids_BS for number, ids_BS in enumerate(tiny.rows(10), 1))  # type: ignore[func-returns-value]

    found = train(tiny.state(), batches, settings, ahead=True)
    ahead = [taken[-1] - each.step for each in found if isinstance(each, StepReport)]

    assert ahead == [1, 1, 1, 0, 1, 1, 1, 0, 1, 0]


def test_a_spike_that_was_begun_ahead_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for ahead in (False, True):
        with monkeypatch.context() as patch:
            state = tiny.state(SPIKING)
            found.append(list(train(state, with_a_spike(11, 6, patch), SPIKING, ahead=ahead)))
    assert found[0] == found[1]
    assert any(isinstance(report, SpikeReport) for report in found[1])


def test_a_stream_that_ends_ahead_of_the_budget_is_refused_after_the_last_report() -> None:
    settings = replace(tiny.TRAIN, steps_per_epoch=10)
    following = train(tiny.state(), iter(tiny.rows(7)), settings, ahead=True)
    assert [next(following).step for _ in range(7)] == list(range(1, 8))
    with pytest.raises(StreamExhaustedError):
        next(following)


def test_what_is_wrong_with_a_step_begun_ahead_waits_for_the_report_of_the_one_before() -> None:
    state, batches = tiny.state(), list(tiny.rows(10))
    batches[3] = batches[3][:1]
    following = train(state, iter(batches), tiny.TRAIN, ahead=True)
    assert [next(following).step for _ in range(3)] == [1, 2, 3]
    with pytest.raises(WrongSettingError):
        next(following)
    assert state.step == 3


def test_a_wish_to_stop_that_is_known_before_the_first_step_is_answered_there() -> None:
    state, ranks = tiny.state(), Ranks(lambda: True)
    ranks.sum(torch.zeros(1))
    assert next(train(state, iter(tiny.rows(10)), tiny.TRAIN, ranks)) == StopReport(step=0)


@BOTH
def test_every_parameter_changes_in_every_step(settings: TrainSettings) -> None:
    state = tiny.state(settings)
    before = snapshot(state)
    for report in train(state, iter(tiny.rows(10)), settings):
        now = snapshot(state)
        if isinstance(report, StepReport):
            assert not [name for name in weights(state) if torch.equal(now[name], before[name])]
        before = now


@BOTH
def test_a_repeated_row_is_learnt(settings: TrainSettings) -> None:
    batches = np.repeat(tiny.rows(1), 40, axis=0)

    found = steps(reports(tiny.state(settings), replace(settings, num_steps=40), batches))

    assert found[-1].train_loss < 0.5 * found[0].train_loss


@BOTH
def test_the_same_seed_gives_the_same_bits(settings: TrainSettings) -> None:
    first, again = tiny.state(settings), tiny.state(settings)

    assert reports(first, settings, tiny.rows(10)) == reports(again, settings, tiny.rows(10))
    assert_same(again, snapshot(first))


def test_another_seed_is_another_training_within_ten_steps() -> None:
    first, other = (
        steps(reports(tiny.state(settings), settings, tiny.rows(10)))
        for settings in (tiny.TRAIN, replace(tiny.TRAIN, seed=2))
    )

    differences = [abs(a.train_loss - b.train_loss) for a, b in zip(first, other, strict=True)]
    assert max(differences) > 1e-4


@pytest.mark.parametrize(("precision", "tolerance"), [("tfloat32", 1e-3), ("bfloat16", 1e-2)])
def test_other_precisions_stay_near_float32_and_are_undone_afterwards(
    precision: Any, tolerance: float
) -> None:
    exact = steps(reports(tiny.state(), tiny.TRAIN, tiny.rows(10)))
    state = tiny.state()

    rounded = steps(reports(state, replace(tiny.TRAIN, precision=precision), tiny.rows(10)))

    assert torch.get_float32_matmul_precision() == "highest"
    assert rounded[-1].train_loss == pytest.approx(exact[-1].train_loss, rel=tolerance)
    assert {tensor.dtype for tensor in snapshot(state).values()} == {torch.float32}


def test_bfloat16_is_what_the_products_are_made_in() -> None:
    exact = steps(reports(tiny.state(), tiny.TRAIN, tiny.rows(10)))
    rounded = steps(reports(tiny.state(), replace(tiny.TRAIN, precision="bfloat16"), tiny.rows(10)))

    assert 1e-6 < abs(rounded[0].train_loss - exact[0].train_loss) < 1e-2


@BOTH
@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
def test_micro_batches_add_up_to_the_batch(settings: TrainSettings, padded: bool) -> None:
    batches = tiny.rows(10)
    if padded:
        batches[:, 0, 5:] = PADDING

    whole = steps(reports(tiny.state(settings), settings, batches))
    parts = steps(reports(tiny.state(settings), replace(settings, micro_batch_rows=1), batches))

    for one, three in zip(whole, parts, strict=True):
        assert three.tokens == one.tokens
        assert three.updates == one.updates
        assert three.train_loss == pytest.approx(one.train_loss, rel=1e-4)
        assert three.grad_norm == pytest.approx(one.grad_norm, rel=1e-3)


@BOTH
def test_the_update_norm_is_that_of_the_change_of_all_weights(settings: TrainSettings) -> None:
    state = tiny.state(settings)
    before = {name: weight.clone() for name, weight in weights(state).items()}

    first = next(train(state, iter(tiny.rows(1)), settings))

    squares = [(weights(state)[name] - old).double().square().sum() for name, old in before.items()]
    assert isinstance(first, StepReport)
    assert first.update_norm == pytest.approx(math.sqrt(sum(squares)), rel=1e-5)
    assert first.update_norm > 0


SPIKING = replace(
    tiny.TRAIN, spike_response="skip", spike_window=4, spike_deviations=6.0, max_spikes=2
)


def with_a_spike(
    num_batches: int, at: int, monkeypatch: pytest.MonkeyPatch
) -> Iterator[np.ndarray]:
    """Let the loss of one batch be ten times as large."""
    forward, number = FastLlama.forward, 0

    def spiking(*given: Any) -> torch.Tensor:
        return forward(*given) * (10 if number == at else 1)

    monkeypatch.setattr(FastLlama, "forward", spiking)
    for number, batch in enumerate(tiny.rows(num_batches), start=1):  # noqa: B007
        yield batch


def test_a_spike_is_skipped_reported_and_leaves_weights_and_optimizer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = tiny.state()
    following = train(state, with_a_spike(11, 6, monkeypatch), SPIKING)
    found: list[Report] = []
    before = snapshot(state)
    for report in following:
        if isinstance(report, SpikeReport):
            assert_same(state, before)
        before = snapshot(state)
        found.append(report)

    (spike,) = [each for each in found if isinstance(each, SpikeReport)]
    assert (spike.step, spike.quantity, spike.cursor_rows) == (6, "train_loss", 18)
    assert spike.train_loss > spike.bound > steps(found)[4].train_loss
    assert [step.step for step in steps(found)] == list(range(1, 11))
    assert [step.cursor_rows for step in steps(found)] == [3, 6, 9, 12, 15, 21, 24, 27, 30, 33]
    assert (state.num_spikes, state.step, state.cursor_rows) == (1, 10, 33)
    assert state.tokens_seen == 480


def test_a_spike_may_be_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    state = tiny.state()
    settings = replace(SPIKING, spike_response="stop")

    with pytest.raises(LossSpikeError) as caught:
        list(train(state, with_a_spike(10, 6, monkeypatch), settings))

    assert (caught.value.step, caught.value.quantity) == (6, "train_loss")
    assert caught.value.value > caught.value.bound
    assert state.step == state.optimizer.num_updates() == 5


def test_one_spike_more_than_allowed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    state = tiny.state()

    with pytest.raises(LossSpikeError) as caught:
        list(train(state, with_a_spike(11, 6, monkeypatch), replace(SPIKING, max_spikes=0)))

    assert (caught.value.step, caught.value.num_answered) == (6, 0)


def test_a_stream_that_ends_early_is_refused() -> None:
    state = tiny.state()

    with pytest.raises(StreamExhaustedError) as caught:
        reports(state, tiny.TRAIN, tiny.rows(7))

    assert (caught.value.step, caught.value.num_steps) == (7, 10)
    assert state.step == state.optimizer.num_updates() == 7


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_never_reaches_the_optimizer(value: float) -> None:
    state = tiny.state()
    following = train(state, iter(tiny.rows(10)), tiny.TRAIN)
    next(following)
    with torch.no_grad():
        state.model.get_parameter("lm_head.weight")[0, 0] = value
    before = snapshot(state)

    with pytest.raises(NonFiniteError) as caught:
        next(following)

    assert (caught.value.quantity, caught.value.step) == ("loss", 2)
    assert not math.isfinite(caught.value.value)
    now = snapshot(state)
    assert all(torch.equal(now[name].nan_to_num(), before[name].nan_to_num()) for name in now)
    assert state.step == 1


def test_a_gradient_that_is_not_finite_never_reaches_the_optimizer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def overflowing(state: TrainingState, *given: Any) -> torch.Tensor:
        loss = accumulate(state, *given)
        gradient = state.model.get_parameter("lm_head.weight").grad
        assert gradient is not None
        gradient.mul_(math.inf)
        return loss

    monkeypatch.setattr("model.train.accumulate", overflowing)
    state = tiny.state()
    before = snapshot(state)

    with pytest.raises(NonFiniteError) as caught:
        reports(state, tiny.TRAIN, tiny.rows(10))

    assert (caught.value.quantity, caught.value.step) == ("gradient norm", 1)
    assert_same(state, before)


def test_a_batch_of_another_size_is_refused() -> None:
    with pytest.raises(WrongSettingError) as caught:
        reports(tiny.state(), tiny.TRAIN, tiny.rows(10, batch_rows=2))

    assert caught.value.setting == "train.batch_rows"
    assert caught.value.found == 3
    assert caught.value.expected == "2, as in the batch"


@pytest.mark.parametrize("token", [-2, 61])
def test_a_token_outside_the_vocabulary_is_refused(token: int) -> None:
    batches = tiny.rows(10)
    batches[0, 0, 0] = token

    with pytest.raises(WrongSettingError) as caught:
        reports(tiny.state(), tiny.TRAIN, batches)

    assert caught.value.setting == "model.vocab_size"
    assert caught.value.found == 61


def test_padding_is_neither_learnt_from_nor_counted() -> None:
    batches = tiny.rows(1)
    batches[0, :, 9:] = PADDING
    short, padded = tiny.state(), tiny.state()
    settings = replace(tiny.TRAIN, num_steps=1, warmup_steps=0)

    (expected, _), (found, _) = (
        reports(state, settings, rows)
        for state, rows in ((short, batches[:, :, :9]), (padded, batches))
    )

    assert isinstance(found, StepReport)
    assert isinstance(expected, StepReport)
    assert found.tokens == 3 * 8
    assert padded.tokens_seen == 3 * 8
    assert found.train_loss == pytest.approx(expected.train_loss, rel=1e-6)
    assert found.grad_norm == pytest.approx(expected.grad_norm, rel=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@BOTH
def test_biases_and_a_tied_head_learn_in_every_precision(
    settings: TrainSettings, precision: Any
) -> None:
    settings = replace(settings, num_steps=30, precision=precision)
    state = new_state(tiny.QWEN2, settings, "cpu")
    before = {name: weight.clone() for name, weight in weights(state).items()}

    found = steps(reports(state, settings, np.repeat(tiny.rows(1), 30, axis=0)))

    assert found[-1].train_loss < 0.6 * found[0].train_loss
    assert [name for name, old in before.items() if torch.equal(weights(state)[name], old)] == []
    assert before.keys() == expected_tensors(tiny.QWEN2).keys()
