"""What a failed gate of a training or an evaluation starts: a bisection of the model it judged.

The failure stays what it was: whatever the bisection finds, or fails of, is a note on the error,
a file in the failed run's evidence, and a link on its page.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext

from flows.bisection import show_bisection
from tasks.device import choose_device
from tasks.failure_bisection import Explained, bisect_failure, link
from tasks.gate_events import failed_gate
from tasks.prefect_view import show_link
from tasks.run_record import Run, find_run
from tasks.runtime import RuntimeSettings


@contextmanager
def bisected_after(run: Run, runtime: RuntimeSettings) -> Iterator[None]:
    """Bisect the model of a run whose training or evaluation fails a gate in the block."""
    try:
        yield
    except Exception as error:
        if cause := failed_gate(error):
            _explain(run, cause, runtime, error)
        raise


def _explain(run: Run, cause: str, runtime: RuntimeSettings, error: Exception) -> None:
    explained, refusal = None, None
    try:
        explained = bisect_failure_flow(run.name, cause, choose_device(runtime))
    except Exception as failure:  # noqa: BLE001  # nothing may hide the failure that it is about
        refusal = f"{type(failure).__name__}: {failure}"
    link(run, cause, explained, refusal)
    if explained is None:
        error.add_note(f"bisect: failed itself: {refusal}")
        return
    error.add_note(f"bisect: {explained.verdict}\n        {explained.run.directory}")
    error.add_note(f"which step?  assay bisect --run {run.name}")
    if FlowRunContext.get() is not None:
        show_link("bisect", explained.run.directory.as_uri(), explained.run.name)


@flow(name="bisect-failure", flow_run_name="{failed}: bisect", persist_result=False)
def bisect_failure_flow(failed: str, cause: str, device: str) -> Explained:
    """Compare the model that a failed run judged with what it should be.

    Args:
        failed: The run whose gate did not hold.
        cause: The gate, or what the training worker said of it.
        device: Where both compute.
    """
    return bisect_failure_task(failed, cause, device)


@task(name="bisect-failure", cache_policy=NO_CACHE, persist_result=False)
def bisect_failure_task(failed: str, cause: str, device: str) -> Explained:
    """Do it, and show what came of it on the page of the flow run."""
    explained = bisect_failure(find_run(failed), cause, device)
    show_bisection(explained.run, explained.verdict)
    return explained
