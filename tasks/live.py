"""Where a run's training directory is right now: it moves from `tmp/` into the store at its end.

Only viewers read this; no record depends on it.
"""

import json
from pathlib import Path

from tasks import places
from tasks.run_record import Run


def announce(run: Run, training: Path) -> None:
    """Say where the run's training directory is."""
    path = _path(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"training": str(training)}))


def training_directory(run: Run) -> Path | None:
    """Return where the run's training directory was last said to be."""
    path = _path(run)
    return Path(json.loads(path.read_text())["training"]) if path.is_file() else None


def _path(run: Run) -> Path:
    return places.home() / "live" / f"{run.name}.json"
