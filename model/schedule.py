"""The learning rate as a pure function of the step."""

import math

from model.errors import WrongSettingError


def learning_rate(
    step: int, *, peak: float, final_ratio: float, warmup_steps: int, num_steps: int
) -> float:
    """Rise linearly to the peak, then fall along half a cosine to `final_ratio` of it.

    The first update is step one, so no update is spent at a rate of zero.

    Raises: WrongSettingError if the step is outside the schedule.
    Source: Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5.
    """
    if not 1 <= step <= num_steps:
        raise WrongSettingError("step", step, f"from 1 to train.num_steps ({num_steps})")
    if step <= warmup_steps:
        return peak * step / warmup_steps
    progress = (step - warmup_steps) / (num_steps - warmup_steps)
    return peak * (final_ratio + (1.0 - final_ratio) * 0.5 * (1.0 + math.cos(math.pi * progress)))
