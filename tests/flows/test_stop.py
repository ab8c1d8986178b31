"""A SIGTERM in the middle of a command: what ran is recorded, a line says so, exit code 11."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tasks.alive import life_of
from tasks.run_record import all_runs
from tests.tasks.tiny import OVERRIDES, Finished, write_corpus
from tests.test_architecture import PROJECT

PATIENCE_SECONDS = 120.0
MAIN = "from flows.cli import main; main()"
SLOW_BISECTION = f"""
import time
from tasks import model_bisection
model_bisection.bisect = lambda *_: time.sleep({PATIENCE_SECONDS})
{MAIN}
"""


def stopped(
    program: str, words: Sequence[str], is_time: Callable[[psutil.Process], object]
) -> tuple[int, list[str], list[psutil.Process]]:
    """Run a program until it is time, send it a SIGTERM; return code, words and the children."""
    with subprocess.Popen(
        [sys.executable, "-c", program, *words], cwd=PROJECT, stderr=subprocess.PIPE, text=True
    ) as process:
        end = time.monotonic() + PATIENCE_SECONDS
        while not is_time(psutil.Process(process.pid)) and time.monotonic() < end:
            assert process.poll() is None
            time.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, said.splitlines(), children


def end_of_last_run() -> tuple[str, str]:
    record = all_runs()[-1].record()
    assert record is not None
    return record["outcome"], record["error"]


@pytest.mark.slow
def test_a_stage_ends_with_its_workers(own_places: Path) -> None:
    write_corpus(own_places / "corpus")
    changes = (
        *OVERRIDES,
        f'source.path="{own_places / "corpus"}"',
        "source.unit_bytes=2000",
        'runtime.task_runner="processes"',
        "runtime.num_workers=2",
    )
    words = [word for change in changes for word in ("--set", change)]

    def has_workers(process: psutil.Process) -> bool:
        with suppress(psutil.NoSuchProcess):
            lines = [" ".join(child.cmdline()) for child in process.children()]
            return sum("spawn_main" in line for line in lines) == 2
        return False

    code, said, children = stopped(MAIN, ["pretokenize", "--preset", "smoke", *words], has_workers)

    assert code == 11, said
    what = f"{all_runs()[-1].name}, before a stage was finished"
    stays = "what is finished is kept, and the same command goes on from there"
    assert said[1:] == [f"stopped: {what}; {stays}"]
    assert end_of_last_run() == ("interrupted", "TerminationSignal")
    # The mirror sends the end of the run first.
    psutil.wait_procs(children, timeout=PATIENCE_SECONDS)
    assert [child for child in children if child.is_running()] == []


def test_a_bisection_is_recorded_as_interrupted(own_places: Path, finished: Finished) -> None:
    model = str(finished.store.directory(finished.refs.checkpoint) / "model.apr")
    code, said, _ = stopped(
        SLOW_BISECTION,
        ["bisect", "--candidate", model, "--reference", model, "--tokens", "1,2"],
        lambda _: any(life_of(run) == "alive" for run in all_runs()),
    )
    assert code == 11
    assert said[-1].startswith(f"stopped: {all_runs()[-1].name}, before")
    assert end_of_last_run() == ("interrupted", "Terminated")
