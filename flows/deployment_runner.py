"""Prefect's runner of deployments, but for how it ends when `assay up` was killed."""

import contextlib
import os
from typing import Any

import psutil
from prefect.runner import Runner

from flows.children import STOP_SECONDS


class DeploymentRunner(Runner):
    """Runs flows of the deployments that this machine serves."""

    def handle_sigterm(self, *_: Any, **__: Any) -> None:
        """End the flow runs under way, which leave a snapshot, and then this process.

        The kernel sends this signal when the parent is gone. So is the server then, for which
        Prefect's own handler would wait without end.
        """
        end_children(psutil.Process(), STOP_SECONDS)
        os._exit(0)


def end_children(parent: psutil.Process, patience_seconds: float) -> None:
    """Ask the children of a process to end; kill what has not, with all that it has started."""
    children = parent.children()
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.terminate()
    psutil.wait_procs(children, patience_seconds)
    for left in parent.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()
