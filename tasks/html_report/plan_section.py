"""Plan against result: every bound that was written down before the run, and what came of it."""

from collections import Counter

from evidence.errors import EvidenceError
from tasks.acceptance import (
    CRITERIA,
    GATES,
    MET,
    NOT_MEASURED,
    NOT_MET,
    Judged,
    judge_criteria,
)
from tasks.html_report.facts import Facts, plan_name
from tasks.html_report.figures import cited, digest, number, planned, source
from tasks.html_report.markup import Child, Markup, table, tag
from tasks.html_report.section import Section, section
from tasks.schemas import require_shapes

_TONES = {MET: "good", NOT_MEASURED: "open"}


def judged_plan(facts: Facts) -> list[Judged]:
    """Judge the criteria of acceptance, failed ones first; none if none can be judged."""
    if "acceptance" not in facts.settings:
        return []
    try:
        require_shapes(facts.run)
        judged = judge_criteria(facts.run, (*CRITERIA, *GATES))
    except EvidenceError:
        # A damaged record: the head of the page names it, and nothing is judged by the others.
        return []
    worst: dict[str, int] = {}
    for each in judged:
        place = (NOT_MET, NOT_MEASURED, MET).index(each.verdict)
        worst[each.id] = min(place, worst.get(each.id, place))
    # The conditions of one criterion are parts of one sentence.
    return sorted(judged, key=lambda each: (worst[each.id], each.id))


def plan_section(facts: Facts) -> Section | None:
    """Write the criteria of acceptance with bound, value, margin and verdict."""
    found = judged_plan(facts)
    if not found:
        return _not_judged(facts)
    counts = Counter(each.verdict for each in found)
    said = (
        f"{counts[MET]} of {len(found)} conditions are met, {counts[NOT_MET]} are not, "
        f"{counts[NOT_MEASURED]} were not measured. They say what may be shipped, and stop no run."
    )
    return section(
        "plan",
        "Plan against result",
        tag("p", said),
        _table(found),
        source(
            None,
            tag("a", plan_name(facts), href="#record-plan"),
            ["settings ", digest(facts.plan["settings_sha256"])],
            "and from the records that the rows name",
        ),
    )


def _not_judged(facts: Facts) -> Section | None:
    if "acceptance" not in facts.settings:
        return None
    why = "Nothing is judged by damaged records; the head of this page names them."
    return section("plan", "Plan against result", tag("p", why, class_="warning"))


def _table(found: list[Judged]) -> Markup:
    columns = ("criterion", "condition", "bound", "result", "margin", "verdict", "record")
    return table(columns, [_row(each) for each in found], caption="Acceptance", class_="verdicts")


def _row(each: Judged) -> list[Child]:
    return [
        each.id,
        each.sentence,
        bound(each.operator, planned(each.threshold)),
        cited(each.value, each.measured),
        margin(each.value, each.operator, each.threshold),
        tag("span", each.verdict, class_=f"pill {_TONES.get(each.verdict, 'bad')}"),
        _record(each.record),
    ]


def _record(text: str) -> Markup:
    """Lead to the record that holds the value; some follow from several."""
    stage, _, seal = text.partition(" ")
    if not stage:
        return tag("span", "none", class_="absent")
    return tag("span", tag("a", stage, href=f"#record-{stage}"), " ", tag("code", seal))


def bound(operator: str, shown: str) -> Markup:
    """Write a bound as people read it."""
    words = {"<=": "at most", ">=": "at least", "==": "exactly", "<": "below", ">": "above"}
    return tag("span", f"{words[operator]} ", tag("span", shown, class_="unbroken"))


def margin(value: float | None, operator: str, threshold: float | None) -> str:
    """Say by how much a value is on the right side of its bound, or on the wrong one."""
    if value is None or threshold is None:
        return "none"
    if operator == "==":
        return "exact" if value == threshold else f"off by {number(abs(value - threshold))}"
    room = threshold - value if operator in ("<", "<=") else value - threshold
    part = f" ({abs(room / threshold):.0%})" if threshold and abs(room / threshold) < 10 else ""
    return f"{'' if room >= 0 else MINUS}{number(abs(room))}{part}"


MINUS = "\N{MINUS SIGN}"
