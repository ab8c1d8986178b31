"""Loss spikes: a step whose loss or gradient norm stands far above those just before it.

The rule sees only updates that were made, in their order, so that a resumed training decides as the
uninterrupted one does.
"""

import statistics
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class RecentUpdates:
    """Loss and gradient norm of the last updates, oldest first."""

    train_loss: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)

    def add(self, train_loss: float, grad_norm: float, window: int) -> None:
        """Append an update, and forget those that no window of this length reaches."""
        self.train_loss = [*self.train_loss, train_loss][-window:]
        self.grad_norm = [*self.grad_norm, grad_norm][-window:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spike:
    """What stood out, and from where on it would have."""

    quantity: str
    value: float
    bound: float


def find_spike(
    recent: RecentUpdates, train_loss: float, grad_norm: float, *, window: int, deviations: float
) -> Spike | None:
    """Return the first of both quantities that lies above its window's mean by so many deviations.

    While the window is not full, nothing is a spike.

    Source: the rule of OLMo's skip-step optimizer (OLMo et al. 2024, arXiv:2501.00656, section 3),
        with the deviations as a setting.
    """
    for quantity, value, before in (
        ("train_loss", train_loss, recent.train_loss),
        ("grad_norm", grad_norm, recent.grad_norm),
    ):
        if len(before) < window:
            return None
        bound = statistics.fmean(before) + deviations * statistics.pstdev(before)
        if value > bound:
            return Spike(quantity=quantity, value=value, bound=bound)
    return None
