"""What a child process owes its parent."""

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import psutil

PR_SET_PDEATHSIG = 1
"From linux/prctl.h."
OWNER = "owner"
"The file of a control directory that says which process it belongs to."


def die_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """Ask the kernel to end this process when its parent ends, however that ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def write_owner(control: Path) -> None:
    """Say that a control directory belongs to this process."""
    (control / OWNER).write_text(str(os.getpid()))


def die_with_owner(control: Path) -> None:
    """End with the parent, or now if the owner of the control directory has ended already.

    The kernel tells only of what happens after it was asked to, which is seconds after the start:
    imports come first.
    """
    die_with_parent(signal.SIGKILL)
    path = control / OWNER
    if path.is_file() and not _is_alive(int(path.read_text())):
        os.kill(os.getpid(), signal.SIGKILL)


def _is_alive(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False
