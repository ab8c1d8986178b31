"""`assay bisect`: a checkpoint against its training, or a model against a reference.

A fault that is found is a failed validation, so it has that exit code; two models that are not the
same computation are no fault, and have one of their own.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.errors import WrongUseError
from flows.run_commands import Json, Name, Preset, Set, run_recorded
from flows.screen import out, show_json, show_table

if TYPE_CHECKING:
    from model.bisection import Bisection
    from model.branch_search import BranchSearch
    from tasks.run_record import Run

ONE_OF = "one of --checkpoint, --candidate, --stats, --runs and --run"


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(bisect)


def bisect(
    checkpoint: Annotated[
        str | None, typer.Option(help="Ref of a checkpoint: against its training.")
    ] = None,
    candidate: Annotated[
        str | None,
        typer.Option(
            help="checkpoint:DIGEST, .apr, .gguf, directory, transformers:DIRECTORY, "
            "llama.cpp:FILE.gguf; logits:... of any for its logits alone."
        ),
    ] = None,
    reference: Annotated[str | None, typer.Option(help="What the candidate is held to.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Text that both read.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Ids that both read: 1,2,3.")] = None,
    device: Annotated[str, typer.Option(help="Where both compute.")] = "cpu",
    precision: Annotated[
        str | None, typer.Option(help="What the candidate computes in: bfloat16, float64, ...")
    ] = None,
    stats: Annotated[
        Path | None, typer.Option(help="Directory with tables of standard deviations.")
    ] = None,
    runs: Annotated[
        tuple[str, str] | None, typer.Option(help="Two runs: the first step at which they part.")
    ] = None,
    replayed: Annotated[
        str | None,
        typer.Option("--run", help="A run: replay what stands out in its training, or --step."),
    ] = None,
    step: Annotated[int | None, typer.Option(help="Of --run: replay this one.")] = None,
    preset: Preset = "demo",
    set_: Set = None,
    name: Name = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Name the operations in which a model departs from a reference."""
    if sum(each is not None for each in (checkpoint, candidate, stats, runs, replayed)) != 1:
        raise WrongUseError("assay bisect", ONE_OF)
    if step is not None and replayed is None:
        raise WrongUseError("assay bisect", "--step together with --run")
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
    elif replayed is not None:
        _replay(name or "replay", replayed, step, json=json)
    elif candidate is not None and reference is not None:
        _models(
            name or "bisect", candidate, reference, prompt, tokens, device, precision, json=json
        )


def _models(
    name: str,
    candidate: str,
    reference: str,
    prompt: str | None,
    tokens: str | None,
    device: str,
    precision: str | None,
    *,
    json: bool,
) -> None:
    from flows.environment import prepare
    from flows.exit_codes import VALIDATION_FAILED

    prepare()
    from evidence.canonical import finite, read_object
    from model.bisection import NO_FAULT, Bisection
    from model.bisection_text import fault_rows
    from tasks.model_bisection import RESULT, TEXT

    run, found = _bisecting()(name, candidate, reference, prompt, tokens, device, precision)
    if json:
        show_json(finite(read_object(run.directory / RESULT)))
    else:
        out.print((run.directory / TEXT).read_text(), end="")
        if isinstance(found, Bisection) and found.faults:
            out.print()
            show_table(fault_rows(found))
        out.print(f"\nevidence  {run.directory}")
    if found.verdict != NO_FAULT:
        raise typer.Exit(VALIDATION_FAILED)


def _bisecting() -> Callable[..., tuple["Run", "Bisection | BranchSearch"]]:
    """Choose a flow where a Prefect server shows what comes of it; else start quickly."""
    if os.environ.get("PREFECT_API_URL"):
        from flows.bisection import bisect_models_flow

        return bisect_models_flow
    from tasks.model_bisection import bisect_models

    return bisect_models


def _runs(left: str, right: str, *, json: bool) -> None:
    from dataclasses import asdict

    from evidence.canonical import finite
    from flows.exit_codes import VALIDATION_FAILED
    from tasks.parting import part_runs

    compared = part_runs(left, right)
    found = compared.parting
    if json:
        show_json(finite(asdict(compared)))
    else:
        for key, (ours, theirs) in compared.settings.items():
            out.print(f"asked for otherwise: {key} is {ours!r} and {theirs!r}")
        if found is None:
            out.print(f"no parting: {compared.num_steps} steps agree bit for bit")
        else:
            values = f"{found.fact} is {found.left!r} and {found.right!r}"
            out.print(f"step {found.step}: {found.kind}: {values}; look at {found.look}")
            if found.step:
                out.print(f"which of them? assay bisect --run {left} --step {found.step}")
    if found:
        raise typer.Exit(VALIDATION_FAILED)


def _replay(name: str, replayed: str, step: int | None, *, json: bool) -> None:
    from flows.environment import prepare

    prepare()
    from evidence.canonical import finite, read_object
    from flows.exit_codes import NOT_COMPARABLE, VALIDATION_FAILED
    from tasks.replay import DEPARTS, INCOMPARABLE
    from tasks.run_replay import RESULT, findings_text, replay_run

    run, found = replay_run(name, replayed, step)
    if json:
        show_json(finite(read_object(run.directory / RESULT)))
    else:
        out.print(findings_text(found))
        out.print(f"evidence  {run.directory}")
    if DEPARTS in found.verdicts:
        raise typer.Exit(VALIDATION_FAILED)
    if INCOMPARABLE in found.verdicts:
        raise typer.Exit(NOT_COMPARABLE)


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
            out.print(f"  {ratio_sentence(one, len(stds[one.site]))}")
    out.print(NOT_EVIDENCE)
