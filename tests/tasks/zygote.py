"""Starts training workers by forking: they begin at once, having imported everything before.

Reads a control directory a line; answers with the worker's pid, and with its status when it ended.
"""

import os
import sys

from tasks.train_worker import main


def serve() -> None:
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            sys.argv = ["train_worker", line.strip()]
            os._exit(main())
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
