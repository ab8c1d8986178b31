"""Tell Prefect of a model that failed a gate, so that a deployment can look for the fault.

The pipeline looks itself; this is for trainings and evaluations that are flows of their own.
"""

from prefect.context import FlowRunContext
from prefect.events import emit_event

from evidence.errors import GateFailedError
from tasks.run_record import Run
from tasks.train_errors import WorkerFailedError

GATE_EVENT = "assay.gate"
"The event; its payload names the run and the gate."
STAGES = ("train", "evaluate")
"Whose gates judge a model; and so are their flows called."


def tell_of_gate(run: Run, flow: str, error: Exception) -> None:
    """Emit an event if a flow failed because a gate judged its model so."""
    cause = failed_gate(error)
    if cause is None or flow not in STAGES or FlowRunContext.get() is None:
        return
    emit_event(
        GATE_EVENT,
        resource={"prefect.resource.id": f"assay.gate.{run.name}"},
        payload={"run": run.name, "cause": cause},
    )


def failed_gate(error: Exception) -> str | None:
    """Return the gate by which a model was judged to have failed; None of other failures.

    A worker's gate comes as its sentence.
    """
    if isinstance(error, GateFailedError):
        return error.gate if error.gate.partition(".")[0] in STAGES else None
    if isinstance(error, WorkerFailedError) and error.error == GateFailedError.__name__:
        return f"train: {error.message}"
    return None
