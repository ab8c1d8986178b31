"""Serve the deployments of this machine: pipelines by night and by hand, epochs as they come."""

import asyncio
import contextlib
import sys

from flows.environment import prepare

READY = "serving"
"Printed once all deployments are known to the server."


def main(cron: str, preset: str) -> None:
    """Serve until an interrupt; the schedule pauses with this process."""
    prepare()
    from prefect.events import DeploymentEventTrigger

    from flows.pipeline import pipeline
    from flows.snapshots import snapshot_flow
    from tasks.snapshot_events import EVENT

    nightly = pipeline.to_deployment(
        name="nightly",
        cron=cron,
        parameters={"name": "nightly", "preset": preset},
        description="The whole pipeline, every night.",
        tags=["assay"],
        concurrency_limit=1,
    )
    manual = pipeline.to_deployment(
        name="manual",
        parameters={"name": "manual", "preset": preset, "overrides": []},
        description="The whole pipeline, with a preset and settings of your choice.",
        tags=["assay"],
    )
    epochs = snapshot_flow.to_deployment(
        name="epochs",
        description="Evaluates every epoch's snapshot of every run, as it appears.",
        tags=["assay"],
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
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(nightly, manual, epochs))


async def _serve(*deployments: object) -> None:
    from prefect.runner import Runner

    runner = Runner(name="assay", pause_on_shutdown=True)
    for deployment in deployments:
        await runner.aadd_deployment(deployment)  # type: ignore[arg-type]  # a RunnerDeployment
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    await runner.start()


if __name__ == "__main__":
    main(*sys.argv[1:])
