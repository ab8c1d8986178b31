"""The process that starts the ranks of a training, and ends them all as soon as one fails.

A single rank needs none: it is started directly, which takes seconds less.
"""

import json
import signal
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tasks.processes import die_with_owner
from tasks.rank import statuses_file

LOOK_SECONDS = 0.1


def main() -> int:
    """Start as many ranks as are named, and wait for them."""
    control, num_ranks, start_seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    die_with_owner(control)
    # Who asks a training to stop may ask all its processes; the ranks answer for themselves.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_ranks,
        run_id=control.name,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        rdzv_configs={"timeout": int(start_seconds) + 1},
        max_restarts=0,
        monitor_interval=LOOK_SECONDS,
        signals_to_handle="SIGHUP",
        local_addr="localhost",
    )
    try:
        elastic_launch(config, sys.executable)("-m", "tasks.train_worker", str(control))
    except ChildFailedError as error:
        statuses = {rank: failure.exitcode for rank, failure in error.failures.items()}
        statuses_file(control).write_text(json.dumps(statuses))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
