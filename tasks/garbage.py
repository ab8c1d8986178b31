"""Garbage in a store: what no run's record leads to, and what nobody has used for a while.

Kept is what a record mentions and all that it was made of; what was made by a run whose records
are not here, for nobody here can say that it is not needed; what was imported; and what was used
within the grace period, for a run mentions an artefact only when its stage has ended.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from evidence.canonical import loads
from tasks.leftovers import leftovers
from tasks.recipes import read_entry
from tasks.references import Mentions, reachable
from tasks.store import INDEX, Store
from tasks.store_listing import Place, artefact_name, list_here, list_there

What = Literal["artefact", "recipe", "unit", "training", "leftover"]
Made = Mapping[str, Sequence[tuple[str, Mapping[str, Any]]]]
"By ref, the entries of recipes that made it, each with its name."


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """Something of a store that can go."""

    what: What
    name: str
    "Its path within the store."
    why: str
    is_here: bool
    "Whether it is in the directory of this machine, or else where the URL points."
    artefact: str = ""
    "The path of what a recipe made."


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What may go."""

    cutoff: float
    "Seconds since 1970; what was used or written later stays."
    forgotten: frozenset[str] = frozenset()
    "Runs whose records are nowhere, and of which nothing need be kept."
    units: bool = False
    trainings: bool = False
    "Unfinished ones."


def rules(grace_seconds: float, **others: Any) -> Rules:
    """Return rules by which what was used within a time stays."""
    return Rules(cutoff=time.time() - grace_seconds, **others)


@dataclass(slots=True)
class Found:
    """What a search found: what can go, and why the rest of the artefacts stays."""

    garbage: list[Garbage] = field(default_factory=list)
    num_artefacts: int = 0
    num_reachable: int = 0
    num_imported: int = 0
    num_young: int = 0
    unknown_runs: dict[str, int] = field(default_factory=dict)
    "Runs without records here, with the number of artefacts that stay for each."


def find_garbage(store: Store, mentions: Mentions, rule: Rules) -> Found:
    """List what can go; nothing is changed.

    Raises: OSError, MalformedJsonError, StoreRefusedError, StoreUnreachableError.
    """
    listed = [list_here(store.root)]
    if store.remote:
        listed.append(list_there(store.root, store.remote, store.remote.listing("")))
    made = _made(listed)
    existing = {ref for place in listed for ref in place.artefacts}
    inputs = {
        ref: [each for _, entry in entries for each in entry["recipe"]["inputs"].values()]
        for ref, entries in made.items()
    }
    live = reachable(mentions.matching(existing), inputs, lambda refs: _indexes(listed, refs))
    found = Found(num_artefacts=len(existing), num_reachable=len(existing & live))
    gone = {}
    imported = _imported(listed, existing - live - made.keys())
    for ref in sorted(existing - live):
        makers = sorted({str(entry["run"]) for _, entry in made.get(ref, ())})
        if not _stays(found, ref, makers, listed, imported, mentions.runs, rule):
            gone[ref] = f"no record leads to it; made by {', '.join(makers) or 'no recipe'}"
    for place in listed:
        found.garbage += [
            Garbage(what="artefact", name=artefact_name(ref), why=why, is_here=place.is_here)
            for ref, why in gone.items()
            if ref in place.artefacts
        ]
        kept = (existing - gone.keys()) | live
        found.garbage += _loose(place, made, kept, rule)
    for name, is_training in leftovers(store.root / "tmp", rule.cutoff):
        if rule.trainings or not is_training:
            what: What = "training" if is_training else "leftover"
            why = "nobody works on it"
            found.garbage.append(Garbage(what=what, name=f"tmp/{name}", why=why, is_here=True))
    return found


def _stays(
    found: Found,
    ref: str,
    makers: Sequence[str],
    listed: Sequence[Place],
    imported: set[str],
    known_runs: set[str],
    rule: Rules,
) -> bool:
    """Tell whether an artefact stays that no record leads to, and count it with its reason."""
    unknown = set(makers) - known_runs - rule.forgotten
    if ref in imported:
        found.num_imported += 1
    elif unknown:
        for run in unknown:
            found.unknown_runs[run] = found.unknown_runs.get(run, 0) + 1
    elif max(place.artefacts.get(ref, 0.0) for place in listed) > rule.cutoff:
        found.num_young += 1
    else:
        return False
    return True


def _made(listed: Sequence[Place]) -> Made:
    """Read the entries of all recipes, from the nearest place that has each."""
    found: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    seen: set[str] = set()
    for place in listed:
        for name, content in place.read(place.recipes.keys() - seen).items():
            entry = read_entry(content, name)
            found.setdefault(entry["ref"], []).append((name, entry))
        seen |= place.recipes.keys()
    return found


def _indexes(listed: Sequence[Place], refs: Iterable[str]) -> dict[str, bytes]:
    """Read the indexes of artefacts, from the nearest place that has each."""
    missing = {f"{artefact_name(ref)}/{INDEX}": ref for ref in refs}
    found: dict[str, bytes] = {}
    for place in listed:
        wanted = [name for name, ref in missing.items() if ref in place.artefacts]
        for name, content in place.read(wanted).items():
            found[missing.pop(name)] = content
    return found


def _imported(listed: Sequence[Place], refs: Iterable[str]) -> set[str]:
    """Choose the checkpoints that came from elsewhere; they belong to no run."""
    found = set()
    for ref, content in _indexes(listed, refs).items():
        index: Any = loads(content, f"{ref}: {INDEX}")
        if isinstance(index, dict) and "imported" in index.get("content", {}):
            found.add(ref)
    return found


def _loose(place: Place, made: Made, kept: set[str], rule: Rules) -> Iterator[Garbage]:
    """Yield what is no artefact: entries of what is gone, directories without index, caches."""

    def old(what: What, names: Mapping[str, float], why: str) -> Iterator[Garbage]:
        for name, used in names.items():
            if used <= rule.cutoff:
                yield Garbage(what=what, name=name, why=why, is_here=place.is_here)

    for ref, entries in made.items():
        for name, _ in entries if ref not in kept else ():
            if place.recipes.get(name, rule.cutoff + 1) <= rule.cutoff:
                yield Garbage(
                    what="recipe",
                    name=name,
                    why="what it made is gone or goes",
                    is_here=place.is_here,
                    artefact=artefact_name(ref),
                )
    yield from old("leftover", place.incomplete, "it has no index")
    if rule.units:
        yield from old("unit", place.units, "nobody used it")
    if rule.trainings:
        yield from old("training", place.trainings, "nobody added to it")
