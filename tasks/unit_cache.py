"""Units that have been made: directories in the store, named by all that determines them.

A unit is built in the store's `tmp/`, given its `unit.json` last, synced and renamed into
`units/<ab>/<key>/`: a directory there exists if and only if it is complete. Whoever comes second
with the same unit finds it there, and drops what it has.
"""

import shutil
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.units import Given, Unit
from evidence.canonical import digest, pretty, read_object
from evidence.errors import EvidenceError
from evidence.refs import REF_TYPES, parse_ref
from tasks.checked import is_checked, remember_checked, stamp
from tasks.directories import differences, entries, move_into_place
from tasks.errors import ArtefactDamagedError, NotFoundError
from tasks.store import Store

UNIT = "unit.json"
SCHEMA = "assay.unit/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitJob:
    """A unit as a worker gets it: what it needs is named by key, so that it travels light."""

    key: str
    label: str
    recipe: Mapping[str, Any]
    make: Callable[..., None]
    inputs: tuple[str | Given, ...]
    aside: tuple[str | Given, ...]

    def __str__(self) -> str:
        return self.label


class Keys:
    """Keys of units; each object is digested once, for thousands may share an input."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Unit, str]] = {}

    def of(self, unit: Unit) -> str:
        """Return the digest of all that determines a unit."""
        if id(unit) not in self._known:
            inputs = [
                each.name if isinstance(each, Given) else self.of(each) for each in unit.inputs
            ]
            key = digest({"recipe": unit.recipe, "inputs": inputs})
            # The unit is kept, so that its id stays its own.
            self._known[id(unit)] = (unit, key)
        return self._known[id(unit)][1]

    def job(self, unit: Unit) -> UnitJob:
        """Return what a worker needs to know of a unit."""
        return UnitJob(
            key=self.of(unit),
            label=unit.label,
            recipe=unit.recipe,
            make=unit.make,
            inputs=self._named(unit.inputs),
            aside=self._named(unit.aside),
        )

    def _named(self, needs: tuple[Unit | Given, ...]) -> tuple[str | Given, ...]:
        return tuple(each if isinstance(each, Given) else self.of(each) for each in needs)


@dataclass(frozen=True, slots=True)
class UnitCache:
    """The units of a store."""

    store: Store

    def directory(self, key: str) -> Path:
        """Return where the unit of this key is or would be."""
        return self.store.root / "units" / key[:2] / key

    def find(self, key: str) -> Path | None:
        """Return a unit that exists, every byte of it checked.

        One that is damaged is thrown away, which is said on stderr: it can be made again.
        """
        directory = self.directory(key)
        if not directory.is_dir():
            return None
        if is_checked(directory):
            return directory
        try:
            self._check(directory, key)
        except (ArtefactDamagedError, EvidenceError, FileNotFoundError) as damage:
            sys.stderr.write(f"  damaged, will be made again: {damage}\n")
            self._throw_away(directory)
            return None
        return directory

    def make(self, job: UnitJob) -> Path:
        """Make a unit that does not exist yet; return its directory.

        Raises: NotFoundError if something that it needs is not there, and what the unit raises.
        """
        if found := self.find(job.key):
            return found
        needs = [self._needed(each) for each in (*job.inputs, *job.aside)]
        with self.store.building(f"unit-{job.key[:16]}") as directory:
            job.make(directory, *needs)
            self._commit(directory, job)
        return self.directory(job.key)

    def _commit(self, directory: Path, job: UnitJob) -> None:
        inputs = [each.name if isinstance(each, Given) else each for each in job.inputs]
        seen = stamp(directory)
        record = {
            "schema": SCHEMA,
            "recipe": job.recipe,
            "inputs": inputs,
            "files": entries(directory),
        }
        (directory / UNIT).write_bytes(pretty(record))
        seen = (*seen, *(each for each in stamp(directory) if each[0] == UNIT))
        final = self.directory(job.key)
        if move_into_place(directory, final):
            remember_checked(final, tuple(sorted(seen)))

    def _check(self, directory: Path, key: str) -> None:
        """Hash a unit.

        Raises: ArtefactDamagedError, EvidenceError, FileNotFoundError.
        """
        seen, record = stamp(directory), read_object(directory / UNIT)
        known: Any = record
        if (found := digest({"recipe": record["recipe"], "inputs": record["inputs"]})) != key:
            raise ArtefactDamagedError(directory / UNIT, f"key {found[:12]}", key[:12])
        for damage in differences(directory, known["files"], index=UNIT):
            raise damage
        remember_checked(directory, seen)

    def _needed(self, need: str | Given) -> Path:
        if isinstance(need, str):
            if found := self.find(need):
                return found
            raise NotFoundError(f"unit {need[:12]}", str(self.store.root))
        if need.directory.is_dir():
            return need.directory
        if need.name.partition(":")[0] in REF_TYPES:
            return self.store.open(parse_ref(need.name)).directory
        raise NotFoundError(f"directory of {need.name}", str(need.directory))

    def _throw_away(self, directory: Path) -> None:
        aside = self.store.root / "tmp" / f"damaged-{uuid.uuid4().hex}"
        aside.parent.mkdir(exist_ok=True)
        directory.rename(aside)
        shutil.rmtree(aside)
