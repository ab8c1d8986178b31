"""A deployment that does nothing but hold the GPU's slot for a moment, and note that it did."""

import json
import os
import time
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from tasks.gpu_slots import gpu_slots


@task(cache_policy=NO_CACHE, persist_result=False)
def hold(number: int, log: str, seconds: float) -> None:
    """Hold the slot as a training does, and append a line of when."""
    with gpu_slots(["gpu-0"], f"queued-{number}"):
        begin = time.time()
        time.sleep(seconds)
        line = {"number": number, "pid": os.getpid(), "begin": begin, "end": time.time()}
        with Path(log).open("a") as file:
            file.write(json.dumps(line) + "\n")


@flow(name="queued", persist_result=False)
def queued(number: int, log: str, seconds: float = 0.05) -> None:
    """Take a turn."""
    hold(number, log, seconds)
