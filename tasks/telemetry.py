"""Sample the machine while training runs; the samples are part of the training's directory."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

TELEMETRY = "telemetry.jsonl"
SAMPLE_SECONDS = 5.0


@contextmanager
def sampling(directory: Path, pid: int) -> Iterator[None]:
    """Append a sample every few seconds until the block ends."""
    stop = threading.Event()
    thread = threading.Thread(target=_sample, args=(directory / TELEMETRY, pid, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _sample(path: Path, pid: int, stop: threading.Event) -> None:
    try:
        process = psutil.Process(pid)
        process.cpu_percent()
        with path.open("a") as file:
            while not stop.wait(SAMPLE_SECONDS):
                facts = _facts(process)
                # It has ended, and nobody has asked how: what there is left of it measures nothing.
                if not facts["process_memory_megabytes"]:
                    return
                file.write(json.dumps(facts) + "\n")
                file.flush()
    except (psutil.NoSuchProcess, OSError):
        # Telemetry is an aid: a full disk shows in the training's own writes.
        return


def _facts(process: psutil.Process) -> dict[str, float]:
    memory = psutil.virtual_memory()
    return {
        "time": time.time(),
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / 1e6,
        "process_cpu_percentage": process.cpu_percent(),
        "process_memory_megabytes": process.memory_info().rss / 1e6,
    }
