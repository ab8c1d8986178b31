"""What a child process owes its parent."""

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1
"From linux/prctl.h."


def die_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """Ask the kernel to end this process when its parent ends, however that ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
