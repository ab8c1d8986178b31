"""Collect garbage: remove from the store what no record leads to."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.run_commands import Json
from flows.screen import err, out, show_json, show_table

if TYPE_CHECKING:
    from tasks.garbage import Found
    from tasks.garbage_removal import Weight

SHOWN = 50
"So many are listed one by one; `--json` lists all."
HOUR_SECONDS = 3600.0


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(gc)


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would go.")] = False,  # noqa: FBT002
    grace_hours: Annotated[
        float, typer.Option(min=0.0, help="What was used or written within these stays.")
    ] = 24.0,
    evidence: Annotated[
        list[Path] | None,
        typer.Option(help="One more directory of records that count; may be given again."),
    ] = None,
    forget: Annotated[
        list[str] | None,
        typer.Option(help="A run whose records are nowhere any more: keep nothing for it."),
    ] = None,
    units: Annotated[bool, typer.Option("--units", help="Cached units, too.")] = False,  # noqa: FBT002
    trainings: Annotated[bool, typer.Option("--trainings", help="Unfinished ones, too.")] = False,  # noqa: FBT002
    json: Json = False,  # noqa: FBT002
) -> None:
    """Remove from the store what no run's record leads to."""
    from flows.environment import prepare

    prepare()
    from tasks import places
    from tasks.errors import NotFoundError
    from tasks.garbage import find_garbage, rules
    from tasks.garbage_removal import remove, weigh
    from tasks.references import read_mentions
    from tasks.store import open_store

    directories = [places.evidence(), *(evidence or ())]
    for directory in directories[1:]:
        if not directory.is_dir():
            raise NotFoundError("directory of records", str(directory))
    store = open_store()
    rule = rules(
        grace_hours * HOUR_SECONDS,
        forgotten=frozenset(forget or ()),
        units=units,
        trainings=trainings,
    )
    found = find_garbage(store, read_mentions(directories, store.remote), rule)
    if dry_run:
        weight = weigh(store, found.garbage)
    else:
        weight = remove(store, found.garbage, rule.cutoff)
    if json:
        show_json(_document(found, weight, dry_run=dry_run))
    else:
        _show(found, weight, store.where, dry_run=dry_run)


def _document(found: "Found", weight: "Weight", *, dry_run: bool) -> dict[str, Any]:
    return {"dry_run": dry_run, **dataclasses.asdict(found), **dataclasses.asdict(weight)}


def _show(found: "Found", weight: "Weight", where: str, *, dry_run: bool) -> None:
    if found.garbage:
        listed = [
            {"what": each.what, "name": each.name, "where": "here" if each.is_here else where,
             "why": each.why}
            for each in found.garbage
        ]  # fmt: skip
        show_table(listed[:SHOWN])
        if len(listed) > SHOWN:
            out.print(f"... and {len(listed) - SHOWN:,} more; --json lists all")
        out.print()
    out.print(
        f"{found.num_artefacts:,} artefacts: records lead to {found.num_reachable:,}; of the rest "
        f"{found.num_young:,} are young, {found.num_imported:,} imported",
    )
    for run, num in sorted(found.unknown_runs.items())[:SHOWN]:
        err.print(
            f"kept {num:,} for {run}, of which there are no records here: name their directory "
            f"with --evidence, or give them up with --forget {run}",
        )
    verb = "would free" if dry_run else "freed"
    out.print(f"{verb} {_freed(weight, where)}")


def _freed(weight: "Weight", where: str) -> str:
    text = f"{weight.num_bytes_here:,} bytes here ({weight.num_here:,} entries)"
    if weight.num_there:
        text += f", {weight.num_bytes_there:,} bytes in {where} ({weight.num_there:,} entries)"
    return text
