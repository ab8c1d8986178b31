"""The deployments, as this machine serves them; `prefect.yaml` declares the same for work pools."""

from typing import Any

from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.events import DeploymentEventTrigger
from prefect.schedules import Cron

from flows.after_failure import bisect_failure_flow
from flows.automations import TAG
from flows.corpus import corpus_flow
from flows.pipeline import pipeline
from flows.snapshots import snapshot_flow
from flows.train_form import train_form_flow
from tasks.gate_events import GATE_EVENT
from tasks.snapshot_events import EVENT

TIMEZONE = "UTC"
"Which has no summer time: a schedule comes once a day on every day."
WEEKLY = "30 1 * * 0"


def deployments(nightly: str, preset: str) -> list[Any]:  # runner deployments
    """Describe all of them; `nightly` is a cron schedule."""
    # One that would start while another still runs is cancelled, not run twice in a row.
    alone = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
    return [
        pipeline.to_deployment(
            name="nightly",
            schedule=Cron(nightly, timezone=TIMEZONE),
            parameters={"name": "nightly", "preset": preset},
            description="The whole pipeline, every night.",
            tags=[TAG, "scheduled"],
            concurrency_limit=alone,
        ),
        corpus_flow.to_deployment(
            name="corpus",
            schedule=Cron(WEEKLY, timezone=TIMEZONE),
            parameters={"name": "corpus", "preset": preset},
            description="Fetches, tokenizes and shards what the source has now, every week.",
            tags=[TAG, "scheduled"],
            concurrency_limit=alone,
        ),
        pipeline.to_deployment(
            name="manual",
            parameters={"name": "manual", "preset": preset, "overrides": []},
            description="The whole pipeline, with a preset and settings of your choice.",
            tags=[TAG],
        ),
        train_form_flow.to_deployment(
            name="train",
            parameters={"name": "train", "preset": preset},
            description="A training on shards, with a form for its settings.",
            tags=[TAG],
        ),
        _epochs(),
        _bisect(),
    ]


def _epochs() -> Any:  # a runner deployment
    """Describe the one that training's own events start."""
    return snapshot_flow.to_deployment(
        name="epochs",
        description="Evaluates every epoch's snapshot of every run, as it appears.",
        tags=[TAG],
        triggers=[
            DeploymentEventTrigger(
                name="epochs",
                expect={EVENT},
                parameters={
                    "run": "{{ event.payload.run }}",
                    "snapshot": "{{ event.payload.snapshot }}",
                },
            )
        ],
        concurrency_limit=1,
    )


def _bisect() -> Any:  # a runner deployment
    """Describe the one that a failed gate outside of the pipeline starts."""
    return bisect_failure_flow.to_deployment(
        name="bisect",
        description="Looks for the faulty operation of a model that failed a gate.",
        parameters={"device": "cpu"},
        tags=[TAG],
        triggers=[
            DeploymentEventTrigger(
                name="bisect",
                expect={GATE_EVENT},
                parameters={
                    "failed": "{{ event.payload.run }}",
                    "cause": "{{ event.payload.cause }}",
                    "device": "cpu",
                },
            )
        ],
        concurrency_limit=1,
    )
