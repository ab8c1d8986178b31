"""Commands that keep house: close what a crash left open, say why a stage runs again."""

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from evidence.errors import EvidenceError
from evidence.records import STAGES
from flows.errors import WrongValueError
from flows.run_commands import Json, Preset, Set
from flows.screen import err, out, show_json, show_table
from tasks.errors import NotFoundError

if TYPE_CHECKING:
    from flows.why import Unfinished, Why


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (reconcile, why):
        app.command()(command)


def reconcile(json: Json = False) -> None:  # noqa: FBT002
    """Close what a crash left open in Prefect and MLflow, and free its GPU slots."""
    from flows.embedded import prefect_server
    from flows.environment import prepare

    prepare()
    with prefect_server() as server:
        from flows.reconcile import reconcile as close

        server.wait()
        closed: list[dict[str, str]] = []
        damage = None
        try:
            closed.extend(dataclasses.asdict(each) for each in close())
        except EvidenceError as error:
            damage = error
    if json:
        show_json(closed)
    elif closed:
        show_table(closed)
    elif damage is None:
        err.print("nothing is open of a run whose process is gone")
    if damage:
        raise damage


def why(
    stage: Annotated[str, typer.Argument(help=f"One of {', '.join(STAGES)}.")],
    preset: Preset = "demo",
    set_: Set = None,
    run: Annotated[
        str | None, typer.Option(help="A run that has been, instead of a preset.")
    ] = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Show which setting or input makes a stage run again, or from which run it is reused."""
    if stage not in STAGES:
        raise WrongValueError("why", "the stage", stage, f"one of {', '.join(STAGES)}")
    found = _planned(stage, preset, set_) if run is None else _recorded(stage, run)
    if json:
        show_json(found.as_record())
        return
    if found.unfinished:
        out.print(_goes_on(stage, found.unfinished))
    if found.reused_from:
        out.print(f"{stage}: reused from {found.reused_from}, which made {found.output}")
        out.print(f"because the recipe is the same: {found.recipe_sha256}")
    elif found.closest_run is None:
        out.print(f"{stage}: runs, because the store has no other {stage} to compare with")
    else:
        out.print(f"{stage}: runs; the closest recipe is that of {found.closest_run}")
        rows = [
            {"differs": each.key, found.closest_run: each.before, "here": each.after}
            for each in found.differences
        ]
        show_table(rows)


def _goes_on(stage: str, found: "Unfinished") -> str:
    """Say what becomes of a training that has not come to its end."""
    at = f"step {found.step} of {found.num_steps}, snapshot {found.snapshot} in {found.directory}"
    if found.is_under_way:
        return f"{stage}: a process is at it; last saved: {at}"
    return f"{stage}: an interrupted one of the same recipe goes on from {at}"


def _planned(stage: str, preset: str, set_: list[str] | None) -> "Why":
    from flows.environment import prepare
    from flows.settings import load_settings, possible_here

    settings = possible_here(load_settings(preset, set_ or ()))
    prepare()
    from flows.why import why_planned
    from tasks.store import open_store

    return why_planned(open_store(), settings, stage)


def _recorded(stage: str, name: str) -> "Why":
    from tasks.run_record import find_run

    run = find_run(name)
    from flows.environment import prepare

    prepare()
    from flows.why import why_recorded
    from tasks.store import open_store

    found = why_recorded(open_store(), run, stage)
    if found is None:
        raise NotFoundError(f"record of {stage}", str(run.directory))
    return found
