"""Have a person agree before something expensive begins."""

from prefect import pause_flow_run
from prefect.artifacts import create_markdown_artifact
from prefect.exceptions import FlowPauseTimeout

from flows.errors import NotApprovedError
from flows.settings import PipelineSettings
from model.budget import budget_sentence

PATIENCE_SECONDS = 24 * 3600
"After which nobody has agreed."


def wait_for_approval(settings: PipelineSettings, patience_seconds: int = PATIENCE_SECONDS) -> None:
    """Pause the flow run until somebody resumes it in the Prefect UI.

    Raises: NotApprovedError.
    """
    planned = budget_sentence(settings.model, settings.train, settings.shard.context_length)
    text = f"Planned: {planned}.\n\n**Resume** this run to begin, or cancel it."
    create_markdown_artifact(text, key="approval", description="Waits for a person")
    try:
        pause_flow_run(timeout=patience_seconds)
    except FlowPauseTimeout:
        raise NotApprovedError(patience_seconds) from None
