"""Units made one after the other in this process, and a list of those that had to be made."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from data.units import Given, Unit


class InlineUnits:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.made: list[str] = []

    def __call__(self, what: str, units: Sequence[Unit]) -> list[Path]:
        assert what
        return [self.directory(unit) for unit in units]

    def somewhere(self, what: str, units: Sequence[Unit]) -> None:
        self(what, units)

    def directory(self, unit: Unit) -> Path:
        directory = self.root / self.key(unit)
        if not directory.is_dir():
            needs = [self._given(need) for need in (*unit.inputs, *unit.aside)]
            partial = directory.with_suffix(".partial")
            partial.mkdir(parents=True)
            unit.make(partial, *needs)
            partial.rename(directory)
            self.made.append(unit.label)
        return directory

    def key(self, unit: Unit) -> str:
        inputs = [need.name if isinstance(need, Given) else self.key(need) for need in unit.inputs]
        text = json.dumps([unit.recipe, inputs], sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    def _given(self, need: Unit | Given) -> Path:
        return need.directory if isinstance(need, Given) else self.directory(need)
