"""Serve the deployments of this machine: a nightly pipeline, and one to start by hand."""

import sys

from flows.environment import prepare


def main(cron: str, preset: str) -> None:
    """Serve until a signal stops it; schedules pause with it."""
    prepare()
    from prefect import serve

    from flows.pipeline import pipeline

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
    sys.stdout.write("serving\n")
    sys.stdout.flush()
    serve(nightly, manual)  # type: ignore[arg-type]  # to_deployment is sync outside of a loop


if __name__ == "__main__":
    main(*sys.argv[1:])
