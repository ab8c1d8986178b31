"""What the server does by itself: take a flow that fell silent for crashed, and show GPU slots."""

from datetime import timedelta

from prefect.automations import AutomationCore
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import (
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
)
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.exceptions import ObjectAlreadyExists

from tasks.gpu_slots import LIMIT

TAG = "assay"
"What all flow runs of ours are tagged with."
SILENCE_SECONDS = 90
"Three heartbeats: one that is late is no death."
SILENT = "assay: silent flows have crashed"
_BEAT = "prefect.flow-run.heartbeat"
_ENDS = ("Completed", "Failed", "Cancelled", "Crashed", "Paused", "Suspended", "AwaitingRetry")


def silent_flows_have_crashed(silence_seconds: int = SILENCE_SECONDS) -> AutomationCore:
    """Describe the automation that takes a flow run without a heartbeat for crashed."""
    return AutomationCore(
        name=SILENT,
        description="A flow run whose process gives no sign of life is crashed.",
        trigger=EventTrigger(
            after={_BEAT},
            expect={_BEAT, *(f"prefect.flow-run.{end}" for end in _ENDS)},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            # Others on this server may beat less often.
            match_related={"prefect.resource.id": f"prefect.tag.{TAG}"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=silence_seconds),
        ),
        actions=[
            ChangeFlowRunState(
                name=None,
                force=False,
                state=StateType.CRASHED,
                message="no sign of life; `assay reconcile` closes what it left open",
            )
        ],
    )


def install(num_gpus: int) -> None:
    """Tell the server of the automation, and of as many GPU slots as there are GPUs."""
    with get_client(sync_client=True) as client:
        known = client.read_automations_by_name(SILENT)
        if known:
            client.update_automation(known[0].id, silent_flows_have_crashed())
        else:
            client.create_automation(silent_flows_have_crashed())
        if num_gpus:
            _limit_gpus(client, num_gpus)


def _limit_gpus(client: SyncPrefectClient, num_gpus: int) -> None:
    try:
        client.create_global_concurrency_limit(
            GlobalConcurrencyLimitCreate(name=LIMIT, limit=num_gpus)
        )
    except ObjectAlreadyExists:
        client.update_global_concurrency_limit(LIMIT, GlobalConcurrencyLimitUpdate(limit=num_gpus))
