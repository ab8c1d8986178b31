"""A SIGTERM ends a command as an interrupt does: what is open is closed, what ran is recorded."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class Terminated(BaseException):
    """Somebody sent a SIGTERM; like `KeyboardInterrupt`, no error that code may handle."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise on SIGTERM in the block; Prefect, which takes the signal for itself, passes it on.

    Raises: Terminated.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated


def what_stopped(error: BaseException | None) -> str | None:
    """Return what the run that was stopped or interrupted said, if one was under way."""
    while error is not None:
        notes = getattr(error, "__notes__", ())
        if notes and not isinstance(error, Exception):
            return str(notes[-1])
        error = error.__context__
    return None
