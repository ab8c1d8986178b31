"""A machine beside the first of a training over several: `python -m tasks.node HOST:PORT`.

It waits for trainings that meet at this rendezvous (`runtime.rendezvous`), starts its share of
their ranks, and goes on waiting. It must see the same files under the same names as the first
machine.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tasks import places
from tasks.meeting import read_meeting
from tasks.runtime import ENDPOINT
from tasks.saying import say

LOOK_SECONDS = 0.2
END_SECONDS = 10.0
"How long ranks have to end by themselves once their training is over."
USAGE = 2


def main(arguments: list[str]) -> int:
    """Serve one rendezvous until a SIGTERM, which has the training stop with a snapshot."""
    if len(arguments) != 1 or not ENDPOINT.fullmatch(arguments[0]):
        say(f"error: rendezvous is {' '.join(arguments)!r}, should be HOST:PORT")
        return USAGE
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: asked.append(received))
    last = None
    while not asked:
        control = read_meeting(arguments[0])
        if control is not None and control != last:
            last = control
            _take_part(arguments[0], control, asked)
        time.sleep(LOOK_SECONDS)
    return 0


def _take_part(rendezvous: str, control: Path, asked: list[int]) -> None:
    """Run this node's ranks of a job to their end, or to the end of the meeting."""
    say(f"{rendezvous}: taking part in {control.name}")
    command = [sys.executable, "-m", "tasks.launcher", str(control)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd=places.PROJECT) as launcher:
        told, over = False, None
        while launcher.poll() is None:
            if asked and not told:
                told = _ask_to_stop(launcher.pid)
            if over is None and read_meeting(rendezvous) != control:
                over = time.monotonic()
            if over is not None and time.monotonic() - over > END_SECONDS:
                launcher.kill()
            time.sleep(LOOK_SECONDS)
    say(f"{rendezvous}: {control.name} is over, exit status {launcher.returncode}")


def _ask_to_stop(launcher: int) -> bool:
    """Ask this node's ranks; one that is asked has all of them stop at the same step."""
    ranks = psutil.Process(launcher).children()
    for rank in ranks:
        rank.send_signal(signal.SIGTERM)
    return bool(ranks)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
