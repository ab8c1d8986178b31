"""Serve the deployments of this machine; the server is told of its automations first."""

import asyncio
import contextlib
import sys

from flows.environment import prepare

READY = "serving"
"Printed once all deployments are known to the server."


def main(cron: str, preset: str) -> None:
    """Serve until an interrupt; the schedule pauses with this process."""
    prepare()
    from flows.automations import install
    from flows.deployments import deployments
    from tasks.gpu_slots import num_gpus

    install(num_gpus())
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(*deployments(cron, preset)))


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
