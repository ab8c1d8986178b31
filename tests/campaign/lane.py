"""Starts runs by forking, each under a supervisor that sees what outlives it.

Reads the path of a request a line and answers with the pid of the run. The supervisor leaves
`status.json` beside the request once the run has ended.
"""

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path

import psutil

from tests.campaign.perform import perform
from tests.campaign.request import read_request

PR_SET_CHILD_SUBREAPER = 36
"From linux/prctl.h."
END_SECONDS = 10.0
"Within which what a run has started must end after it."


def serve() -> None:
    """Answer requests until there are no more."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.close(reader)
            supervise(Path(line.strip()), writer)
            os._exit(0)
        os.close(writer)
        print(os.read(reader, 20).decode(), flush=True)
        os.close(reader)


def supervise(request: Path, writer: int) -> None:
    """Run, and say how it ended and what did not end with it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    begin = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os._exit(perform(read_request(request)))
    os.write(writer, str(pid).encode())
    os.close(writer)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    seconds = time.monotonic() - begin
    answer = {"status": code, "orphans": orphans(), "seconds": round(seconds, 3)}
    partial = request.with_name("status.partial")
    partial.write_text(json.dumps(answer))
    partial.replace(request.with_name("status.json"))


def orphans() -> list[str]:
    """Wait for what a run has started; name what does not end, and end it."""
    end = time.monotonic() + END_SECONDS
    while left := _children():
        if time.monotonic() > end:
            names = [" ".join(each.cmdline()) for each in left]
            for each in left:
                each.kill()
            return names
        time.sleep(0.02)
    return []


def _children() -> list[psutil.Process]:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return []
    return psutil.Process().children(recursive=True)


if __name__ == "__main__":
    serve()
    # There is nothing to tidy up; libraries that it has imported would look for their servers.
    os._exit(0)
