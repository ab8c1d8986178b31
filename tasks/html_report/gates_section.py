"""Every gate of every stage, judged again while the page is written."""

from evidence.gates import Verdict
from tasks.html_report.facts import Facts
from tasks.html_report.figures import cited, number, planned, source
from tasks.html_report.markup import Child, Markup, table, tag
from tasks.html_report.plan_section import bound, margin
from tasks.html_report.section import Section, section

_TONES = {"pass": "good", "FAIL": "bad", "missed aim": "open"}
_COLUMNS = ("gate", "holds when", "bound", "measured", "margin", "verdict")


def gates_section(facts: Facts) -> Section | None:
    """Write a table of gates for each stage."""
    if not facts.stages:
        return None
    return section(
        "gates",
        "Gates",
        tag(
            "p", "Thresholds are from the plan; verdicts are computed again from the measurements."
        ),
        [_stage(facts, stage, verdicts) for stage, verdicts in facts.verdicts.items()],
    )


def _stage(facts: Facts, stage: str, verdicts: list[Verdict]) -> Markup:
    record = facts.stages[stage]
    if not verdicts:
        said = record["error"]["message"] if record["outcome"] == "failed" else "No gate."
        return tag("div", tag("h3", stage), tag("p", said), source(record))
    passed = sum(each.passed for each in verdicts)
    return tag(
        "details",
        tag("summary", tag("h3", stage), tag("span", f"{passed} of {len(verdicts)} hold")),
        table(
            _COLUMNS,
            [_row(stage, each) for each in sorted(verdicts, key=lambda each: each.passed)],
            caption=f"Gates of {stage}",
            class_="verdicts",
        ),
        source(record),
        open="" if passed < len(verdicts) else None,
    )


def _row(stage: str, verdict: Verdict) -> list[Child]:
    gate = verdict.gate
    return [
        gate.id,
        gate.sentence,
        bound(gate.operator, _threshold(verdict)),
        cited(verdict.value, f"{stage}.{gate.measured}"),
        margin(verdict.value, gate.operator, verdict.threshold),
        tag("span", verdict.word, class_=f"pill {_TONES[verdict.word]}"),
    ]


def _threshold(verdict: Verdict) -> str:
    """Write what was planned as it was planned, and what was measured like a measurement."""
    name = verdict.gate.threshold
    is_measured = isinstance(name, str) and not name.startswith("thresholds.")
    return number(verdict.threshold) if is_measured else planned(verdict.threshold)
