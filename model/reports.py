"""What a training loop reports.

Every number is measured, none repeated from the settings.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """One update."""

    step: int
    updates: int
    """As the optimizer counts them."""
    train_loss: float
    """Nats per token, on the batch of this step, before its update."""
    grad_norm: float
    """Over all parameters, before clipping."""
    update_norm: float
    """Of the difference that the update made to all parameters."""
    learning_rate: float
    tokens: int
    cursor_rows: int
    """Rows consumed so far, those of this step included."""
    batch_digest: str
    state_digest: str | None
    """After the update; None where it was not taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpikeReport:
    """A batch that was read and not learnt from."""

    step: int
    """The step that it would have been; the next batch has that number."""
    train_loss: float
    grad_norm: float
    quantity: str
    bound: float
    tokens: int
    cursor_rows: int
    batch_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochReport:
    """The end of an epoch, the last of which may be short."""

    epoch: int
    step: int
    num_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StopReport:
    """A rank was asked to stop; weights and optimizer are still those of the last step reported."""

    step: int


Report = StepReport | SpikeReport | EpochReport | StopReport
