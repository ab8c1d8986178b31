"""The table that says which recipe made which artefact: one small file a recipe."""

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict  # before 3.12

from evidence.canonical import dumps, loads
from evidence.errors import WrongRefError, WrongShapeError
from evidence.records import Recipe
from evidence.refs import Ref, parse_ref
from tasks.in_use import sharing
from tasks.remote import Remote


class RecipeEntry(TypedDict):
    """A recipe as the table has it."""

    stage: str
    version: int
    settings: dict[str, Any]
    inputs: dict[str, str]


class Entry(TypedDict):
    """What the table says of a recipe."""

    ref: str
    run: str
    recipe: RecipeEntry
    observed: NotRequired[dict[str, Any]]


_ENTRY = TypeAdapter(Entry)


@dataclass(frozen=True, slots=True)
class Made:
    """A recipe that has been made: its artefact, and the run whose record says so."""

    ref: Ref
    run: str
    recipe: Mapping[str, Any]
    observed: Mapping[str, Any] = field(default_factory=dict)
    "What was seen of the machine and the moment while it was made; no part of the artefact."


@dataclass(frozen=True, slots=True)
class Recipes:
    """The table of a store; of one that is elsewhere, what is here is a copy."""

    root: Path
    remote: Remote | None

    def find(self, recipe: Recipe) -> Made | None:
        """Return what a recipe has made, here or elsewhere.

        Raises: StoreRefusedError, StoreUnreachableError.
        """
        path = self.root / _name(recipe)
        if path.is_file():
            content: bytes | None = path.read_bytes()
        else:
            content = self.remote.read(_name(recipe)) if self.remote else None
        if content is None:
            return None
        return _made(content, _name(recipe))

    def of_stage(self, stage: str) -> list[Made]:
        """List what recipes of a stage have made or used here, the newest first."""
        paths = list((self.root / "recipes").glob("*/*.json"))
        found = []
        for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True):
            made = _made(path.read_bytes(), str(path))
            if made.recipe["stage"] == stage:
                found.append(made)
        return found

    def making(self, ref: Ref) -> Made | None:
        """Return how an artefact was made, if it was made or used here."""
        for path in sorted((self.root / "recipes").glob("*/*.json")):
            made = _made(path.read_bytes(), str(path))
            if made.ref == ref:
                return made
        return None

    def enter(self, recipe: Recipe, ref: Ref, run: str, observed: Mapping[str, Any]) -> None:
        """Enter what a recipe has made, here."""
        path = self.root / _name(recipe)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{uuid.uuid4().hex}.partial")
        entry = {"recipe": recipe.as_record(), "ref": str(ref), "run": run}
        with partial.open("wb") as file:
            file.write(dumps({**entry, **({"observed": observed} if observed else {})}))
            file.flush()
            # Else a machine that loses its power may keep the name without the content.
            os.fsync(file.fileno())
        with sharing(self.root):
            partial.replace(path)

    def send(self, recipe: Recipe) -> None:
        """Let others have an entry that they do not have.

        Raises: StoreRefusedError, StoreUnreachableError.
        """
        if self.remote and not self.remote.has(_name(recipe)):
            self.remote.write(_name(recipe), (self.root / _name(recipe)).read_bytes())


def read_entry(content: bytes, where: str) -> Entry:
    """Read an entry of the table.

    Raises: MalformedJsonError, WrongShapeError.
    """
    hint = "delete this entry of the store: the stage then runs again"
    try:
        entry = _ENTRY.validate_python(loads(content, where), strict=True)
        parse_ref(entry["ref"])
    except ValidationError as error:
        first = error.errors()[0]
        fault = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise WrongShapeError(where, fault, hint) from None
    except WrongRefError as error:
        raise WrongShapeError(where, str(error), hint) from None
    return entry


def _made(content: bytes, where: str) -> Made:
    entry = read_entry(content, where)
    observed = entry.get("observed", {})
    return Made(parse_ref(entry["ref"]), entry["run"], entry["recipe"], observed)


def _name(recipe: Recipe) -> str:
    return f"recipes/{recipe.digest[:2]}/{recipe.digest}.json"
