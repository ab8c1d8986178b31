"""The head of the page: how the run ended, where nobody overlooks it, and its main figures."""

import datetime
from collections import Counter
from dataclasses import dataclass

from evidence.records import RUN_RECORD, STAGES
from tasks.acceptance import MET, NOT_MEASURED, NOT_MET
from tasks.html_report.bisect_section import NO_FAULT, read_bisection
from tasks.html_report.facts import Facts
from tasks.html_report.figures import (
    cited,
    digest,
    duration,
    measured,
    number,
    percent,
    reach,
    scaled,
    share,
    value_of,
)
from tasks.html_report.markup import Child, Markup, tag
from tasks.html_report.plan_section import judged_plan

GOOD, BAD, OPEN = "good", "bad", "open"
_SIGNS = {GOOD: "\N{CHECK MARK}", BAD: "\N{BALLOT X}", OPEN: "\N{HORIZONTAL ELLIPSIS}"}


@dataclass(frozen=True, slots=True)
class Headline:
    """A word for the whole run, its tone, and why."""

    tone: str
    word: str
    why: str


def headline(facts: Facts) -> Headline:
    """Judge the run as a whole: what is wrong with the evidence comes before what it says."""
    failed = facts.failed()
    if facts.faults:
        count = len(facts.faults)
        return Headline(BAD, "Damaged", f"{count} of its files are not what was recorded.")
    if facts.record is None:
        done = f"{len(facts.stages)} stages have ended" if facts.stages else "no stage has ended"
        why = f"There is no {RUN_RECORD}: the run goes on, or it was killed; {done}."
        return Headline(OPEN, "Unfinished", why)
    if facts.record["outcome"] != "completed":
        why = str(facts.record["error"] or "No reason is recorded.")
        return Headline(BAD, str(facts.record["outcome"]).capitalize(), why)
    if found := read_bisection(facts):
        tone = GOOD if found["verdict"] == NO_FAULT else BAD
        why = f"{len(found['faults'])} of {len(found['local'])} operations depart by themselves."
        return Headline(tone, str(found["verdict"]).capitalize(), why)
    if failed:
        return Headline(BAD, "Gates failed", "; ".join(each.gate.sentence for each in failed))
    return Headline(GOOD, "Completed", _passes(facts))


def _passes(facts: Facts) -> str:
    verdicts = [each for found in facts.verdicts.values() for each in found]
    required = [each for each in verdicts if each.gate.required]
    missed = [each.gate.sentence for each in verdicts if not each.passed]
    aims = f" Aims missed, which stop nothing: {'; '.join(missed)}." if missed else ""
    if not required:
        return f"No gate was asked.{aims}"
    return f"All {len(required)} required gates hold.{aims}"


def head(facts: Facts) -> Markup:
    """Write the head: name, verdict, figures."""
    found = headline(facts)
    return tag(
        "header",
        tag("p", "assay run report", class_="brand"),
        tag("h1", facts.run.name),
        tag("p", _when(facts), class_="when"),
        tag(
            "div",
            tag(
                "p", tag("span", _SIGNS[found.tone], aria_hidden="true"), found.word, class_="word"
            ),
            tag("p", found.why),
            _shipping(facts),
            _faults(facts),
            _missing_stages(facts),
            class_=f"verdict {found.tone}",
            role="status",
        ),
        _tiles(facts),
    )


def _when(facts: Facts) -> list[Child]:
    request = facts.plan["request"]
    commit = facts.plan["provenance"].get("git_commit")
    parts: list[Child] = [
        str(request.get("flow", "a run")),
        f", preset {request['preset']}" if "preset" in request else "",
        f", started {facts.plan['started'][:16].replace('T', ' ')} UTC",
    ]
    if facts.record:
        ends = (facts.record["finished"], facts.record["started"])
        end, start = (datetime.datetime.fromisoformat(each) for each in ends)
        parts.append(f", took {duration((end - start).total_seconds())}")
    return [*parts, ", commit ", digest(commit)]


def _shipping(facts: Facts) -> Markup | None:
    """Say whether the model may be shipped: a run may complete and its model be no good."""
    if facts.record is None or not facts.stages or not (judged := judged_plan(facts)):
        return None
    counts = Counter(each.verdict for each in judged)
    if counts[MET] == len(judged):
        return tag("p", tag("strong", "May be shipped: "), f"all {len(judged)} conditions are met.")
    said = f"{counts[NOT_MET]} of {len(judged)} conditions are not met, "
    said += f"{counts[NOT_MEASURED]} were not measured."
    return tag("p", tag("strong", "Not to be shipped: "), said)


def _faults(facts: Facts) -> Markup | None:
    return tag("ul", [tag("li", each) for each in facts.faults]) if facts.faults else None


def _missing_stages(facts: Facts) -> Markup | None:
    """Say of which stages the run consists, where these are not all."""
    missing = [stage for stage in STAGES if stage not in facts.stages]
    if not missing or not facts.stages:
        return None
    failed = [stage for stage, record in facts.stages.items() if record["outcome"] == "failed"]
    why = f"; {', '.join(failed)} failed" if failed else ""
    return tag("p", tag("strong", "Partial: "), f"no record of {', '.join(missing)}{why}.")


def _tiles(facts: Facts) -> Markup | None:
    tiles = [*_loss_tiles(facts), *_training_tiles(facts)]
    return tag("dl", tiles, class_="tiles") if tiles else None


def _loss_tiles(facts: Facts) -> list[Markup]:
    evaluate = facts.stages.get("evaluate")
    loss = value_of(evaluate, "val_loss")
    if evaluate is None or loss is None:
        return []
    error = value_of(evaluate, "val_loss_standard_error")
    around = f" {reach(error)}" if error is not None else ""
    five, beats = value_of(evaluate, "five_gram_nats"), value_of(evaluate, "loss_to_five_gram")
    against = f"{'below' if beats < 1 else 'above'} the 5-gram" if beats is not None else ""
    tiles = [
        _tile("validation loss", measured(evaluate, "val_loss"), f"{around} nats a token".strip()),
        _tile("bits a byte", measured(evaluate, "val_bits_per_byte"), "on held-out code"),
    ]
    if five is not None and beats is not None:
        tiles.append(_tile(against, _share_off(beats), f"of {number(five)} nats"))
    if value_of(evaluate, "humaneval_pass_at_1") is not None:
        problems = number(value_of(evaluate, "humaneval_problems"))
        tiles.append(
            _tile("pass@1", percent(evaluate, "humaneval_pass_at_1"), f"of {problems} problems")
        )
    return tiles


def _share_off(ratio: float) -> Markup:
    """Write by how much a ratio is off one, citing the ratio."""
    return cited(ratio, "evaluate.loss_to_five_gram", share(abs(ratio - 1)))


def _training_tiles(facts: Facts) -> list[Markup]:
    train, sealed = facts.stages.get("train"), facts.stages.get("checkpoint")
    tiles = []
    is_scored = value_of(facts.stages.get("evaluate"), "val_loss") is not None
    if not is_scored and value_of(train, "best_val_loss") is not None:
        shown = measured(train, "best_val_loss")
        tiles.append(_tile("best validation loss", shown, "nats a token, in training"))
    if (tokens := value_of(train, "tokens_seen")) is not None:
        each = number(value_of(train, "tokens_per_parameter"))
        shown = measured(train, "tokens_seen", scaled(tokens))
        tiles.append(_tile("tokens seen", shown, f"{each} a parameter"))
    if (speed := value_of(train, "tokens_per_second")) is not None:
        shown = measured(train, "tokens_per_second", scaled(speed))
        tiles.append(_tile("tokens a second", shown, "in training"))
    if (count := value_of(sealed, "parameters")) is not None:
        shown = measured(sealed, "parameters", scaled(count))
        tiles.append(_tile("parameters", shown, "sealed"))
    return tiles


def _tile(name: str, value: Markup, scope: str) -> Markup:
    return tag("div", tag("dt", name), tag("dd", value, class_="figure"), tag("dd", scope))
