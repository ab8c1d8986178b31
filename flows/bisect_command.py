"""`assay bisect`: a checkpoint against its training, or a model against a reference.

A fault that is found is a failed validation, so it has that exit code; two models that are not the
same computation are no fault, and have one of their own.
"""

from pathlib import Path
from typing import Annotated

import typer

from flows.errors import WrongUseError
from flows.run_commands import Json, Name, Preset, Set, run_recorded
from flows.screen import out, show_json, show_table


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(bisect)


def bisect(
    checkpoint: Annotated[
        str | None, typer.Option(help="Ref of a checkpoint: against its training.")
    ] = None,
    candidate: Annotated[
        str | None,
        typer.Option(help="checkpoint:DIGEST, .apr, .gguf, directory, transformers:DIRECTORY."),
    ] = None,
    reference: Annotated[str | None, typer.Option(help="What the candidate is held to.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Text that both read.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Ids that both read: 1,2,3.")] = None,
    device: Annotated[str, typer.Option(help="Where both compute.")] = "cpu",
    stats: Annotated[
        Path | None, typer.Option(help="Directory with tables of standard deviations.")
    ] = None,
    runs: Annotated[
        tuple[str, str] | None, typer.Option(help="Two runs: the first step at which they part.")
    ] = None,
    preset: Preset = "demo",
    set_: Set = None,
    name: Name = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Name the operations in which a model departs from a reference."""
    if sum(each is not None for each in (checkpoint, candidate, stats, runs)) != 1:
        raise WrongUseError("assay bisect", "one of --checkpoint, --candidate, --stats and --runs")
    if (candidate is None) != (reference is None):
        raise WrongUseError("assay bisect", "--candidate and --reference together")
    if checkpoint is not None:
        run_recorded(
            "flows.stages", "bisect_flow", preset, set_, name, json=json, checkpoint=checkpoint
        )
    elif stats is not None:
        _stats(stats, json=json)
    elif runs is not None:
        _runs(*runs, json=json)
    elif candidate is not None and reference is not None:
        _models(name or "bisect", candidate, reference, prompt, tokens, device, json=json)


def _models(
    name: str,
    candidate: str,
    reference: str,
    prompt: str | None,
    tokens: str | None,
    device: str,
    *,
    json: bool,
) -> None:
    from flows.environment import prepare
    from flows.exit_codes import VALIDATION_FAILED

    prepare()
    from evidence.canonical import finite, read_object
    from model.bisection import NO_FAULT
    from model.bisection_text import bisection_text, fault_rows
    from tasks.model_bisection import RESULT, bisect_models

    run, found = bisect_models(name, candidate, reference, prompt, tokens, device)
    if json:
        show_json(finite(read_object(run.directory / RESULT)))
    else:
        out.print(bisection_text(found), markup=False, end="")
        if found.faults:
            out.print()
            show_table(fault_rows(found))
        out.print(f"\nevidence  {run.directory}")
    if found.verdict != NO_FAULT:
        raise typer.Exit(VALIDATION_FAILED)


def _runs(left: str, right: str, *, json: bool) -> None:
    from dataclasses import asdict

    from flows.exit_codes import VALIDATION_FAILED
    from tasks.parting import part_runs

    num_steps, found = part_runs(left, right)
    if json:
        show_json({"steps": num_steps, "parting": found and asdict(found)})
    elif found is None:
        out.print(f"no parting: {num_steps} steps agree bit for bit")
    else:
        values = f"{found.left!r} and {found.right!r}"
        out.print(f"step {found.step}: {found.fact} is {values}; look at {found.kind}")
    if found:
        raise typer.Exit(VALIDATION_FAILED)


def _stats(directory: Path, *, json: bool) -> None:
    from dataclasses import asdict

    from model.neighbour_ratios import NOT_EVIDENCE, neighbour_ratios, ratio_sentence, read_stds
    from tasks.errors import NotFoundError

    tables = sorted(directory.glob("*.csv"))
    if not tables:
        raise NotFoundError("table (*.csv)", str(directory))
    found = {path.name: read_stds(path) for path in tables}
    if json:
        ratios = {key: [asdict(one) for one in neighbour_ratios(found[key])] for key in found}
        show_json({"verdict": NOT_EVIDENCE, "tables": ratios})
        return
    for table, stds in found.items():
        out.print(f"{table}: {len(next(iter(stds.values())))} layers")
        for one in neighbour_ratios(stds):
            out.print(f"  {ratio_sentence(one, len(stds[one.site]))}", markup=False)
    out.print(NOT_EVIDENCE)
