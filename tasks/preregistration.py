"""Plans that are written and chained before a run: what will be done, and by what it is judged.

A plan is a sealed record in `plans/` of the evidence directory, with a line of its own in the
chain. A run by a plan keeps a copy, so the order of the two lines says which was first.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evidence.canonical import digest
from evidence.chain import append, read_chain
from evidence.records import SEAL, Difference, differences, read_record, seal, write_record
from tasks import places
from tasks.errors import NotFoundError
from tasks.ledger import settle, writing
from tasks.ledger_errors import OtherVersionError
from tasks.provenance import provenance
from tasks.run_record import CHAIN_HEAD, PREREGISTRATION, Run, check_name, now
from tasks.schemas import require_shape

SCHEMA = "assay.preregistration/1"
PLANS = "plans"
ENDING = ".plan.json"
_BEGINNING = re.compile(r"[0-9a-f]{6,64}")


def write_plan(
    name: str, settings: Mapping[str, Any], request: Mapping[str, Any], versions: Mapping[str, int]
) -> Path:
    """Write a plan and enter it in the chain; return where it is.

    Raises: WrongNameError, BrokenChainError.
    """
    check_name(name)
    written = now()
    plan = {
        "schema": SCHEMA,
        "name": name,
        "request": dict(request),
        "settings": dict(settings),
        "settings_sha256": digest(settings),
        "stage_versions": dict(versions),
        "written": written,
        "provenance": provenance(),
    }
    sha256 = str(seal(plan)[SEAL])
    path = places.evidence() / PLANS / f"{name}-{sha256[:12]}{ENDING}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(places.evidence()) as found:
        chain = settle(found)
        write_record(path, plan)
        append(chain, "planned", name, sha256, written)
    return path


def find_plan(text: str) -> Path:
    """Return the plan at this path, or that whose digest begins so.

    Raises: NotFoundError.
    """
    if Path(text).is_file():
        return Path(text)
    found = sorted((places.evidence() / PLANS).glob(f"*{ENDING}"))
    named = [path for path in found if path.name in (text, f"{text}{ENDING}")]
    if _BEGINNING.fullmatch(text):
        named += [path for path in found if str(read_record(path)[SEAL]).startswith(text)]
    if len(named) != 1:
        raise NotFoundError(f"plan {text}", str(places.evidence() / PLANS))
    return named[0]


def read_plan(path: Path, versions: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Read a plan; with versions, refuse one that stages of other versions would not carry out.

    Raises: MalformedJsonError, BrokenSealError, WrongShapeError, OtherVersionError.
    """
    plan: dict[str, Any] = read_record(path)
    require_shape("preregistration", plan, path)
    for stage, version in (versions or {}).items():
        if plan["stage_versions"].get(stage) != version:
            raise OtherVersionError(str(path), stage, plan["stage_versions"].get(stage), version)
    return plan


def registered(run: Run) -> dict[str, Any] | None:
    """Read the plan that a run was made by; None if there was none."""
    path = run.directory / PREREGISTRATION
    return read_plan(path) if path.is_file() else None


def departures(plan: Mapping[str, Any], run: Run) -> list[Difference]:
    """List where a run's settings and thresholds are not those of a plan."""
    return differences(plan["settings"], run.plan()["settings"])


def order_faults(run: Run) -> list[str]:
    """Say whether a run by a plan has it, and whether the chain had the plan before the run."""
    said = run.plan().get("preregistration")
    plan = registered(run)
    if said is None and plan is None:
        return []
    if plan is None or plan[SEAL] != said:
        return [f"{PREREGISTRATION}: not the plan that the run was made by"]
    chain, record = read_chain(run.directory.parent), run.record()
    line = chain.planned(said)
    if line is None:
        return [f"{PREREGISTRATION}: the chain has no line for this plan"]
    head = run.plan()[CHAIN_HEAD]
    if head is None or int(head.partition(":")[0]) < line.seq:
        return [f"{PREREGISTRATION}: in line {line.seq} of the chain, after the run had begun"]
    entered = chain.line_of(record[SEAL]) if record else None
    if entered and entered.seq < line.seq:
        return [f"{PREREGISTRATION}: in line {line.seq} of the chain, after the run's record"]
    return []
