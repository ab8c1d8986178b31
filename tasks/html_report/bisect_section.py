"""Where two models part: the sealed model and the trained one, or the two that somebody named."""

from collections.abc import Mapping
from typing import Any

from evidence.canonical import read_object
from evidence.errors import EvidenceError
from tasks.html_report.facts import Facts, output_of
from tasks.html_report.figures import cited, digest, measured, number, source
from tasks.html_report.heat_map import heat_map, key_of, outside_layers, shade_of
from tasks.html_report.markup import Child, Markup, table, tag
from tasks.html_report.section import Section, section
from tasks.sealed_files import UNREADABLE, sealed_file, why_absent

TRACE, BISECTION, TEXT = "trace.json", "bisection.json", "bisection.txt"
NO_FAULT = "no fault"
_LEAST_ERROR, _GREATEST_ERROR = 1e-8, 1.0
_FLOORS = (1e-2, 1e3)


def bisect_section(facts: Facts) -> Section | None:
    """Write what bisecting found, with a heat map over layers and operations."""
    if found := read_bisection(facts):
        return _two_models(facts, found)
    record = facts.stages.get("bisect")
    if record is None:
        return None
    return section(
        "bisect",
        "Bisect",
        _sentence(record),
        _traced(facts),
        source(record),
    )


def _sentence(record: Mapping[str, Any]) -> Markup:
    if not record["measurements"]:
        return tag("p", f"Bisecting failed: {record['error']['message']}", class_="warning")
    return tag(
        "p",
        measured(record, "sites"),
        " operations of ",
        measured(record, "sides"),
        " sealed files, on ",
        measured(record, "tokens"),
        " tokens, against the trained model: ",
        measured(record, "differing_sites"),
        " differ; the largest relative L2 error is ",
        measured(record, "largest_relative_error"),
        "; the first that differs: ",
        measured(record, "first_differing_site"),
        ".",
    )


def _traced(facts: Facts) -> list[Child] | Markup:
    ref = output_of(facts, "bisect")
    if ref is None:
        return []
    try:
        found: Any = read_object(sealed_file(ref, TRACE))
    except UNREADABLE as error:
        why = f"The operations of {ref.short} are not shown: {why_absent(error)}."
        return tag("p", why, class_="warning")
    errors = worst_errors(found["candidates"])
    stds = {tap["site"]: tap["statistics"]["std"] for tap in found["taps"]}
    return [
        _error_map(errors),
        _std_map(stds),
        tag("p", "Read from ", TRACE, " of ", digest(str(ref)), class_="source"),
    ]


def worst_errors(candidates: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the largest error of every site over all files; None where one is not a number."""
    worst: dict[str, float | None] = {}
    for sites in candidates.values():
        for each in sites:
            name, error = each["site"], each["relative_l2"]
            before = worst.get(name, 0.0)
            worst[name] = None if error is None or before is None else max(before, error)
    return worst


def _error_map(errors: Mapping[str, float | None]) -> list[Child]:
    return [
        heat_map(
            errors,
            shade_of(_LEAST_ERROR, _GREATEST_ERROR),
            _error_word,
            caption="Departure of the sealed files from the trained model, worst file",
        ),
        key_of(((0, "bit for bit equal"), (1, "1e-8"), (4, "1e-4"), (7, "1"), (8, "not finite"))),
        _others(errors, _error_word),
    ]


def _error_word(error: float | None) -> str:
    if error is None:
        return "not finite"
    return "equal, bit for bit" if error == 0 else f"relative L2 {error:.1e}"


def _std_map(stds: Mapping[str, float | None]) -> list[Child]:
    """Show how large activations are: a massive one is the model's own, and no fault by itself."""
    found = [value for value in stds.values() if value]
    if not found:
        return []
    low, high = min(found), max(found)
    return [
        heat_map(
            stds,
            shade_of(low, high),
            lambda value: f"std {number(value)}",
            caption="Standard deviation of every activation: a large one is no fault",
            is_alarm=False,
        ),
        key_of(((1, number(low)), (7, number(high))), is_alarm=False),
    ]


def _others(values: Mapping[str, float | None], word: Any) -> Markup:
    said = "; ".join(f"{site}: {word(value)}" for site, value in outside_layers(values).items())
    return tag("p", f"Outside the layers: {said}.", class_="note")


def read_bisection(facts: Facts) -> Mapping[str, Any] | None:
    """Return what comparing two models found; None in other runs, or where it is damaged."""
    path = facts.run.directory / BISECTION
    try:
        return read_object(path) if path.is_file() else None
    except EvidenceError:
        return None


def _two_models(facts: Facts, found: Mapping[str, Any]) -> Section:
    scope = f"on {found['num_positions']:,} tokens, at {len(found['local']):,} operations"
    return section(
        "bisect",
        "Bisect",
        tag("p", tag("strong", cited(found["verdict"], "bisection.verdict")), f", {scope}."),
        _sides(facts),
        _floor_map(found),
        _faults(found["faults"]),
        _in_words(facts),
        tag(
            "p",
            "Read from ",
            BISECTION,
            " ",
            digest(f"sha256:{facts.files[BISECTION]}"),
            class_="source",
        ),
    )


def _in_words(facts: Facts) -> Markup | None:
    path = facts.run.directory / TEXT
    if not path.is_file():
        return None
    words = tag("pre", path.read_text(encoding="utf-8"))
    return tag("details", tag("summary", tag("h3", "In words"), tag("span", TEXT)), words)


def _sides(facts: Facts) -> Markup:
    rows: list[list[Child]] = []
    for role in ("candidate", "reference"):
        side = facts.plan["request"].get(role, {})
        digests = side.get("sha256", {})
        shown = digests.items() if isinstance(digests, Mapping) else [("", str(digests))]
        rows.append(
            [
                role,
                str(side.get("name", "")),
                [[name, " ", digest(each), " "] for name, each in shown],
            ]
        )
    return table(("role", "model", "sha256"), rows, caption="The two models")


def _floor_map(found: Mapping[str, Any]) -> list[Child]:
    floors = found["floors"]
    ratios = {
        site: _over_floor(error["max_relative_l2"], floors.get(site.rpartition(".")[2]))
        for site, error in found["local"].items()
    }
    return [
        heat_map(
            ratios,
            shade_of(*_FLOORS),
            lambda ratio: "not finite" if ratio is None else f"{ratio:.2g} times the noise floor",
            caption="Local error of every operation over its noise floor",
        ),
        key_of(((0, "equal"), (1, "0.01"), (4, "3"), (7, "1,000 and more"), (8, "not finite"))),
    ]


def _over_floor(error: float | None, floor: float | None) -> float | None:
    if error is None or not floor:
        return error
    return error / floor


def _faults(faults: list[Mapping[str, Any]]) -> Markup | None:
    if not faults:
        return None
    rows: list[list[Child]] = [
        [
            each["error"]["site"],
            cited(each["error"]["max_relative_l2"], "bisection.faults"),
            number(each["floor"]),
            "; ".join(each["because"]) or "not known",
        ]
        for each in faults
    ]
    columns = ("operation", "local error", "noise floor", "because")
    return table(columns, rows, caption="Operations that depart by themselves, earliest first")
