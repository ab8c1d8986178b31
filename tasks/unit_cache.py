"""Units that have been made: directories in the store, named by all that determines them.

A unit is built in the store's `tmp/`, given its `unit.json` last, synced and renamed into
`units/<ab>/<key>/`: a directory there exists if and only if it is complete. Whoever comes second
with the same unit finds it there, and drops what it has.
"""

import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from data.units import Given, Unit
from evidence.canonical import digest, pretty, read_object
from evidence.errors import EvidenceError
from evidence.refs import REF_TYPES, parse_ref
from tasks.checked import is_checked, lasting_stamp, remember_checked
from tasks.directories import differences, entries, listed_files, move_into_place
from tasks.errors import ArtefactDamagedError, UnsharedStoreError
from tasks.in_use import mark_used
from tasks.remote import Remote
from tasks.saying import say
from tasks.store import Store

UNIT = "unit.json"
SCHEMA = "assay.unit/1"
BUILD = "unit-"
SHORT = 16
"Digits of a unit's key in the name of the directory in which it is being made."


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitJob:
    """A unit as a worker gets it: what it needs is named by key, so that it travels light."""

    key: str
    label: str
    recipe: Mapping[str, Any]
    make: Callable[..., None]
    inputs: tuple[str | Given, ...]
    aside: tuple[str | Given, ...]
    count_tokens: Callable[[Path], int] | None

    def __str__(self) -> str:
        return self.label

    def num_tokens(self, directory: Path) -> int:
        """Count the tokens in what was made, or in what there is of it by now."""
        return self.count_tokens(directory) if self.count_tokens else 0


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
            count_tokens=unit.count_tokens,
        )

    def _named(self, needs: tuple[Unit | Given, ...]) -> tuple[str | Given, ...]:
        return tuple(each if isinstance(each, Given) else self.of(each) for each in needs)


_SENT: set[tuple[Remote, str]] = set()
"What this process knows to be where the store is."


@dataclass(frozen=True, slots=True)
class UnitCache:
    """The units of a store."""

    store: Store

    def directory(self, key: str) -> Path:
        """Return where the unit of this key is or would be."""
        return self.store.root / _name(key)

    def find(self, key: str) -> Path | None:
        """Return a unit that exists, every byte of it checked.

        One that is damaged is thrown away, which is said on stderr: it can be made again.

        Raises: StoreRefusedError, StoreUnreachableError.
        """
        directory = self.directory(key)
        mark_used(self.store.root, directory)
        try:
            if not self.store.fetch(_name(key), UNIT, partial(_check, key)):
                # Without its index it is nothing, and in the way.
                self._throw_away(directory)
                return None
            if not is_checked(directory):
                seen = lasting_stamp(directory)
                _check(key, directory)
                remember_checked(directory, seen)
        except (ArtefactDamagedError, EvidenceError) as damage:
            say(f"  damaged, will be made again: {damage}")
            self._throw_away(directory)
            return None
        self._send(key)
        return directory

    def exists(self, key: str) -> bool:
        """Tell whether a unit exists, here or else where the store is; it is not fetched.

        Raises: StoreRefusedError, StoreUnreachableError.
        """
        if self.directory(key).is_dir() and self.find(key):
            return True
        return bool(self.store.remote and self.store.remote.has(f"{_name(key)}/{UNIT}"))

    def make(self, job: UnitJob) -> Path:
        """Make a unit that does not exist yet; return its directory.

        Raises: UnsharedStoreError if what it needs is not there, and what the unit raises.
        """
        if found := self.find(job.key):
            return found
        needs = [self._needed(each) for each in (*job.inputs, *job.aside)]
        with self.store.building(f"{BUILD}{job.key[:SHORT]}") as directory:
            job.make(directory, *needs)
            self._commit(directory, job)
        return self.directory(job.key)

    def under_way(self) -> Iterator[tuple[str, Path]]:
        """Yield the directories in which units are being made, each with how its key begins."""
        for directory in self.store.builds(BUILD):
            yield directory.name.partition(BUILD)[2][:SHORT], directory

    def _commit(self, directory: Path, job: UnitJob) -> None:
        inputs = [each.name if isinstance(each, Given) else each for each in job.inputs]
        record = {
            "schema": SCHEMA,
            "recipe": job.recipe,
            "inputs": inputs,
            "files": entries(directory),
        }
        (directory / UNIT).write_bytes(pretty(record))
        seen = lasting_stamp(directory)
        if move_into_place(directory, self.directory(job.key)):
            remember_checked(self.directory(job.key), seen)
        self._send(job.key)

    def _send(self, key: str) -> None:
        """Let the other machines have a unit; asks once in the life of this process."""
        if self.store.remote and (self.store.remote, key) not in _SENT:
            self.store.send(_name(key), UNIT)
            _SENT.add((self.store.remote, key))

    def _needed(self, need: str | Given) -> Path:
        if isinstance(need, str):
            if found := self.find(need):
                return found
            raise UnsharedStoreError(f"unit {need[:12]}", self.directory(need))
        if need.directory.is_dir():
            return need.directory
        if need.name.partition(":")[0] in REF_TYPES:
            return self.store.open(parse_ref(need.name)).directory
        raise UnsharedStoreError(f"directory of {need.name}", need.directory)

    def _throw_away(self, directory: Path) -> None:
        if not directory.is_dir():
            return
        aside = self.store.root / "tmp" / f"damaged-{uuid.uuid4().hex}"
        aside.parent.mkdir(exist_ok=True)
        directory.rename(aside)
        shutil.rmtree(aside)


def _name(key: str) -> str:
    return f"units/{key[:2]}/{key}"


def _check(key: str, directory: Path) -> None:
    """Hash a unit.

    Raises: ArtefactDamagedError, EvidenceError.
    """
    record: Any = read_object(directory / UNIT)
    found = digest({name: record.get(name) for name in ("recipe", "inputs")})
    if found != key:
        raise ArtefactDamagedError(directory / UNIT, f"key {found[:12]}", key[:12])
    listed = listed_files(record, directory / UNIT)
    for damage in differences(directory, listed, index=UNIT):
        raise damage
