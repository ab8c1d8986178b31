"""What is computed, counted or claimed, against what it was computed from."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from evidence.audit_evidence import AuditedRun, Evidence, walk
from evidence.audit_rule import Rule, Seen, each_run, seen
from evidence.records import EPOCH_FIELDS

PERPLEXITY_ERROR = 1e-4
LARGEST_EXPONENT = 700
SPEED_FACTOR = 2.0
"Epochs are timed with or without validation; a wrong unit is farther off."
ROUNDING = 5e-4
"A summary rounds to three digits at worst."
SPIKE = 3.0
GAPS = ("gap", "val_train_gap", "val_minus_train", "generalization_gap", "generalisation_gap")
SPEEDS = ("tokens_per_second", "tokens_per_sec", "tok_per_sec", "tok_s")
UNIFORMS = ("uniform", "uniform_nats", "uniform_loss", "ln_vocab", "random_loss")

PROVENANCE: Mapping[str, tuple[str, ...]] = {
    "the code's commit": ("code",),
    "the seed": ("seed",),
    "a digest of the data": ("data",),
    "the schedule": ("steps", "peak_lr"),
    "the machine": ("machine",),
}


def perplexities(run: AuditedRun) -> Iterator[Seen]:
    """Find perplexities that are not the exponential of their loss."""
    for kind in ("train", "val"):
        for entry, loss in run.column(f"{kind}_loss"):
            found = entry.number(f"{kind}_ppl")
            if (
                found is None
                or abs(loss) > LARGEST_EXPONENT
                or _near(found, math.exp(loss), PERPLEXITY_ERROR)
            ):
                continue
            name = _confusion(found, loss)
            yield seen(entry, f"{kind}_ppl", f"{found:g}{name}", f"exp({loss:g})")


def _confusion(found: float, loss: float) -> str:
    """Name the wrong unit or sign that explains a perplexity."""
    if _near(found, 2.0**loss, PERPLEXITY_ERROR):
        return " = 2^loss, as if the loss were in bits"
    if _near(found, math.exp(-loss), PERPLEXITY_ERROR):
        return " = exp(-loss), with the wrong sign"
    return " = the loss itself" if _near(found, loss, PERPLEXITY_ERROR) else ""


def gaps(run: AuditedRun) -> Iterator[Seen]:
    """Find differences of validation and training that are not theirs."""
    for entry in run.epochs:
        train, val = entry.number("train_loss"), entry.number("val_loss")
        for name in GAPS:
            found = entry.number(name)
            if found is None or train is None or val is None or abs(found - val + train) < ROUNDING:
                continue
            turned = " with the sign turned" if abs(found + val - train) < ROUNDING else ""
            yield seen(entry, name, f"{found:g}{turned}", f"{val - train:.4g}: val - train")


def speeds(run: AuditedRun) -> Iterator[Seen]:
    """Find speeds that tokens and seconds do not give."""
    before = 0.0
    for entry, tokens in run.column("tokens_seen"):
        wall, made, before = entry.number("wall_seconds"), tokens - before, tokens
        for name in SPEEDS:
            found = entry.number(name)
            if found is None or not wall or wall <= 0 or made <= 0:
                continue
            ratio = found * wall / made
            if not 1 / SPEED_FACTOR < ratio < SPEED_FACTOR:
                yield seen(entry, name, f"{found:g}", f"{made / wall:.4g}: tokens by seconds")


def uniforms(run: AuditedRun) -> Iterator[Seen]:
    """Find losses of a uniform guess in another unit."""
    vocabulary = run.fact("vocabulary")
    if not vocabulary:
        return
    nats, bits = math.log(vocabulary), math.log2(vocabulary)
    for document in run.beside:
        for key, value in walk(document.values):
            if key in UNIFORMS and isinstance(value, int | float) and _near(value, bits, 1e-3):
                should = f"{nats:.4g} nats for {vocabulary:,.0f} tokens"
                yield Seen(document.file, key, f"{value:g}, which are bits", should)


def counters(run: AuditedRun) -> Iterator[Seen]:
    """Find counters that stand still or go back, and times that are none."""
    for name in ("epoch", "tokens_seen"):
        for (_, old), (entry, new) in pairwise(run.column(name)):
            if new <= old:
                yield seen(entry, name, f"{new:,.0f} after {old:,.0f}", "more than before")
    for name in ("wall_seconds", "grad_norm_max"):
        for entry, value in run.column(name):
            if value <= 0:
                yield seen(entry, name, f"{value:g}", "above zero")


def budgets(run: AuditedRun) -> Iterator[Seen]:
    """Find more steps than were asked for."""
    planned = run.fact("steps")
    batch, length = run.fact("batch"), run.fact("length")
    if not planned or not run.epochs:
        return
    last = run.epochs[-1]
    tokens, step = last.number("tokens_seen"), last.number("step")
    if step is None and tokens and batch and length:
        step = tokens / (batch * length)
    if step and step > planned:
        yield seen(last, "tokens_seen", f"that of {step:,.0f} steps", f"at most {planned:,.0f}")


def summaries(run: AuditedRun) -> Iterator[Seen]:
    """Find summaries that their own rows contradict."""
    losses = [loss for _, loss in run.column("val_loss")]
    if not losses:
        return
    due = {"final_val_loss": losses[-1], "best_val_loss": min(losses)}
    for document in run.beside[:1]:
        for key, value in walk(document.values):
            if key in due and isinstance(value, int | float) and abs(value - due[key]) > ROUNDING:
                yield Seen(document.file, key, f"{value:g}", f"{due[key]:g} by its rows")


def false_successes(run: AuditedRun) -> Iterator[Seen]:
    """Find runs that are called converged above their target."""
    target, losses = run.fact("target"), run.column("val_loss")
    if target is None or not losses:
        return
    best = min(loss for _, loss in losses)
    for document in run.beside:
        for key, value in walk(document.values):
            if isinstance(value, str) and re.search(r"\bCONVERGED\b", value) and best > target:
                should = f"another word: the best loss is {best:g}, the target {target:g}"
                yield Seen(document.file, key, json.dumps(value[:60]), should)


def missing_fields(run: AuditedRun) -> Iterator[Seen]:
    """Find epochs without all of the nine fields."""
    for entry in run.epochs:
        missing = [name for name in EPOCH_FIELDS if entry.values.get(name) is None]
        if missing:
            yield seen(entry, ", ".join(missing), "absent", "measured")


def provenance(run: AuditedRun) -> Iterator[Seen]:
    """Find runs that nobody could repeat."""
    missing = [
        words for words, names in PROVENANCE.items() if not any(run.facts(name) for name in names)
    ]
    first = next(iter((*run.epochs, *run.steps)), None)
    if missing and first is not None:
        where = first.file if first.place else run.name
        yield Seen(
            where, "the run", f"without {', '.join(missing)}", "such that it can be repeated"
        )


def layer_ratios(evidence: Evidence) -> Iterator[Seen]:
    """Find jumps between layers that nothing beside them compares with another program."""
    for table in evidence.tables:
        if table.explained:
            continue
        jumps = [
            (after / before, name, layer)
            for name, values in table.columns.items()
            for layer, (before, after) in enumerate(pairwise(values), start=1)
            if before > 0
        ]
        ratio, name, layer = max(jumps, default=(0.0, "", 0))
        if ratio >= SPIKE:
            found = f"{ratio:.3g} times the layer before, in layer {layer}"
            should = "beside counts and a second program's: a ratio alone is no evidence"
            yield Seen(table.file, name, found, should)


def impossible_speeds(peaks: Mapping[str, float]) -> Rule:
    """Make the rule that knows what devices could do at most.

    Units: operations a second by device name.
    """

    def look(run: AuditedRun) -> Iterator[Seen]:
        parameters = run.fact("parameters")
        peak = max((peaks.get(name, 0.0) for name in _devices(run)), default=0.0)
        if not parameters or not peak:
            return
        most = peak / (6 * parameters)
        before = 0.0
        for entry, tokens in run.column("tokens_seen"):
            wall, made, before = entry.number("wall_seconds"), tokens - before, tokens
            if wall and wall > 0 and made / wall > most:
                found = f"{wall:g}, so {made / wall:,.0f} tokens a second"
                should = f"at most {most:,.0f} a second on this device"
                yield seen(entry, "wall_seconds", found, should)

    return Rule(id="impossible-speed", resembles="F21", look=each_run(look))


def _devices(run: AuditedRun) -> Sequence[str]:
    """List the names of devices; several of them are no single peak."""
    named: list[object] = []
    for value in run.facts("device"):
        named.extend(value if isinstance(value, list) else [value])
    names = [value for value in named if isinstance(value, str)]
    return names if len(names) == 1 else []


def _near(found: float, due: float, error: float) -> bool:
    return abs(found - due) <= error * abs(due)


RULES = (
    Rule(id="perplexity", resembles="F19", look=each_run(perplexities)),
    Rule(id="gap", resembles="F19", look=each_run(gaps)),
    Rule(id="speed-unit", resembles="F19", look=each_run(speeds)),
    Rule(id="uniform-unit", resembles="F19", look=each_run(uniforms)),
    Rule(id="counter", resembles="F01", look=each_run(counters)),
    Rule(id="over-budget", resembles="F12", look=each_run(budgets)),
    Rule(id="summary", resembles="F22", look=each_run(summaries)),
    Rule(id="false-success", resembles="F10", look=each_run(false_successes)),
    Rule(id="missing-field", resembles="F31", look=each_run(missing_fields)),
    Rule(id="no-provenance", resembles="F53", look=each_run(provenance)),
    Rule(id="layer-ratio", resembles="F50", look=layer_ratios),
)
