"""Commands of the ledger: the chain, its pins, and checks done over."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from flows.errors import VerificationError, WrongUseError
from flows.run_commands import Json
from flows.screen import err, out, show_json, show_table
from tasks.errors import NotFoundError

if TYPE_CHECKING:
    from evidence.chain import Head

Repair = Annotated[
    bool, typer.Option("--repair", help="Complete what a crash left; it edits nothing.")
]
Trailer = Annotated[
    bool, typer.Option("--trailer", help="Print the head as a trailer for git commit.")
]
TRAILER = "Assay-Evidence"
GIT, MLFLOW = "git", "mlflow"


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (recheck, chain, withdraw):
        app.command()(command)


def recheck(
    subject: Annotated[str, typer.Argument(metavar="ID", help="A run, or RUN/STAGE.")],
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N or auto.")] = "cpu",
    json: Json = False,  # noqa: FBT002
) -> None:
    """Do the recorded checks over on the recorded inputs; exit 5 if one leaves its bar."""
    from evidence.records import STAGES
    from tasks.device import available_device
    from tasks.recheck import recheck as do_over
    from tasks.run_record import find_run

    name, slash, stage = subject.rpartition("/")
    if not slash or stage not in STAGES:
        name, stage = subject, ""
    run = find_run(name)
    rows = []
    for found in do_over(run, stage or None, available_device(device)):
        err.print(f"  {found.stage}: {len(found.results)} checks done over", markup=False)
        rows += [
            {
                "stage": found.stage,
                "check": each.check,
                "recorded": each.recorded,
                "measured": each.measured,
                "bar": f"{each.bar:g}{' of it' if each.relative else ''}",
                "n": each.n,
                "verdict": each.verdict,
            }
            for each in found.results
        ]
    if json:
        show_json({"run": run.name, "checks": rows})
    else:
        show_table(rows)
    if failed := [row for row in rows if row["verdict"] != "holds"]:
        said = (f"{row['stage']}: {row['check']} is {row['measured']}, record says "
                f"{row['recorded']} within {row['bar']}" for row in failed)  # fmt: skip
        raise VerificationError(run.name, len(rows), tuple(said))


def chain(
    pin: Annotated[
        list[str] | None,
        typer.Option(help="SEQ:SHA256 noted earlier, git (trailers here) or mlflow (tags)."),
    ] = None,
    repair: Repair = False,  # noqa: FBT002
    trailer: Trailer = False,  # noqa: FBT002
    json: Json = False,  # noqa: FBT002
) -> None:
    """Check the chain of all records and show its head; exit 5 if it was edited."""
    from evidence.chain import read_chain
    from tasks import places
    from tasks.ledger import settle, writing
    from tasks.verify_chain import verify_chain

    directory = places.evidence()
    head = read_chain(directory).head
    if head is None:
        raise NotFoundError("chain of records", str(directory))
    if trailer:
        out.print(f"{TRAILER}: {head}", markup=False)
        return
    if repair:
        with writing(directory) as found:
            head = settle(found).head
    pins = _pins(pin or ())
    report = verify_chain(directory, pins)
    if json:
        show_json({"head": str(head), "pins": {where: str(each) for where, each in pins.items()},
                   "checks": report.num_checks, "failures": report.failures})  # fmt: skip
    if report.failures:
        raise VerificationError(report.subject, report.num_checks, tuple(report.failures))
    if not json:
        out.print(f"{report.subject}: {report.num_checks} checks, all hold; pins: {len(pins)}")
        out.print(f"head  {head}")


def _pins(texts: Sequence[str]) -> "dict[str, Head]":
    """Collect heads that were noted elsewhere, by where.

    Raises: WrongHeadError, NotFoundError where git or MLflow has none.
    """
    from evidence.chain import parse_head

    pins: dict[str, Head] = {}
    for text in texts:
        if text == GIT:
            pins |= _git_pins()
        elif text == MLFLOW:
            pins |= _mlflow_pins()
        else:
            pins[text[:20]] = parse_head(text)
    return pins


def _git_pins() -> "dict[str, Head]":
    """Read the trailers of the commits of the repository here."""
    import subprocess

    from evidence.chain import parse_head

    form = f"--format=%h %(trailers:key={TRAILER},valueonly,separator=%x2C)"
    done = subprocess.run(["git", "log", form], capture_output=True, text=True, check=False)
    noted = (line.partition(" ") for line in done.stdout.splitlines())
    found = {f"commit {commit}": parse_head(value) for commit, _, value in noted if value}
    if not found:
        raise NotFoundError(f"commit with the trailer {TRAILER}", "git log")
    return found


def _mlflow_pins() -> "dict[str, Head]":
    from flows.environment import prepare

    prepare()
    from tasks import places
    from tasks.mlflow_pins import pinned_heads

    found = pinned_heads(places.evidence())
    if not found:
        raise NotFoundError("run with a tag assay.chain_head", places.mlflow_uri())
    return found


def withdraw(
    subject: Annotated[str, typer.Argument(metavar="RUN", help="A run whose claims do not hold.")],
    reason: Annotated[str, typer.Option(help="Why, in a sentence; it stays in the chain.")],
) -> None:
    """Withdraw a run's claims: its record stays, with the reason beside it in the chain."""
    from tasks.run_record import find_run
    from tasks.withdrawal import withdraw as enter

    if not reason.strip():
        raise WrongUseError("assay withdraw", "a reason of some words")
    line = enter(find_run(subject), reason.strip())
    out.print(f"{line.run}: withdrawn in line {line.seq} of the chain", markup=False)
