"""Where it ran and with what; every setting; and the records that the page was read from."""

from collections.abc import Mapping
from typing import Any

from evidence.records import RUN_RECORD, SEAL, flatten, stage_file
from tasks.html_report.facts import Facts, output_of
from tasks.html_report.figures import Record, digest, duration, size
from tasks.html_report.markup import Child, Markup, table, tag
from tasks.html_report.section import Section, section
from tasks.run_record import PLAN
from tasks.sealed_files import UNREADABLE, sealed_file, why_absent
from tasks.training_log import read_lines

STARTS = "starts.jsonl"
_START_FIELDS = {
    "device_name": "device",
    "num_ranks": "ranks",
    "parallelism": "parallelism",
    "compiled": "compiled",
    "deterministic": "deterministic",
    "num_threads": "threads",
}
_DIGESTS = {"git_commit", "git_dirty_sha256", "lock_sha256"}


def environment_section(facts: Facts) -> Section:
    """Write the provenance of the plan, and where a stage's differs."""
    planned = flatten(facts.plan["provenance"])
    rows: list[list[Child]] = [[name, _value(name, value)] for name, value in planned.items()]
    return section(
        "environment",
        "Environment",
        tag("div", table(("what", "value"), rows, caption="As planned"), class_="facts"),
        _differences(facts, planned),
        _starts(facts),
        _settings(facts),
    )


def _value(name: str, value: object) -> Child:
    if name in _DIGESTS:
        return (
            digest(value) if isinstance(value, str) else "clean" if "dirty" in name else "unknown"
        )
    if name == "memory_bytes" and isinstance(value, int):
        return size(value)
    return "none" if value in (None, []) else str(value)


def _differences(facts: Facts, planned: Mapping[str, object]) -> Markup | None:
    """Say where a stage ran elsewhere than was planned."""
    rows: list[list[Child]] = [
        [stage, name, str(flatten(record["provenance"]).get(name)), str(planned.get(name))]
        for stage, record in facts.stages.items()
        for name in sorted(planned.keys() | flatten(record["provenance"]).keys())
        if flatten(record["provenance"]).get(name) != planned.get(name)
    ]
    if not rows:
        return None
    columns = ("stage", "what", "there", "planned")
    return table(columns, rows, caption="Stages whose environment was another")


def _starts(facts: Facts) -> Markup | None:
    """Say on what the training ran, each time that it was started."""
    ref = output_of(facts, "train")
    if ref is None:
        return None
    try:
        starts = read_lines(sealed_file(ref, STARTS))
    except UNREADABLE as error:
        said = f"Where {ref.short} ran is not shown: {why_absent(error)}."
        return tag("p", said, class_="warning")
    rows: list[list[Child]] = [
        [str(start["step"]), *(_text(start.get(name, "")) for name in _START_FIELDS)]
        for start in starts
    ]
    columns = ("from step", *_START_FIELDS.values())
    return table(columns, rows, caption=f"Starts of the training, from {STARTS} of {ref.short}")


def _settings(facts: Facts) -> Markup:
    settings = {**facts.settings, "runtime": facts.plan["request"].get("runtime", {})}
    flat = flatten(settings)
    changed = facts.plan["request"].get("overrides", [])
    return tag(
        "details",
        tag("summary", tag("h3", "Settings"), tag("span", f"{len(flat)}, {len(changed)} changed")),
        tag("ul", [tag("li", tag("code", each)) for each in changed]) if changed else None,
        table(
            ("setting", "value"),
            [[tag("code", key), tag("code", _text(value))] for key, value in flat.items()],
            caption="All settings of the plan",
        ),
    )


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def records_section(facts: Facts) -> Section:
    """Write the records that the page cites, and how a reader checks them."""
    rows: list[list[Child]] = [_record_row("plan", PLAN, facts.plan)]
    rows += [
        _record_row(stage, stage_file(stage), record) for stage, record in facts.stages.items()
    ]
    if facts.record is not None:
        rows.append(_record_row("run", RUN_RECORD, facts.record))
    return section(
        "records",
        "Records",
        tag("p", _checked(facts)),
        tag("p", "To compute all of it again: ", tag("code", f"assay verify {facts.run.name}")),
        table(
            ("record", "outcome", "time", "its own sha256"),
            rows,
            caption="Records",
            class_="records",
        ),
        _files(facts),
        _parent(facts.record),
    )


def _record_row(name: str, file: str, record: Record) -> list[Child]:
    time = record.get("wall_seconds")
    return [
        tag("span", file, id=f"record-{name}"),
        str(record.get("outcome", "written before the run" if file == PLAN else "")),
        duration(time) if time is not None else "",
        tag("code", str(record[SEAL]), class_="whole-digest"),
    ]


def _checked(facts: Facts) -> str:
    if facts.faults:
        return f"{len(facts.faults)} faults were found while this page was written; see its head."
    if facts.record is None:
        return "Each record carries its own digest. No record of the run lists the files yet."
    count = len(facts.record["files"])
    return f"Each record carries its own digest, and {count} files are what the run's record lists."


def _files(facts: Facts) -> Markup:
    rows: list[list[Child]] = [
        [name, tag("code", sha256, class_="whole-digest")] for name, sha256 in facts.files.items()
    ]
    return tag(
        "details",
        tag("summary", tag("h3", "Files"), tag("span", f"{len(rows)} in the evidence")),
        table(("file", "sha256"), rows, caption="Files of the evidence", class_="records"),
    )


def _parent(record: Mapping[str, Any] | None) -> Markup | None:
    if record is None:
        return None
    parent = record.get("parent")
    return tag("p", "The record before it in the chain: ", digest(parent) if parent else "none")
