"""Choose the device; an explicit request is never replaced by another."""

import os

import torch

from model.errors import WrongSettingError
from tasks.runtime import RuntimeSettings


def choose_device(runtime: RuntimeSettings) -> str:
    """Return the torch device that the settings ask for.

    Raises: WrongSettingError if CUDA is asked for and absent.
    """
    available = torch.cuda.is_available()
    if runtime.device == "cuda" and not available:
        raise WrongSettingError("runtime.device", "cuda", "cpu: no CUDA device answers here")
    return "cuda" if available and runtime.device != "cpu" else "cpu"


def num_ranks(runtime: RuntimeSettings) -> int:
    """Return how many processes train together.

    Raises: WrongSettingError if a GPU is asked for each and there are fewer.
    """
    if choose_device(runtime) == "cpu":
        return runtime.num_ranks or 1
    found = torch.cuda.device_count()
    if runtime.num_ranks > found:
        raise WrongSettingError("runtime.num_ranks", runtime.num_ranks, f"at most {found} GPUs")
    return runtime.num_ranks or found


def num_threads(runtime: RuntimeSettings) -> int:
    """Return the number of CPU threads of one process: those asked for, or its share of all."""
    return runtime.num_threads or max(1, (os.cpu_count() or 1) // num_ranks(runtime))
