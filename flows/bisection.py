"""A comparison of two models as a flow run: its table and heat map in the Prefect UI and MLflow."""

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from model.bisection import Bisection
from model.branch_search import BranchSearch
from tasks.mirroring import mirrored
from tasks.model_bisection import PLOT, TABLE, bisect_models
from tasks.plots import show_plot
from tasks.prefect_view import show_link, shown
from tasks.run_record import Run


@flow(name="bisect-models", flow_run_name="{name}: {candidate}", persist_result=False)
def bisect_models_flow(
    name: str,
    candidate: str,
    reference: str,
    prompt: str | None = None,
    tokens: str | None = None,
    device: str = "cpu",
    precision: str | None = None,
) -> tuple[Run, Bisection | BranchSearch]:
    """Name the operations in which a model departs from a reference.

    Args:
        name: The first part of the run's name; the day is added.
        candidate: A checkpoint's ref, an .apr or .gguf file, or a directory.
        reference: What the candidate is held to, likewise.
        prompt: Text that both read.
        tokens: Ids that both read, with commas between them.
        device: Where both compute.
        precision: What the candidate computes in, if not in that of its weights.
    """
    return _bisect_models(name, candidate, reference, prompt, tokens, device, precision)


@task(name="bisect-models", cache_policy=NO_CACHE, persist_result=False)
def _bisect_models(
    name: str,
    candidate: str,
    reference: str,
    prompt: str | None,
    tokens: str | None,
    device: str,
    precision: str | None,
) -> tuple[Run, Bisection | BranchSearch]:
    run, found = bisect_models(name, candidate, reference, prompt, tokens, device, precision)
    show_bisection(run, found.verdict)
    return run, found


def show_bisection(run: Run, verdict: str) -> None:
    """Show a bisection's table, heat map and evidence, from within a task, and send it to MLflow.

    Where MLflow does not answer, `assay mirror` sends it later.
    """
    show_link("bisection-evidence", run.directory.as_uri(), run.name)
    table = run.directory / TABLE
    if table.is_file():
        text = table.read_text()
        shown(lambda: create_markdown_artifact(text, key="bisection-table", description=verdict))
        show_plot(run.directory / PLOT, "bisection-heat-map", verdict)
    with mirrored(run):
        pass  # it has ended: there is only the mirror to wait for, and only so long
