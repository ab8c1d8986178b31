"""What a verification checked, and what does not hold."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from evidence.errors import EvidenceError

State = Literal["ended", "goes on", "killed"]


@dataclass(slots=True)
class Report:
    """What was checked and what does not hold."""

    subject: str
    num_checks: int
    failures: list[str]
    notes: list[str] = field(default_factory=list)
    "What could not be checked here, and is no failure."
    state: State = "ended"
    "Whether there is a whole run to check."

    def check(self, *, holds: bool, failure: str) -> None:
        """Count a check and keep its failure."""
        self.num_checks += 1
        if not holds:
            self.failures.append(failure)

    def compare(self, where: str, key: str, found: object, said: object) -> None:
        """Check that a record says what was found."""
        self.check(holds=same(found, said), failure=f"{where}: {key} is {found}, says {said}")

    @contextmanager
    def surviving(self, name: str) -> Iterator[None]:
        """Keep as a failure whatever a sealed record that is no record makes of the checks."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  # somebody's evidence may hold anything
            known = isinstance(error, EvidenceError)
            kind = f"{name}: cannot be checked: {type(error).__name__}: "
            said = str(error) if known else f"{kind}{error}"
            if said not in self.failures:
                self.check(holds=False, failure=said)


def same(found: object, said: object) -> bool:
    """Compare numbers up to the rounding of a sum in another order, everything else exactly."""
    if isinstance(found, float) and isinstance(said, float | int):
        return math.isclose(found, said, rel_tol=1e-12, abs_tol=1e-15)
    return found == said
