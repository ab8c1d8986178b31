"""Every fault of the campaign, and the few of them that CI tries."""

import random
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.campaign.damage import damageable
from tests.campaign.fault import (
    DIED,
    FULL,
    KILLED,
    NETWORK,
    STOPPED,
    Bucket,
    Disk,
    Disturbance,
    Fault,
    Flip,
    Helper,
    Moment,
    Operation,
    Rank,
    Service,
    Twin,
)
from tests.campaign.inject import Deed, Injection
from tests.campaign.inject import Operation as Kind
from tests.campaign.operations import shares
from tests.campaign.request import STAGES

KINDS: tuple[Kind, ...] = ("write", "fsync", "rename")
PLACES = (*((stage, False) for stage in STAGES), ("train", True))
DISTURBANCES: tuple[Disturbance, ...] = ("killed", "500", "slow", "never there")
Counts = Mapping[tuple[str, bool, Kind], int]
"How many operations of a kind a stage makes, in its own process or in the worker's."


def operation(stage: str, kind: Kind, at: int, deed: Deed, *, in_worker: bool = False) -> Operation:
    """Name a fault at an operation, with the exit codes that are right for it."""
    # A worker that was killed is an error of the training; a stage's process cannot say any.
    killed = (DIED if in_worker else KILLED,)
    number = {"kill": "R1", "torn": "R1", "clock": "R14"}.get(deed, "R4")
    codes = {"R1": killed, "R4": (FULL,), "R14": ()}[number]
    injection = Injection(operation=kind, at=at, deed=deed, in_worker=in_worker)
    return Operation(number=number, stage=stage, injection=injection, codes=codes)


def every_operation(counts: Counts) -> Iterator[Operation]:
    """Yield two faults for every operation: it fails, and it is the last.

    A failing disk is full at every other operation and unreadable at the rest.
    """
    for (stage, in_worker, kind), number in sorted(counts.items()):
        for at in range(1, number + 1):
            refusal: Deed = "ENOSPC" if at % 2 else "EIO"
            yield operation(stage, kind, at, refusal, in_worker=in_worker)
            end: Deed = "kill" if kind == "fsync" or (kind == "rename" and at % 2) else "torn"
            yield operation(stage, kind, at, end, in_worker=in_worker)


def moments(choose: random.Random, number: int) -> Iterator[Moment]:
    """Yield so many random kills of every stage and of the whole, and orders to stop."""
    spans = (*((stage, stage) for stage in STAGES), (STAGES[0], STAGES[-1]))
    for _ in range(number):
        for stage, until in spans:
            yield Moment(
                number="R2",
                stage=stage,
                until=until,
                signal=signal.SIGKILL,
                shares=shares(choose, 3),
                codes=(KILLED,),
            )
        yield Moment(
            number="R3",
            stage="train",
            until="train",
            signal=signal.SIGTERM,
            shares=shares(choose, 2),
            codes=(STOPPED, -signal.SIGTERM),
        )


def flips(home: Path, choose: random.Random) -> Iterator[Flip]:
    """Yield a flipped bit in every file of a finished run."""
    for path in damageable(home):
        # The pipeline opens what it builds on; it does not read old evidence.
        again = path.startswith("store/")
        yield Flip(number="R5", path=path, share=choose.random(), again=again)


def disks() -> Iterator[Disk]:
    """Yield disks that fill up at one place or another, and one that takes nothing."""
    for stage in STAGES:
        yield Disk(number="R15", stage=stage, kind="read-only")
        for free_kib in (0, 8, 32, 64, 128, 256, 512, 1024, 1536, 2048):
            yield Disk(number="R4", stage=stage, kind="full", free_kib=free_kib)


def others() -> Iterator[Fault]:
    """Yield what there are only a few of."""
    for stage, until in (("pretokenize", "shard"), ("shard", "shard"), ("train", "train")):
        yield Twin(number="R14", stage=stage, until=until)
    for stage, at in (("pretokenize", 4), ("shard", 9), ("evaluate", 5), ("checkpoint", 7)):
        yield operation(stage, "rename", at, "clock")
    yield operation("train", "rename", 5, "clock", in_worker=True)
    for after in (0, 5, 25):
        yield Bucket(number="S3", how="500", after=after, codes=(NETWORK,))
        yield Bucket(number="S3", how="503", after=after, codes=(NETWORK,))
        yield Bucket(number="S3", how="403", after=after, codes=(FULL,))
    yield Bucket(number="S3", how="stalls", after=10, codes=(NETWORK,))
    for rank in (0, 1):
        yield Rank(number="ranks", how="killed", rank=rank, at_step=20)
        yield Rank(number="ranks", how="hung", rank=rank, at_step=20)


def served() -> Iterator[Service | Helper]:
    """Yield what needs servers."""
    for how in DISTURBANCES[:-1]:
        yield Service(number="R16", name="Prefect", how=how, codes=(NETWORK,))
    for runner in ("processes", "dask"):
        for when in ("starting", "working"):
            yield Helper(number="R17", runner=runner, when=when, codes=())
    for how in DISTURBANCES:
        yield Service(number="R16", name="MLflow", how=how, codes=())


def short() -> tuple[Fault, ...]:
    """Return what CI tries: one of each that needs no server, in less than a minute."""
    return (
        operation("pretokenize", "fsync", 9, "ENOSPC"),
        operation("shard", "rename", 9, "torn"),
        operation("train", "rename", 4, "torn", in_worker=True),
        operation("shard", "rename", 9, "clock"),
        Moment(
            number="R2",
            stage="shard",
            until="shard",
            signal=signal.SIGKILL,
            shares=(0.3, 0.7),
            codes=(KILLED,),
        ),
        Twin(number="R14", stage="shard", until="shard"),
        Disk(number="R15", stage="shard", kind="read-only"),
        Disk(number="R4", stage="evaluate", kind="full", free_kib=32),
        Bucket(number="S3", how="500", after=25, codes=(NETWORK,)),
    )
