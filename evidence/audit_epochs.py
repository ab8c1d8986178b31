"""Epochs and steps that were not trained: constants, mixtures, scripts, drawn numbers."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import fmean

from evidence.audit_evidence import AuditedRun, Entry
from evidence.audit_rule import Rule, Seen, each_run, seen

PLACEHOLDERS = (0.0, 1.0)
QUICK = 0.1
"An epoch that took less than this part of the usual time a token did not compute."
QUICK_USUAL_SECONDS = 10.0
MIXED_FALL, MIXED_STILL = 0.2, 0.025
"Training falls by this part of itself, validation by at most that part of the fall."
REPEATED = 3
DRAWN_RANGE, DRAWN_STEPS = (45.0, 55.0), 20
SCRIPTED_EPOCHS, SCRIPTED_STEPS = 4, 8
SCRIPTED_PART = 1e-3


def placeholder_losses(run: AuditedRun) -> Iterator[Seen]:
    """Find losses that are 0 or 1: no mean of measurements is."""
    for name in ("train_loss", "val_loss"):
        for entry, loss in run.column(name):
            if loss in PLACEHOLDERS:
                perplexity = entry.number(name.replace("loss", "ppl"))
                e = perplexity is not None and math.isclose(perplexity, math.e, rel_tol=1e-6)
                found = f"{loss:g}{', with perplexity e' if e else ''}"
                yield seen(entry, name, found, "a mean of measured losses")


def constant_norms(run: AuditedRun) -> Iterator[Seen]:
    """Find gradient norms that are 0 or 1."""
    for entry, norm in run.column("grad_norm_max"):
        if norm in PLACEHOLDERS:
            yield seen(entry, "grad_norm_max", f"{norm:g}", "a measured norm, before clipping")


def quick_epochs(run: AuditedRun) -> Iterator[Seen]:
    """Find epochs in which nothing can have been computed.

    The first is no measure, since kernels are compiled in it; nor is an epoch of a few seconds.
    """
    fastest = math.inf
    for entry, seconds, tokens in _times(run)[1:]:
        wall = entry.number("wall_seconds") or 0.0
        usual = fastest * tokens
        if QUICK_USUAL_SECONDS <= usual < math.inf and wall < QUICK * usual:
            should = f"about {usual:.4g}, as in the epochs before"
            yield seen(entry, "wall_seconds", f"{wall:g}", should)
        else:
            fastest = min(fastest, seconds)


def _times(run: AuditedRun) -> list[tuple[Entry, float, float]]:
    """List the epochs with their seconds a token, and their tokens."""
    before, found = 0.0, []
    for entry, tokens in run.column("tokens_seen"):
        wall = entry.number("wall_seconds")
        if wall is not None and tokens > before:
            found.append((entry, wall / (tokens - before), tokens - before))
        before = tokens
    return found


def mixtures(run: AuditedRun) -> Iterator[Seen]:
    """Find epochs whose training loss falls from the sky: some steps were real, some were not."""
    seconds = {id(entry): each for entry, each, _ in _times(run)}
    for (before, old), (entry, new) in pairwise(run.column("train_loss")):
        still, moved = before.number("val_loss"), entry.number("val_loss")
        fall = old - new
        if still is None or moved is None or fall < MIXED_FALL * old:
            continue
        if abs(moved - still) <= MIXED_STILL * fall:
            found = f"{new:g} after {old:g}, and validation went from {still:g} to {moved:g}"
            yield seen(entry, "train_loss", found + _mixed(old, new, seconds, before, entry),
                       "a mean of steps that all learnt")  # fmt: skip


def _mixed(old: float, new: float, seconds: dict[int, float], before: Entry, entry: Entry) -> str:
    """Say which part of the steps was real, where times and losses agree on it."""
    if id(before) not in seconds or id(entry) not in seconds or old <= 1:
        return ""
    part, real = seconds[id(entry)] / seconds[id(before)], (new - 1) / (old - 1)
    if not 0 < real < 1 or abs(part - real) > 0.1:
        return ""
    return f": {part:.0%} of the time, and {real:.0%} of the loss above 1.0, is that of real steps"


def still_validation(run: AuditedRun) -> Iterator[Seen]:
    """Find validation losses that equal the one before to the last digit."""
    for (_, old), (entry, new) in pairwise(run.column("val_loss")):
        if old == new:
            yield seen(entry, "val_loss", f"{new!r}, as before", "another: weights moved")


def repeated_steps(run: AuditedRun) -> Iterator[Seen]:
    """Find steps that report what the steps before them did."""
    for name in ("train_loss", "grad_norm"):
        length = 1
        for before, entry in pairwise(run.steps):
            value = entry.number(name)
            length = length + 1 if value is not None and value == before.number(name) else 1
            if length == REPEATED:
                found = f"{value!r} in {REPEATED} steps in a row"
                yield seen(entry, name, found, "another in every step")


def drawn_utilisation(run: AuditedRun) -> Iterator[Seen]:
    """Find a GPU's utilisation that is noise about a half, in fractions that no driver reports."""
    numbers = [(entry, entry.number("gpu_util_pct")) for entry in run.steps]
    values = [value for _, value in numbers if value is not None]
    if len(values) < DRAWN_STEPS:
        return
    low, high = DRAWN_RANGE
    drawn = all(low <= value <= high and value != round(value) for value in values)
    if drawn and abs(_correlation(values)) < 0.5:
        entry = next(entry for entry, value in numbers if value is not None)
        found = f"{min(values):.4g} to {max(values):.4g} without a trend, in fractions"
        yield seen(entry, "gpu_util_pct", found, "what the driver reports, in whole percent")


def _correlation(values: Sequence[float]) -> float:
    """Correlate every value with the next one."""
    mean = fmean(values)
    spread = sum((value - mean) ** 2 for value in values)
    return sum((a - mean) * (b - mean) for a, b in pairwise(values)) / spread if spread else 0.0


def scripted_losses(run: AuditedRun) -> Iterator[Seen]:
    """Find losses on a straight line."""
    kinds = ((run.epochs, SCRIPTED_EPOCHS), (run.steps, SCRIPTED_STEPS))
    for entries, least in kinds:
        numbers = [entry.number("train_loss") for entry in entries]
        losses = [number for number in numbers if number is not None]
        if len(losses) >= least and _straight(losses):
            found = f"{losses[0]:g} to {losses[-1]:g} in equal parts"
            yield seen(entries[-1], "train_loss", found, "measured losses, which scatter")


def _straight(losses: Sequence[float]) -> bool:
    slopes = [b - a for a, b in pairwise(losses)]
    mean = fmean(slopes)
    # Rounding to the last digit that was written bends a line, too.
    slack = max(SCRIPTED_PART * abs(mean), 2e-7 * max(map(abs, losses)))
    return mean != 0 and max(abs(slope - mean) for slope in slopes) <= slack


RULES = (
    Rule(id="placeholder-loss", resembles="F01", look=each_run(placeholder_losses)),
    Rule(id="constant-norm", resembles="F08", look=each_run(constant_norms)),
    Rule(id="quick-epoch", resembles="F01", look=each_run(quick_epochs)),
    Rule(id="mixture-epoch", resembles="F01", look=each_run(mixtures)),
    Rule(id="still-validation", resembles="F01", look=each_run(still_validation)),
    Rule(id="repeated-steps", resembles="F01", look=each_run(repeated_steps)),
    Rule(id="drawn-utilisation", resembles="F08", look=each_run(drawn_utilisation)),
    Rule(id="scripted-losses", resembles="F13", look=each_run(scripted_losses)),
)
