"""Run stages as one recorded run: plan first, record last, MLflow beside, whatever happens."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prefect.artifacts import create_table_artifact
from prefect.context import FlowRunContext
from prefect.runtime import flow_run
from prefect.states import Failed

from flows.environment import service_addresses
from flows.mlflow_pages import run_page
from flows.settings import PipelineSettings
from tasks import places
from tasks.gate_events import tell_of_gate
from tasks.known_errors import KNOWN_ERRORS
from tasks.logins import without_login
from tasks.mirror_state import Sent
from tasks.mirroring import mirrored
from tasks.prefect_task import gate_rows
from tasks.prefect_view import show_link, shown
from tasks.preregistration import ENDING
from tasks.recording import recording_the_end
from tasks.run_record import Run, start_run
from tasks.run_report import write_report
from tasks.saying import say
from tasks.shared_runs import share_run
from tasks.shared_snapshots import forget_unfinished

Body = Callable[[Run], object]
DEFAULT_MLFLOW = "http://127.0.0.1:5000"
"Where `assay up` shows MLflow unless told otherwise."


@dataclass(frozen=True, slots=True)
class Finished:
    """What a flow leaves: its evidence, and whether MLflow has caught up."""

    evidence: str
    output: str
    mlflow_complete: bool


def recorded(
    name: str, settings: PipelineSettings, request: Mapping[str, Any], body: Body
) -> Finished:
    """Run a body of stages and record the run.

    A failure that is known becomes the flow's Failed state, with the error's own sentence.
    """
    request = {**request, "runtime": asdict(settings.runtime), "prefect_flow_run_id": flow_run.id}
    run = start_run(name, settings.as_record(), request, _registration(request))
    share_run(run)
    output, failure = None, None
    with mirrored(run) as mirror:
        try:
            with recording_the_end(run):
                output = body(run)
        except KNOWN_ERRORS as error:
            failure = error
            tell_of_gate(run, str(request.get("flow")), error)
    share_run(run)
    forget_unfinished(run)
    # After the mirror has ended: before, it may not have begun, and there would be no link to it.
    publish_run(run, reported(run))
    if failure:
        return failed_with(run, failure)  # type: ignore[no-any-return]  # see its docstring
    return Finished(str(run.directory), str(output), mirror.complete)


def _registration(request: Mapping[str, Any]) -> Path | None:
    """Return the registered plan that is carried out, if one is."""
    preset = str(request.get("preset", ""))
    return Path(preset) if preset.endswith(ENDING) else None


def failed_with(run: Run, error: Exception) -> Any:  # a Prefect state
    """Return the Failed state whose message is the error's own sentence.

    Prefect makes a returned state the flow run's. A note on the error names the evidence.
    """
    error.add_note(f"evidence: {run.directory}")
    return Failed(message=without_login(str(error)), data=error)


def reported(run: Run) -> Path | None:
    """Write the run's page; what stops that stops no run, and is said."""
    try:
        return write_report(run)
    except Exception as error:  # noqa: BLE001  # whatever it is, the run itself is recorded
        say(f"warning: no report of {run.name}: {type(error).__name__}: {error}")
        return None


def publish_run(run: Run, report: Path | None) -> None:
    """Show all gates and the way to evidence, report and MLflow on the flow run's page."""
    if FlowRunContext.get() is None:
        return
    gates = run.gates()
    if gates:
        rows, what = gate_rows(gates), f"Gates of {run.name}"
        shown(lambda: create_table_artifact(rows, key="gates", description=what))
    show_link("evidence", run.directory.as_uri(), run.name)
    if report:
        show_link("report", report.as_uri(), f"Report of {run.name}")
    if address := mlflow_address(run):
        show_link("mlflow", address, f"MLflow: {run.name}")


def mlflow_address(run: Run) -> str | None:
    """Return where the run is in MLflow's UI, once the mirror has begun to send it."""
    uri = places.mlflow_uri()
    sent = Sent.load(run, uri)
    if not sent.run_id:
        return None
    embedded = service_addresses().get("mlflow", DEFAULT_MLFLOW)
    server = without_login(uri) if uri.startswith("http") else embedded
    return run_page(server, sent.experiment_id, sent.run_id)
