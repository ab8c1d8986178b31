"""Whether the stage under way was served from the store.

It stands in a module of its own: Prefect sends a task that makes units to their workers, with all
that its function names, and a context variable cannot be sent.
"""

from contextvars import ContextVar

_REUSED: ContextVar[bool] = ContextVar("reused", default=False)


def say_reused(*, is_reused: bool) -> None:
    """Note it."""
    _REUSED.set(is_reused)


def is_reused() -> bool:
    """Tell what was noted last in this context."""
    return _REUSED.get()
