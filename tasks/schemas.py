"""Schemas of the evidence: made of the record types, published, and held to by verification.

`python -m tasks.schemas` writes `evidence/schemas/` anew.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from evidence.canonical import pretty
from evidence.errors import WrongShapeError
from evidence.records import RUN_RECORD, stage_file
from tasks import record_types as types
from tasks.places import PROJECT
from tasks.run_record import PLAN, Run

SCHEMAS = PROJECT / "evidence" / "schemas"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
TYPES: Mapping[str, Any] = {
    "plan": types.PlanRecord,
    "stage": types.StageRecord,
    "epoch": types.EpochRecord,
    "run": types.RunRecord,
    "preregistration": types.RegisteredPlan,
    "chain-line": types.ChainLine,
    "statement": types.Statement,
}
_ADAPTERS = {name: TypeAdapter(shape) for name, shape in TYPES.items()}


def schema_of(name: str) -> bytes:
    """Write the schema of a kind of record."""
    return pretty({"$schema": DIALECT, **_ADAPTERS[name].json_schema()})


def schema_fault(name: str, record: object) -> str | None:
    """Say where a record has not the shape of its kind; None if it has."""
    try:
        _ADAPTERS[name].validate_json(json.dumps(record), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        return f"{place or 'the record'} is not as the schema says: {first['msg']}"
    return None


def require_shape(name: str, record: object, where: Path) -> None:
    """Refuse a record that has not the shape of its kind.

    Raises: WrongShapeError.
    """
    if fault := schema_fault(name, record):
        raise WrongShapeError(str(where), fault)


def require_shapes(run: Run) -> None:
    """Refuse a run of which a record has not the shape of its kind.

    Raises: WrongShapeError, BrokenSealError, MalformedJsonError.
    """
    require_shape("plan", run.plan(), run.directory / PLAN)
    for stage, made in run.stage_records().items():
        require_shape("stage", made, run.directory / stage_file(stage))
    if record := run.record():
        require_shape("run", record, run.directory / RUN_RECORD)


def schema_path(name: str) -> Path:
    """Name the published schema of a kind of record."""
    return SCHEMAS / f"{name}.schema.json"


def main() -> int:
    """Write all schemas."""
    SCHEMAS.mkdir(exist_ok=True)
    for name in TYPES:
        schema_path(name).write_bytes(schema_of(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
