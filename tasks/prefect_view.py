"""What the Prefect UI shows of a run: a view that nothing fails for, and nothing waits for long."""

import time
from collections.abc import Callable
from typing import TypeVar

import httpx
from prefect.artifacts import create_link_artifact
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from tasks.saying import say

NUM_RETRIES = 1
SILENT_SECONDS = 60.0
"For which a server that took nothing is left alone."

R = TypeVar("R")


class View:
    """A server that is shown things as long as it takes them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._silent_until = clock, float("-inf")

    def show(self, make: Callable[[], R]) -> R | None:
        """Show something, and return what was made; None where the server did not take it."""
        if self._clock() < self._silent_until:
            return None
        try:
            # By its own settings the client tries for minutes, and the run would stand still.
            with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: NUM_RETRIES}):
                return make()
        except (httpx.HTTPError, PrefectException) as error:
            self._silent_until = self._clock() + SILENT_SECONDS
            said = " ".join(str(error).split()) or type(error).__name__
            say(f"warning: Prefect shows less of this run: {said}")
            return None


shown = View().show
"""Show something on the server of this process."""


def show_link(key: str, address: str, text: str) -> None:
    """Show the way to something."""
    shown(lambda: create_link_artifact(address, key=key, link_text=text))
