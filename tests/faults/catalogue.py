"""All faults, in the order of their numbers."""

from pathlib import Path

from tests.faults import model_faults
from tests.faults.lab import Fault, table
from tests.faults.loop_faults import FAULTS as COLLECTED

# Importing the module entered its faults.
assert model_faults
FAULTS: tuple[Fault, ...] = tuple(COLLECTED)
PAGE = Path(__file__).parent / "README.md"


def page() -> str:
    """Write the page."""
    return table(FAULTS)
