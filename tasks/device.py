"""Choose the device; an explicit request is never replaced by another."""

import functools
import os
import shutil

import torch

from model.errors import WrongSettingError
from tasks.errors import CompilerMissingError, DeviceUnavailableError
from tasks.runtime import RuntimeSettings
from tasks.saying import say


def choose_device(runtime: RuntimeSettings) -> str:
    """Return the torch device that the settings ask for.

    Raises: DeviceUnavailableError if a GPU is asked for that does not answer.
    """
    device = available_device(runtime.device)
    return _fall_back() if runtime.device == "auto" and device == "cpu" else device


def available_device(name: str) -> str:
    """Return a torch device by name; `auto` is a GPU where there is one.

    Raises: DeviceUnavailableError.
    """
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda" if num_gpus else "cpu"
    kind, _, number = name.partition(":")
    if kind == "cuda" and int(number or 0) >= num_gpus:
        raise DeviceUnavailableError(name, num_gpus)
    return name


@functools.cache
def _fall_back() -> str:
    """Take the CPU, and say so once: training on it by mistake costs days."""
    say("warning: runtime.device is auto and no GPU answers: the CPU is taken")
    return "cpu"


def is_compiled(runtime: RuntimeSettings) -> bool:
    """Say whether kernels are made for the model, which takes a C++ compiler even on a GPU.

    Raises: CompilerMissingError.
    """
    if runtime.compile == "off" or runtime.parallelism == "fsdp":
        return False
    has_compiler = bool(shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++"))
    if runtime.compile == "on" and not has_compiler:
        raise CompilerMissingError(os.environ.get("CXX", "g++"))
    if choose_device(runtime) == "cpu":
        return runtime.compile == "on"
    return has_compiler or _do_without_compiler()


@functools.cache
def _do_without_compiler() -> bool:
    say("warning: no C++ compiler is found: training runs uncompiled, much slower")
    return False


def num_ranks(runtime: RuntimeSettings) -> int:
    """Return how many processes of this machine train together.

    Raises: WrongSettingError if a GPU is asked for each and there are fewer.
    """
    if choose_device(runtime) == "cpu":
        return runtime.num_ranks or 1
    if ":" in runtime.device and runtime.num_ranks <= 1:
        return 1
    found = torch.cuda.device_count()
    if runtime.num_ranks > found:
        raise WrongSettingError("runtime.num_ranks", runtime.num_ranks, f"at most {found} GPUs")
    return runtime.num_ranks or found


def world_size(runtime: RuntimeSettings) -> int:
    """Return how many processes train together on all machines.

    Raises: WrongSettingError.
    """
    return num_ranks(runtime) * runtime.num_nodes


def num_threads(runtime: RuntimeSettings) -> int:
    """Return the number of CPU threads of one process: those asked for, or its share of all."""
    return runtime.num_threads or max(1, (os.cpu_count() or 1) // num_ranks(runtime))
