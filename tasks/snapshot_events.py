"""Tell Prefect of every epoch's snapshot, so that a deployment can evaluate it as it appears.

From the process that watches a training, never from the one that trains.
"""

from prefect.context import TaskRunContext
from prefect.events import emit_event

from tasks.run_record import Run
from tasks.shared_snapshots import SharedSnapshots

EVENT = "assay.snapshot"
"The event; its payload names the run and the snapshot."


class SnapshotEvents:
    """Emits an event for each snapshot that has not been told of.

    One that an earlier process left is told of again: whoever evaluated it finds what was made.
    """

    def __init__(self, run: Run, shared: SharedSnapshots) -> None:
        self._run, self._shared = run, shared
        self._told: set[str] = set()

    def look(self) -> None:
        """Tell of what is new; only a task has a server to tell."""
        if TaskRunContext.get() is None:
            return
        for snapshot in self._shared.ready():
            if snapshot.name not in self._told:
                self._told.add(snapshot.name)
                self._tell(snapshot.name)

    def _tell(self, snapshot: str) -> None:
        named = f"{self._run.name}.{snapshot}"
        emit_event(
            EVENT,
            resource={"prefect.resource.id": f"assay.snapshot.{named}"},
            payload={"run": self._run.name, "snapshot": snapshot},
        )
