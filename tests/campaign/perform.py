"""Do what a request asks, in the process of a run: the stages as they are, recorded as a run."""

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import IO, Any

from flows.errors import FlowError
from flows.exit_codes import UNEXPECTED, exit_code
from flows.screen import complain
from flows.settings import PipelineSettings
from tasks import places, rank_processes, train_worker
from tasks.bisection import bisect_task
from tasks.checkpoint import checkpoint_task
from tasks.errors import storage_error
from tasks.known_errors import KNOWN_ERRORS
from tasks.recording import recording_the_end
from tasks.run_record import Run, all_runs, start_run
from tasks.verify import verify_run
from tasks.verify_chain import verify_chain
from tests.campaign.inject import install
from tests.campaign.request import STAGES, Request
from tests.tasks.tiny import evaluated, pretokenized, sharded, tiny_settings, train_again

NAME = "campaign"


def perform(request: Request) -> int:
    """Do it; return the exit code that the command line would give."""
    os.environ.update(request.environment)
    os.environ.setdefault("ASSAY_STORE", f"{request.home}/store")
    os.environ["ASSAY_HOME"] = request.home
    os.environ["ASSAY_EVIDENCE"] = f"{request.home}/evidence"
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Path(request.out, "said.txt").open("a") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    code = _explained(request)
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _explained(request: Request) -> int:
    """Turn what is raised into an exit code as the command line does."""
    try:
        _perform(request)
    except (FlowError, *KNOWN_ERRORS) as error:
        complain(error)
        return exit_code(error)
    except Exception as error:  # noqa: BLE001  # the command line ends with a traceback, too
        if (refusal := storage_error(error)) is None or not isinstance(error, OSError):
            traceback.print_exc()
            return UNEXPECTED
        complain(refusal)
        return exit_code(refusal)
    return 0


def _perform(request: Request) -> None:
    if request.verify:
        reports = (verify_run(all_runs()[-1]), verify_chain(places.evidence(), {}))
        answer = {
            "failures": [failure for report in reports for failure in report.failures],
            "checks": sum(report.num_checks for report in reports),
        }
        Path(request.out, "verified.json").write_text(json.dumps(answer))
        return
    if "runtime.num_ranks=2" not in request.changes:
        forked = SimpleNamespace(**vars(subprocess))
        forked.Popen = ForkedRank
        vars(rank_processes)["subprocess"] = forked
    if request.injection:
        os.environ["ASSAY_CAMPAIGN"] = request.injection
        hook = Path(__file__).parent / "hook"
        os.environ["PYTHONPATH"] = f"{hook}:{places.PROJECT}"
        install(request.injection)
    settings = tiny_settings(Path(request.home), request.changes)
    run = start_run(NAME, settings.as_record(), {"flow": NAME})
    with recording_the_end(run):
        _stages(run, settings, STAGES[: STAGES.index(request.until) + 1])


def _stages(run: Run, settings: PipelineSettings, stages: Sequence[str]) -> None:
    """Make the stages up to one of them."""
    thresholds, runtime = settings.thresholds, settings.runtime
    tokens = pretokenized(run, settings)
    if "shard" not in stages:
        return
    shards = sharded(run, tokens, settings)
    if "train" not in stages:
        return
    training = train_again(run, shards, settings)
    if "evaluate" not in stages:
        return
    evaluation = evaluated(run, training, shards, settings)
    if "checkpoint" in stages:
        checkpoint = checkpoint_task.fn(run, evaluation, settings.checkpoint, thresholds)
        if "bisect" in stages:
            bisect_task.fn(run, checkpoint, thresholds, runtime)


class ForkedRank:
    """A training worker that has imported everything: the real one, without the seconds it takes.

    It is what `subprocess.Popen` is to whoever starts a rank.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdin: int,
        stdout: IO[str],
        stderr: IO[str],
        cwd: Path,
        env: Mapping[str, str],
    ) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.dup2(stdout.fileno(), 1)
            os.dup2(stderr.fileno(), 2)
            sys.argv = ["tasks.train_worker", command[-1]]
            os._exit(_explained_worker())

    def poll(self) -> int | None:
        """Return the exit status once there is one."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait so long for the end.

        Raises: subprocess.TimeoutExpired.
        """
        end = time.monotonic() + (timeout or float("inf"))
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("train_worker", timeout or 0)
            time.sleep(0.02)
        return self.returncode or 0

    def kill(self) -> None:
        """Kill it if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def __enter__(self) -> "ForkedRank":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: Any, _trace: TracebackType | None
    ) -> None:
        self.wait()


def _explained_worker() -> int:
    try:
        return train_worker.main()
    except Exception:  # noqa: BLE001  # as the interpreter does it
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
