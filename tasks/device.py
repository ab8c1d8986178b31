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


def num_threads(runtime: RuntimeSettings) -> int:
    """Return the number of CPU threads that the settings ask for."""
    return runtime.num_threads or os.cpu_count() or 1
