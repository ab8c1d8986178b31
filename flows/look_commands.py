"""Commands that look: runs, comparisons, verdicts, verification, files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.errors import (
    InvalidModelError,
    RunGoesOnError,
    RunKilledError,
    VerificationError,
    WrongValueError,
)
from flows.run_commands import Json
from flows.screen import err, out, show_json, show_table

if TYPE_CHECKING:
    from tasks.run_record import Run
    from tasks.verify_report import Report

Subject = Annotated[
    str | None, typer.Argument(help="A run, or KIND:DIGEST; default: the last run.")
]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (runs, compare, status, verify, inspect, validate, mirror):
        app.command()(command)


def runs(json: Json = False) -> None:  # noqa: FBT002
    """List the recorded runs."""
    from flows.report import run_rows
    from tasks.run_record import all_runs

    rows = run_rows(all_runs())
    if json:
        show_json(rows)
    elif rows:
        show_table(rows)
    else:
        err.print("no runs yet; `assay run --preset demo` makes one")


def compare(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help="Runs, or refs of evaluations or checkpoints."),
    ],
    json: Json = False,  # noqa: FBT002
) -> None:
    """Put settings and results side by side, and losses on the same data against each other."""
    from flows.report import comparison, shortened

    if len(names) < 2:
        raise WrongValueError("assay compare", "NAME", f"{names[0]} alone", "two names or more")
    found = comparison(names)
    if json:
        show_json(found)
        return
    if found["settings"]:
        show_table(found["settings"], title="settings that differ")
    else:
        out.print("no settings differ")
    out.print()
    show_table(shortened(found["results"]), title="results")
    _show_differences(found["differences"])


def _show_differences(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print what may be subtracted as a table, and of the rest why it may not."""
    out.print()
    if subtracted := [row for row in rows if row["bits_per_byte"] is not None]:
        show_table(subtracted, title="losses, paired by document")
    for row in rows:
        if row["bits_per_byte"] is None:
            out.print(f"{row['evaluation']}, {row['minus']}: {row['comparable']}")


def status(
    run: Subject = None,
    plan: Annotated[
        str | None, typer.Option(help="Hold the run to this plan of `assay plan`.")
    ] = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Judge every gate of a run, and whether its model may be shipped."""
    from flows.report import acceptance_table, departure_rows, error, gate_table, outcome
    from tasks.acceptance import plan_faults
    from tasks.schemas import require_shapes
    from tasks.withdrawal import reason_of

    found = find_or_last(run)
    require_shapes(found)
    withdrawn = reason_of(found)
    rows, (criteria, unreachable) = gate_table(found), acceptance_table(found)
    faults = plan_faults(found)
    departed, order = departure_rows(found, plan)
    faults += [*order, *(f"{each['setting']} is {each['run']}, the plan says {each['plan']}"
                         for each in departed)]  # fmt: skip
    if json:
        show_json({"run": found.name, "outcome": outcome(found), "gates": rows,
                   "acceptance": criteria, "out_of_reach": unreachable, "plan_faults": faults,
                   "departures": departed, "withdrawn": withdrawn})  # fmt: skip
    else:
        out.print(f"{found.name}: {outcome(found)}")
        if why := error(found):
            out.print(why)
        if withdrawn:
            out.print(f"withdrawn: {withdrawn}")
        out.print()
        if rows:
            show_table(rows, title="gates of the run")
            out.print()
        show_table(criteria, title="acceptance")
        if unreachable:
            why = "it is too small, or does not measure them"
            out.print(f"whatever its model learns, this run does not meet these ({why}): "
                      f"{', '.join(unreachable)}")  # fmt: skip
        if departed:
            out.print()
            show_table(departed, title="not as planned")
    if faults:
        raise VerificationError(found.name, 1, tuple(faults))


def verify(
    subject: Subject = None,
    key: Annotated[
        Path | None, typer.Option(help="Public key (PEM) of a signature by `assay sign`.")
    ] = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Recompute everything; exit 5 if it differs."""
    from evidence.refs import REF_TYPES
    from flows.environment import prepare

    prepare()
    from tasks.signing import verify_signature
    from tasks.store import open_store
    from tasks.verify import verify_ref, verify_run

    if subject and subject.partition(":")[0] in REF_TYPES:
        ref = open_store().resolve(subject)
        report, signed = verify_ref(ref), (open_store().directory(ref), str(ref))
    else:
        run = find_or_last(subject)
        report, signed = verify_run(run), (run.directory, run.name)
    if key is not None:
        verify_signature(*signed, key)
        report.num_checks += 1
    _show_report(
        report, RunKilledError if report.state == "killed" else VerificationError, json=json
    )


def inspect(
    subject: Annotated[
        str,
        typer.Argument(
            help="A run, KIND:DIGEST, a directory of a checkpoint or of Hugging Face's, or a file: "
            ".apr, .gguf or .safetensors."
        ),
    ],
    json: Json = False,  # noqa: FBT002
) -> None:
    """Describe a run, an artefact or a model."""
    from flows.inspection import describe

    found = describe(subject)
    if json:
        show_json(found)
        return
    from flows.inspection_text import show_description

    show_description(found)


def validate(
    subject: Annotated[
        str,
        typer.Argument(
            help="checkpoint:DIGEST, a directory of a checkpoint or of Hugging Face's, or a file: "
            ".apr, .gguf or .safetensors."
        ),
    ],
    json: Json = False,  # noqa: FBT002
) -> None:
    """Judge the content of a model; exit 5 if a check fails."""
    from flows.validation import validate as judge

    _show_report(judge(subject), InvalidModelError, json=json)


def mirror(run: Subject = None, json: Json = False) -> None:  # noqa: FBT002
    """Send what MLflow lacks of a run."""
    from flows.environment import prepare
    from tasks.mirroring import mirror_now

    prepare()
    found = find_or_last(run)
    sent = mirror_now(found)
    if json:
        show_json(sent)
    else:
        state = "complete" if sent["complete"] else "as far as the run is"
        out.print(f"{found.name}: in MLflow as {sent['run_id']}, {state}")


def _show_report(report: "Report", refusal: type[VerificationError], *, json: bool) -> None:
    if json:
        show_json({"subject": report.subject, "state": report.state, "checks": report.num_checks,
                   "failures": report.failures, "notes": report.notes})  # fmt: skip
    for note in report.notes:
        err.print(f"note: {note}")
    if report.failures:
        raise refusal(report.subject, report.num_checks, tuple(report.failures))
    if report.state == "goes on":
        raise RunGoesOnError(report.subject, report.num_checks)
    if not json:
        out.print(f"{report.subject}: {report.num_checks} checks, all hold")


def find_or_last(text: str | None) -> "Run":
    """Return the run that a person named, or the last.

    Raises: NotFoundError, NoRunsError.
    """
    from tasks import places
    from tasks.errors import NoRunsError
    from tasks.run_record import all_runs, find_run

    if text is not None:
        return find_run(text)
    recorded = all_runs()
    if not recorded:
        raise NoRunsError(str(places.evidence()))
    return recorded[-1]
