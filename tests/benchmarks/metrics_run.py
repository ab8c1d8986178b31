"""One mirror of the `metrics` benchmark: the real one, with each batch's time taken."""

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from tasks.mlflow_mirror import Mirror
from tasks.run_record import Run
from tests.benchmarks.servers import size_of


def main(directory: str, out: str) -> None:
    """Send all of a run, and write what each batch took."""
    taken: list[float] = []
    send = MlflowClient.log_batch

    def timed(self: MlflowClient, *arguments: Any, **options: Any) -> Any:
        begin = time.perf_counter()
        answer = send(self, *arguments, **options)
        taken.append(time.perf_counter() - begin)
        return answer

    MlflowClient.log_batch = timed
    begin = time.perf_counter()
    mirror = Mirror(Run(Path(directory)))
    before = size_of(os.getpid())
    mirror.pass_once()
    seconds = time.perf_counter() - begin
    begin = time.perf_counter()
    mirror.pass_once()
    facts = {
        "seconds": seconds,
        "idle_pass_seconds": time.perf_counter() - begin,
        "batches": taken,
        "mb_and_descriptors": [before, size_of(os.getpid())],
        "most_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
        "run_id": mirror.sent.stage_run_ids["train"],
    }
    Path(out).write_text(json.dumps(facts))


if __name__ == "__main__":
    main(*sys.argv[1:])
