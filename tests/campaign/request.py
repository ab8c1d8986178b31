"""What a lane is asked to do, as a file of plain values."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

STAGES = ("pretokenize", "shard", "train", "evaluate", "checkpoint", "bisect")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A run of the pipeline, or the verification of one that has ended."""

    home: str
    out: str
    "Where the answer goes."
    until: str = STAGES[-1]
    verify: bool = False
    changes: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    injection: str = ""
    "As `Injection.encoded` writes it."


def write_request(path: Path, request: Request) -> None:
    """Leave a request where a lane finds it."""
    path.write_text(json.dumps(asdict(request)))


def read_request(path: Path) -> Request:
    """Read a request."""
    values = json.loads(path.read_text())
    return Request(**{**values, "changes": tuple(values["changes"])})
