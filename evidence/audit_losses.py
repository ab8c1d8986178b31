"""Losses that cannot be what they are called: leaks, less than a table, another schedule's."""

import math
from collections.abc import Iterator
from itertools import combinations

from evidence.audit_evidence import AuditedRun, Entry, Evidence
from evidence.audit_rule import Rule, Seen, each_run, seen

LEAK_NATS, LEAK_ERRORS = 0.1, 5.0
"How far validation may lie below training where its standard error is not, or is, told."
GAP_NATS, GAP_EPOCHS = 0.2, 3
LEAST_NATS = 0.3
"Text is not predicted better than this."
LARGEST_VOCABULARY = 1 << 22
SAME_NATS, SAME_EPOCHS = 2e-3, 4
SCHEDULE = ("steps", "peak_lr", "warmup")


def leaks(run: AuditedRun) -> Iterator[Seen]:
    """Find validation losses below what training was at the time."""
    rows = [entry for entry, _ in run.column("train_loss") if entry.number("val_loss") is not None]
    for number, entry in enumerate(rows):
        train, val = _at_end(rows, number), entry.number("val_loss") or 0.0
        error = entry.number("val_loss_standard_error")
        slack = LEAK_NATS if error is None else LEAK_ERRORS * error
        if val < train - slack:
            found = f"{val:g}, {train - val:.3g} below training at the end of the epoch"
            yield seen(entry, "val_loss", found + _wraps(run, entry), "not below training")


def _at_end(rows: list[Entry], number: int) -> float:
    """Say the training loss at an epoch's end at least: an epoch's mean lags behind."""
    loss = [entry.number("train_loss") or 0.0 for entry in rows]
    told = rows[number].number("train_loss_at_end")
    if told is not None:
        return told
    if number + 1 < len(rows):
        return min(loss[number], loss[number + 1])
    fall = max(loss[number - 1] - loss[number], 0.0) if number else math.inf
    return loss[number] - fall


def _wraps(run: AuditedRun, entry: Entry) -> str:
    passes = _passes(run, entry)
    return f", after {passes:.2g} passes of the corpus" if passes and passes > 1 else ""


def _passes(run: AuditedRun, entry: Entry) -> float | None:
    corpus, tokens = run.fact("corpus_tokens"), entry.number("tokens_seen")
    return tokens / corpus if corpus and tokens else None


def wrapped_corpora(run: AuditedRun) -> Iterator[Seen]:
    """Find corpora read more than once beside validation data that nothing names."""
    if run.facts("validation"):
        return
    for entry in run.epochs:
        passes = _passes(run, entry)
        if passes and passes > 1:
            found = f"{entry.number('tokens_seen'):,.0f}, {passes:.3g} passes of the corpus"
            yield seen(entry, "tokens_seen", found, "one pass, or validation data that is named")
            return


def growing_gaps(run: AuditedRun) -> Iterator[Seen]:
    """Find validation that rises from its best while training falls, with passes not told."""
    told = run.facts("passes") or run.facts("corpus_tokens")
    rows = [entry for entry, _ in run.column("train_loss") if entry.number("val_loss") is not None]
    if told or len(rows) <= GAP_EPOCHS:
        return
    val = [entry.number("val_loss") or 0.0 for entry in rows]
    train = [entry.number("train_loss") or 0.0 for entry in rows]
    best = val.index(min(val))
    gap = (val[-1] - train[-1]) - (val[best] - train[best])
    if len(rows) - best > GAP_EPOCHS and gap > GAP_NATS and train[-1] < train[best]:
        found = f"{val[-1]:g}, {val[-1] - val[best]:.3g} above its best while training fell"
        should = "accompanied by the passes of the corpus: this is data seen again"
        yield seen(rows[-1], "val_loss", found, should)


def above_uniform(run: AuditedRun) -> Iterator[Seen]:
    """Find losses above that of a uniform guess."""
    vocabulary = run.fact("vocabulary")
    uniform = math.log(vocabulary or LARGEST_VOCABULARY)
    of = f"{vocabulary:,.0f} tokens" if vocabulary else "the largest vocabularies"
    for name in ("train_loss", "val_loss"):
        for entry, loss in run.column(name):
            if loss > uniform:
                should = f"at most {uniform:.4g}, a uniform guess among {of}"
                yield seen(entry, name, f"{loss:g}", should)


def above_unigram(run: AuditedRun) -> Iterator[Seen]:
    """Find trainings that learnt less than a table of token frequencies knows."""
    unigram, losses = run.fact("unigram"), run.column("val_loss")
    if unigram is None or not losses:
        return
    entry, best = min(losses, key=lambda pair: pair[1])
    if best >= unigram:
        should = f"below {unigram:g}, what a table of frequencies scores"
        yield seen(entry, "val_loss", f"{best:g}, the best of all", should)


def below_text(run: AuditedRun) -> Iterator[Seen]:
    """Find losses that no text allows."""
    for name in ("train_loss", "val_loss"):
        for entry, loss in run.column(name):
            if loss < LEAST_NATS:
                should = f"at least {LEAST_NATS}: else tokens, sign or data are wrong"
                yield seen(entry, name, f"{loss:g}", should)


def same_losses(evidence: Evidence) -> Iterator[Seen]:
    """Find trainings that ran by different schedules, and agree nevertheless."""
    for left, right in combinations(evidence.runs, 2):
        differing = [name for name in SCHEDULE if _differ(left, right, name)]
        apart = _apart(left, right)
        if differing and apart is not None and apart < SAME_NATS:
            entry = right.epochs[0]
            found = f"within {apart:.2g} nats of {left.name} in every epoch"
            other = ", ".join(differing).replace("peak_lr", "peak learning rate")
            yield seen(entry, "train_loss", found, f"others, as {other} differ")


def _differ(left: AuditedRun, right: AuditedRun, name: str) -> bool:
    a, b = left.fact(name), right.fact(name)
    return a is not None and b is not None and a != b


def _apart(left: AuditedRun, right: AuditedRun) -> float | None:
    """Measure how far two runs lie apart at most, where they have enough epochs in common."""
    a, b = (dict(_by_epoch(run)) for run in (left, right))
    common = a.keys() & b.keys()
    if len(common) < SAME_EPOCHS:
        return None
    return max(abs(a[epoch] - b[epoch]) for epoch in common)


def _by_epoch(run: AuditedRun) -> Iterator[tuple[float, float]]:
    for entry, loss in run.column("train_loss"):
        epoch = entry.number("epoch")
        if epoch is not None:
            yield epoch, loss


RULES = (
    Rule(id="validation-below-training", resembles="F04", look=each_run(leaks)),
    Rule(id="wrapped-corpus", resembles="F04", look=each_run(wrapped_corpora)),
    Rule(id="growing-gap", resembles="F03", look=each_run(growing_gaps)),
    Rule(id="above-uniform", resembles="F09", look=each_run(above_uniform)),
    Rule(id="above-unigram", resembles="F09", look=each_run(above_unigram)),
    Rule(id="below-text", resembles="F25", look=each_run(below_text)),
    Rule(id="same-losses", resembles="F05", look=same_losses),
)
