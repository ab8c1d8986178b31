"""Disks that are full or take nothing, and object stores that misbehave."""

import logging
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.campaign.aftermath import Finding, judged
from tests.campaign.bench import Bench, Ended
from tests.campaign.fault import FULL, Bucket, Disk
from tests.tasks import loopback_s3

BUCKET = "campaign"
ANSWERS = {
    "500": ("500 Internal Server Error", "InternalError", "We encountered an internal error."),
    "503": ("503 Slow Down", "SlowDown", "Please reduce your request rate."),
    "403": loopback_s3.DENIED,
}
AMPLE_KIB = 1 << 18
_ONE_AT_A_TIME = threading.Lock()


def can_mount() -> bool:
    """Tell whether this process may mount a file system of its own."""
    done = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
        capture_output=True,
        check=False,
    )
    return os.geteuid() == 0 and done.returncode == 0


@contextmanager
def mounted(place: Path) -> Iterator[None]:
    """Have a file system in memory at a directory."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={AMPLE_KIB}k", "tmpfs", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def remount(place: Path, options: str) -> None:
    """Change a mounted file system."""
    subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)


def disk(bench: Bench, fault: Disk) -> Finding:
    """Run in a home whose disk is bad, and again once it is good."""
    template = bench.home(fault.stage)
    home = template.with_name(f"{template.name}-disk")
    home.mkdir()
    with mounted(home):
        subprocess.run(["cp", "-a", f"{template}/.", home], check=True)
        if fault.kind == "read-only":
            remount(home, "ro")
            first = bench.run(home, until=fault.stage)
            remount(home, "rw")
        else:
            used = os.statvfs(home)
            taken = (used.f_blocks - used.f_bfree) * used.f_frsize // 1024
            remount(home, f"size={taken + fault.free_kib}k")
            first = bench.run(home, until=fault.stage)
            remount(home, f"size={AMPLE_KIB}k")
        return judged(
            bench,
            home,
            first,
            lambda: bench.run(home, until=fault.stage),
            (0, FULL),
            fault.stage,
        )


def bucket(bench: Bench, fault: Bucket) -> Finding:
    """Run with the store in a bucket that misbehaves, and again once it does not."""
    home = bench.home("shard")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    # The buckets of all servers of a process are the same.
    with _ONE_AT_A_TIME, loopback_s3.serve() as s3:
        environment = {**s3.environment(), "ASSAY_STORE": f"s3://{BUCKET}/team"}
        _make_bucket(s3)
        disturbance = _Disturbance(s3, fault)
        first = bench.run(home, until="shard", environment=environment)
        disturbance.end()

        def again() -> Ended:
            return bench.run(home, until="shard", environment=environment)

        return judged(bench, home, first, again, (0, *fault.codes), "shard")


def _make_bucket(s3: loopback_s3.LoopbackS3) -> None:
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=s3.url,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        region_name="us-east-1",
    )
    with suppress(client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(Bucket=BUCKET)
    for each in client.list_objects_v2(Bucket=BUCKET).get("Contents", ()):
        client.delete_object(Bucket=BUCKET, Key=each["Key"])


class _Disturbance:
    """What an object store does from some request on."""

    def __init__(self, s3: loopback_s3.LoopbackS3, fault: Bucket) -> None:
        self.s3, self.fault = s3, fault
        self.over = threading.Event()
        first = len(s3.asked)
        if fault.how == "stalls":
            s3.stalled = lambda *_: len(s3.asked) - first > fault.after and not self.over.is_set()
        else:
            s3.refusal = ANSWERS["503" if fault.how == "gone" else fault.how]
            s3.refused = lambda *_: len(s3.asked) - first > fault.after

    def end(self) -> None:
        """Serve everything again."""
        self.over.set()
        self.s3.clear()
