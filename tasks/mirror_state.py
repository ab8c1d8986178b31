"""What MLflow has of each run, remembered so that a pass sends only what is missing."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tasks import places
from tasks.logins import without_login
from tasks.run_record import Run


@dataclass(slots=True)
class Sent:
    """What MLflow has of a run."""

    run: str
    uri: str
    experiment_id: str = ""
    run_id: str = ""
    has_params: bool = False
    model_id: str = ""
    stage_run_ids: dict[str, str] = field(default_factory=dict)
    finished_stages: list[str] = field(default_factory=list)
    last_step: int = 0
    last_epoch: int = -1
    last_sample: int = 0
    complete: bool = False

    @classmethod
    def load(cls, run: Run, uri: str) -> "Sent":
        """Read what was sent to this server before, or begin."""
        path, uri = _path(run.name), without_login(uri)
        known = cls(**json.loads(path.read_text())) if path.is_file() else cls(run.name, uri)
        return known if known.uri == uri else cls(run.name, uri)

    def save(self) -> None:
        """Remember what was sent."""
        path = _path(self.run)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self)))
        partial.replace(path)


def _path(name: str) -> Path:
    return places.home() / "mirror" / f"{name}.json"
