"""Commands of the ledger: the chain and its pins, checks done over, what documents claim."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.errors import VerificationError, WrongUseError, WrongValueError
from flows.run_commands import Json
from flows.screen import err, out, show_json, show_table
from tasks.errors import NotFoundError

if TYPE_CHECKING:
    from evidence.chain import Head
    from tasks.rechecked import Rechecked

Repair = Annotated[
    bool, typer.Option("--repair", help="Complete what a crash left; it edits nothing.")
]
Trailer = Annotated[
    bool, typer.Option("--trailer", help="Print the head as a trailer for git commit.")
]
TRAILER = "Assay-Evidence"
GIT, MLFLOW, CHECKPOINT = "git", "mlflow", "checkpoint:"


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (recheck, chain, withdraw, claims, sign):
        app.command()(command)


def recheck(
    subject: Annotated[str, typer.Argument(metavar="ID", help="A run, or RUN/STAGE.")],
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N or auto.")] = "cpu",
    texts: Annotated[
        str,
        typer.Option(
            help="How many answers and continuations are written again: a number, 0, or all."
        ),
    ] = "20",
    seed: Annotated[int, typer.Option(min=0, help="Draws which; the output names them.")] = 0,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Do the recorded checks over on the recorded inputs; exit 5 if one leaves its bar."""
    from evidence.records import STAGES
    from tasks.device import available_device
    from tasks.recheck import recheck as do_over
    from tasks.recheck_written import Draw
    from tasks.run_record import find_run
    from tasks.schemas import require_shapes

    name, slash, stage = subject.rpartition("/")
    if not slash or stage not in STAGES:
        name, stage = subject, ""
    if texts != "all" and not (texts.isascii() and texts.isdigit()):
        raise WrongValueError("assay recheck", "--texts", f"{texts!r:.20}", "a number, or all")
    draw = Draw(None if texts == "all" else int(texts), seed)
    run = find_run(name)
    require_shapes(run)
    rows = []
    for found in do_over(run, stage or None, available_device(device), draw):
        err.print(f"  {found.stage}: {len(found.results)} checks done over")
        rows += [_rechecked_row(found.stage, each) for each in found.results]
    if json:
        show_json({"run": run.name, "checks": rows})
    else:
        show_table(rows)
    if failed := [row for row in rows if row["verdict"] != "holds"]:
        said = (f"{row['stage']}: {row['check']} is {row['measured']}, record says "
                f"{row['recorded']} within {row['bar']}" for row in failed)  # fmt: skip
        raise VerificationError(run.name, len(rows), tuple(said))


def _rechecked_row(stage: str, each: "Rechecked") -> dict[str, Any]:
    return {
        "stage": stage,
        "check": each.check,
        "recorded": each.recorded,
        "measured": each.measured,
        "bar": f"{each.bar:g}{' of it' if each.relative else ''}",
        "n": each.n,
        "verdict": each.verdict,
    }


def chain(
    pin: Annotated[
        list[str] | None,
        typer.Option(help="SEQ:SHA256, git (trailers here), mlflow (tags), or checkpoint:DIGEST."),
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
        out.print(f"{TRAILER}: {head}")
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
        elif text.startswith(CHECKPOINT):
            pins |= _checkpoint_pins(text)
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


def _checkpoint_pins(text: str) -> "dict[str, Head]":
    """Read the head that is noted beside a checkpoint in the store.

    Raises: NotFoundError, AmbiguousError, WrongHeadError.
    """
    from evidence.chain import parse_head
    from tasks.run_record import CHAIN_HEAD
    from tasks.store import open_store

    store = open_store()
    ref = store.resolve(text)
    noted = store.observed(ref).get(CHAIN_HEAD)
    if noted is None:
        raise NotFoundError(f"head of the chain, noted with {ref.short}", store.where)
    return {ref.short: parse_head(noted)}


def _mlflow_pins() -> "dict[str, Head]":
    from flows.environment import prepare

    prepare()
    from tasks import places
    from tasks.logins import without_login
    from tasks.mlflow_pins import pinned_heads

    found = pinned_heads(places.evidence())
    if not found:
        raise NotFoundError("run with a tag assay.chain_head", without_login(places.mlflow_uri()))
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
    out.print(f"{line.run}: withdrawn in line {line.seq} of the chain")


def claims(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Documents; default: those of the project.")
    ] = None,
    keep: Annotated[
        str | None, typer.Option(help="Keep what this run measured, for documents to name.")
    ] = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Hold every measured number of a document to its evidence; exit 5 if one has none."""
    from tasks.claimed_documents import check_documents, documents
    from tasks.claimed_documents import keep as keep_run
    from tasks.run_record import find_run

    if keep is not None:
        out.print(str(keep_run(find_run(keep))))
        return
    found = check_documents(files or documents())
    num_claims = sum(each.num_claims for each in found.values())
    faults = [fault for each in found.values() for fault in each.faults]
    if json:
        show_json({"documents": list(found), "claims": num_claims, "faults": faults})
    if faults:
        raise VerificationError("claims", num_claims, tuple(faults))
    if not json:
        out.print(f"{len(found)} documents, {num_claims} measured numbers, all backed")


def sign(
    subject: Annotated[str, typer.Argument(help="A run that ended, or KIND:DIGEST.")],
    key: Annotated[Path, typer.Option(help="Private key: P-256, PEM.")],
) -> None:
    """Sign every file of a run or an artefact; `assay verify --key` checks it."""
    from evidence.refs import REF_TYPES
    from tasks.run_record import find_run
    from tasks.signing import sign as sign_directory
    from tasks.store import open_store

    if subject.partition(":")[0] in REF_TYPES:
        ref = open_store().resolve(subject)
        directory, name = open_store().open(ref).directory, str(ref)
    else:
        run = find_run(subject)
        directory, name = run.directory, run.name
        if run.record() is None:
            raise NotFoundError("record of a run that ended", str(directory))
    out.print(str(sign_directory(directory, name, key)))
