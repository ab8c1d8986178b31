"""The process that starts the ranks of one node, and ends them all as soon as one fails.

A single rank needs none: it is started directly, which takes seconds less.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tasks.processes import die_with_owner
from tasks.pulse import HOST
from tasks.rank import statuses_file
from tasks.train_job import Job, read_job

LOOK_SECONDS = 0.1


def main() -> int:
    """Start the ranks of this node of a job, and wait for them."""
    control = Path(sys.argv[1])
    die_with_owner(control)
    # Who asks a training to stop may ask all its processes; the ranks answer for themselves.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    job = read_job(control)
    if not job.rendezvous:
        _stay_on_this_machine()
    launch = elastic_launch(_config(job, control), sys.executable)
    try:
        launch("-m", "tasks.train_worker", str(control))
    except ChildFailedError as error:
        statuses = {rank: failure.exitcode for rank, failure in error.failures.items()}
        path = statuses_file(control, f"{HOST}-{os.getpid()}")
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(statuses))
        partial.replace(path)
        return 1
    return 0


def _stay_on_this_machine() -> None:
    """Have nothing of a training on one machine listen where others reach it.

    torch's own store listens everywhere, and what it is told is unpickled: a file takes its place.
    """
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    for library in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{library}_SOCKET_IFNAME", loopback)


def _config(job: Job, control: Path) -> LaunchConfig:
    configs: dict[str, object] = {"join_timeout": int(job.start_timeout_seconds) + 1}
    if not job.rendezvous:
        configs["store_type"] = "file"
    return LaunchConfig(
        min_nodes=job.num_nodes,
        max_nodes=job.num_nodes,
        nproc_per_node=job.num_ranks // job.num_nodes,
        run_id=control.name,
        rdzv_backend="c10d",
        rdzv_endpoint=job.rendezvous or str(control / "rendezvous"),
        rdzv_configs=configs,
        max_restarts=0,
        monitor_interval=LOOK_SECONDS,
        signals_to_handle="SIGHUP",
        local_addr=_own_address(job.rendezvous) if job.rendezvous else "localhost",
    )


def _own_address(rendezvous: str) -> str:
    """Return the address by which this machine reaches the rendezvous: others reach it there, too.

    A host name may be known here alone.
    """
    host, _, port = rendezvous.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, int(port)))
        return str(probe.getsockname()[0])


if __name__ == "__main__":
    sys.exit(main())
