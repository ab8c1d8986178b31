"""Write the page of the faults anew, or replay them all and say how many were stopped."""

import sys

import pytest

from tests.faults.catalogue import ABSENT, FAULTS, PAGE, page


def replay() -> int:
    """Replay every fault, and what it is without the fault; print the count."""
    status = pytest.main(["-q", str(PAGE.parent)])
    if status == pytest.ExitCode.OK:
        numbers = len({fault.number[:3] for fault in FAULTS})
        print(
            f"{numbers} failures of the reference in {len(FAULTS)} variants: all stopped where "
            f"{PAGE.name} says; {len(ABSENT)} cannot happen here"
        )
    return int(status)


if sys.argv[1:] == ["replay"]:
    sys.exit(replay())
PAGE.write_text(page())
