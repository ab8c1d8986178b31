"""All faults, in the order of their numbers, and the failures that nothing here can have."""

from pathlib import Path

from tests.faults import data_faults, model_faults, result_faults
from tests.faults.lab import Absent, Fault, table
from tests.faults.loop_faults import FAULTS as COLLECTED

# Importing the modules entered their faults.
assert all((data_faults, model_faults, result_faults))
FAULTS: tuple[Fault, ...] = tuple(sorted(COLLECTED, key=lambda fault: fault.number))
ABSENT = (
    Absent(
        "F33",
        "a dry run downloads, and a listing ends at 1,000 files",
        "`--dry-run` fetched everything; pages after the first were never asked for",
        "no command has a dry run; what is read is listed by huggingface_hub, page by page, and "
        "pinned by revision",
    ),
    Absent(
        "F57",
        "distillation from made-up logits, then from the student itself",
        "30 hours of training with teacher and student the same file",
        "nothing here distils: a loss has one source, the tokens of the rows",
    ),
    Absent(
        "F59",
        "a build option that is never built in CI",
        "11 failures hidden behind a feature flag",
        "there are no build options; what an extra package is for says so when it is missing "
        "(exit code 9)",
    ),
)
PAGE = Path(__file__).parent / "README.md"


def page() -> str:
    """Write the page."""
    return table(FAULTS, ABSENT)
