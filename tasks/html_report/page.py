"""The page: sections in the order in which a reader asks."""

from pathlib import Path

from tasks.html_report.bisect_section import bisect_section
from tasks.html_report.data_section import data_section
from tasks.html_report.environment_section import environment_section, records_section
from tasks.html_report.evaluation_section import evaluation_section
from tasks.html_report.facts import read_facts
from tasks.html_report.gates_section import gates_section
from tasks.html_report.lineage import lineage_section
from tasks.html_report.markup import Markup, raw, tag
from tasks.html_report.plan_section import plan_section
from tasks.html_report.training_section import training_section
from tasks.html_report.verdict import head
from tasks.run_record import Run

STYLE = Path(__file__).with_name("style.css")
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""Nothing is loaded and nothing runs, whatever a record says."""
FOOT = "A number shows its exact value, and where it was read, to whoever hovers over it."
_SECTIONS = (
    plan_section,
    training_section,
    data_section,
    evaluation_section,
    gates_section,
    lineage_section,
    bisect_section,
    environment_section,
    records_section,
)


def report_page(run: Run) -> str:
    """Write a run's page; the same records give the same bytes.

    Raises: BrokenSealError, MalformedJsonError if the plan is damaged.
    """
    facts = read_facts(run)
    sections = [each for make in _SECTIONS if (each := make(facts)) is not None]
    contents = tag("ul", [tag("li", each.link) for each in sections])
    main = tag(
        "main",
        head(facts),
        tag("nav", contents, aria_label="Sections"),
        [each.body for each in sections],
        tag("footer", tag("p", FOOT)),
    )
    return f"<!doctype html>\n{tag('html', _head(run.name), tag('body', main), lang='en')}\n"


def _head(name: str) -> Markup:
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{name}: assay run report"),
        tag("style", raw(STYLE.read_text(encoding="utf-8"))),
    )
