"""Child processes that serve this one: started apart from the terminal, awaited, and stopped.

A child has a session of its own, so that an interrupt typed at the terminal reaches this process
alone and the service is still there to be told of it. It ends with this process, however that ends:
a signal stops it in order, and the kernel tells it when there was no time for order.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flows.errors import ServiceFailedError
from tasks import places
from tasks.processes import die_with_parent

START_SECONDS = 180.0
STOP_SECONDS = 20.0
LOOK_SECONDS = 0.2


@dataclass(slots=True)
class Children:
    """The child processes of this one, in the order of their start."""

    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        """Start a child; what it says goes to its log."""
        log = log_of(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as file:
            self._running[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd=places.PROJECT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
                preexec_fn=_prepare_child,  # noqa: PLW1509  # nothing is threaded yet
            )

    def wait_until(self, name: str, ready: Callable[[], bool]) -> None:
        """Return when a child is ready.

        Raises: ServiceFailedError if it ends first or takes too long.
        """
        begin = time.monotonic()
        while not ready():
            seconds = time.monotonic() - begin
            if seconds > START_SECONDS or self._running[name].poll() is not None:
                raise ServiceFailedError(name, str(log_of(name)), seconds)
            time.sleep(LOOK_SECONDS)

    def wait(self, is_asked_to_stop: Callable[[], bool]) -> None:
        """Return when asked to stop.

        Raises: ServiceFailedError if a child ends by itself.
        """
        begin = time.monotonic()
        while not is_asked_to_stop():
            for name, child in self._running.items():
                if child.poll() is not None:
                    raise ServiceFailedError(name, str(log_of(name)), time.monotonic() - begin)
            time.sleep(LOOK_SECONDS)

    def stop(self) -> None:
        """Stop the children, the last started first; kill what does not end."""
        for child in reversed(self._running.values()):
            # Not SIGTERM: only on an interrupt does Prefect's runner pause its schedules.
            child.send_signal(signal.SIGINT)
            try:
                child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        self._running.clear()


def log_of(name: str) -> Path:
    """Return the log of a service."""
    return places.home() / "log" / f"{name}.log"


def _prepare_child() -> None:
    """Let an interrupt through, whatever shell started us, and die with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    die_with_parent()
