"""Write the page of the faults anew, or replay them all and say how many were stopped."""

import subprocess
import sys

from tests.faults.catalogue import ABSENT, FAULTS, PAGE, page


def replay() -> int:
    """Replay every fault, and what it is without the fault; print the count."""
    # A process of its own: pytest rewrites modules before anything has imported them.
    status = subprocess.run([sys.executable, "-m", "pytest", "-q", PAGE.parent], check=False)
    if status.returncode == 0:
        numbers = len({fault.number[:3] for fault in FAULTS})
        print(
            f"{numbers} failures of the reference in {len(FAULTS)} variants: all stopped where "
            f"{PAGE.name} says; {len(ABSENT)} cannot happen here"
        )
    return status.returncode


if sys.argv[1:] == ["replay"]:
    sys.exit(replay())
PAGE.write_text(page())
