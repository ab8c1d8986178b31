"""Start the MLflow mirror beside a run, and wait for it only so long."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tasks import places
from tasks.errors import MirrorError
from tasks.logins import without_login
from tasks.run_record import Run

PATIENCE_SECONDS = 30.0
"How long a finished run waits for MLflow before it goes without."
TIMEOUTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
}


@dataclass(slots=True)
class MirrorState:
    """Whether MLflow has caught up, once the run has ended."""

    complete: bool = False


@contextmanager
def mirrored(run: Run) -> Iterator[MirrorState]:
    """Mirror the run from another process while the block runs.

    That process ends by itself when the run's record is sent or when this process is gone.
    """
    state = MirrorState()
    log = places.home() / "mirror" / f"{run.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        command = [*_COMMAND, str(run.directory), "--follow", str(os.getpid())]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd=places.PROJECT,
            env={**os.environ, **TIMEOUTS},
            start_new_session=True,
        )
    yield state
    try:
        state.complete = process.wait(PATIENCE_SECONDS) == 0
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait()


def mirror_now(run: Run) -> dict[str, Any]:
    """Send what MLflow lacks of a run; return what it has then.

    Raises: MirrorError.
    """
    done = subprocess.run(
        [*_COMMAND, str(run.directory)],
        capture_output=True,
        text=True,
        cwd=places.PROJECT,
        env={**os.environ, **TIMEOUTS},
        check=False,
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise MirrorError(without_login(places.mlflow_uri()), without_login(said))
    sent: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return sent


def experiment_id() -> str | None:
    """Return the id of the experiment of all runs; None if MLflow cannot say it."""
    command = [sys.executable, "-m", "tasks.mlflow_experiment"]
    environment = {**os.environ, **TIMEOUTS}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=places.PROJECT, env=environment, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else None


_COMMAND = (sys.executable, "-m", "tasks.mlflow_mirror")
