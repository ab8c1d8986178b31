"""Where a number came from: code, packages, machine. All of it is looked up, none of it assumed."""

import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess

import psutil

from evidence.canonical import file_sha256
from tasks.places import PROJECT

PACKAGES = ("torch", "prefect", "mlflow", "numpy", "pyarrow", "tokenizers", "safetensors")


@functools.cache
def provenance() -> dict[str, object]:
    """Describe the code, the packages and the machine of this process."""
    lock = PROJECT / "requirements.lock"
    return {
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty_sha256": _dirty_sha256(),
        "lock_sha256": file_sha256(lock) if lock.is_file() else None,
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "num_cpus": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": _gpus(),
    }


def _git(*arguments: str) -> str | None:
    """Ask git about the project; None where there is no git or no repository."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(PROJECT), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


def _dirty_sha256() -> str | None:
    """Digest what differs from the commit; None for a clean tree or no repository."""
    difference = _git("diff", "HEAD", "--", "*.py", "*.toml", "*.lock")
    return hashlib.sha256(difference.encode()).hexdigest() if difference else None


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123  # not a user's path
            names = [line.partition(":")[2].strip() for line in file if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor()


def _gpus() -> list[str]:
    """Name the NVIDIA devices; an empty list where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    return [str(pynvml.nvmlDeviceGetName(handle)) for handle in handles]
