"""The learning rate as a pure function of the step."""

import math

from model.errors import WrongSettingError
from model.train_settings import TrainSettings


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Rise linearly to the peak, then fall to the final ratio of it.

    The first update is step one, so no update is spent at a rate of zero.

    Raises: WrongSettingError if the step is outside the schedule.
    """
    if not 1 <= step <= settings.num_steps:
        expected = f"from 1 to train.num_steps ({settings.num_steps})"
        raise WrongSettingError("step", step, expected)
    if step <= settings.warmup_steps:
        return settings.peak_lr * step / settings.warmup_steps
    final = settings.final_lr_ratio
    remaining = _cosine(step, settings) if settings.schedule == "cosine" else _wsd(step, settings)
    return settings.peak_lr * (final + (1.0 - final) * remaining)


def _cosine(step: int, settings: TrainSettings) -> float:
    """Fall from one to zero along half a cosine.

    Source: Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5.
    """
    warmup = settings.warmup_steps
    progress = (step - warmup) / (settings.num_steps - warmup)
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _wsd(step: int, settings: TrainSettings) -> float:
    """Stay at one, then fall to zero along a line.

    Source: Hu et al. 2024, arXiv:2404.06395, eq. 1; the linear decay of Haegele et al. 2024,
        arXiv:2405.18392, section 3.
    """
    return min(1.0, (settings.num_steps - step) / settings.decay_steps)
