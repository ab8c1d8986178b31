"""How training went: loss against what it should beat, and what the optimizer and machine did."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.html_report.axes import NUM_SPANS, Point, thin
from tasks.html_report.facts import Facts
from tasks.html_report.figures import (
    cited,
    digest,
    duration,
    measured,
    number,
    reach,
    source,
    value_of,
)
from tasks.html_report.markup import Child, Markup, table, tag
from tasks.html_report.plot import Curve, Level, Marks, Plot, draw
from tasks.html_report.section import Section, section
from tasks.html_report.step_log import StepLog, read_step_log

BASELINES = {
    "uniform_nats": "uniform",
    "unigram_nats": "unigram",
    "bigram_nats": "bigram",
    "five_gram_nats": "5-gram",
}
MAX_EPOCHS = 200
"""More are not shown singly."""
_QUANTITIES = (
    ("learning_rate", "Learning rate", "read back from the optimizer", False),
    ("grad_norm", "Gradient norm", "before clipping, powers of ten", True),
    ("tokens_per_second", "Throughput", "tokens a second, of each step", False),
    ("mfu_c1", "Model FLOPs utilisation", "of the device's peak, convention C1", False),
)


def training_section(facts: Facts) -> Section | None:
    """Write the plots of a training, and its epochs as a table."""
    log = read_step_log(facts)
    if "train" not in facts.stages and not log.steps and not facts.epochs:
        return None
    record = facts.stages.get("train")
    return section(
        "training",
        "Training",
        _summary(record),
        tag("p", log.note, class_="warning") if log.note else None,
        _loss_plot(facts, log),
        tag("div", _step_plots(log), class_="pair"),
        _epoch_table(facts.epochs),
        _spikes(log),
        _source(facts, log),
    )


def _summary(record: Mapping[str, Any] | None) -> Markup | None:
    if record is None:
        return None
    if not record["measurements"]:
        return tag("p", f"Training failed: {record['error']['message']}", class_="warning")
    return tag(
        "p",
        "Ended as ",
        tag("strong", measured(record, "outcome")),
        " after ",
        measured(record, "steps"),
        " of ",
        measured(record, "steps_planned"),
        " planned steps and ",
        measured(record, "epochs"),
        " epochs; best validation loss ",
        measured(record, "best_val_loss"),
        " nats in epoch ",
        measured(record, "best_epoch"),
        " (counted from 0), target ",
        measured(record, "target_val_loss"),
        ".",
    )


def _loss_plot(facts: Facts, log: StepLog) -> Markup | None:
    steps = _points(log.steps, "train_loss")
    trained = [(each["step"], each["train_loss"]) for each in facts.epochs]
    if not steps and not trained:
        return None
    curve = Curve(label="training, every step", points=steps, colour="train")
    means = Curve(label="training, mean of an epoch", points=trained, colour="train")
    return draw(
        Plot(
            title="Loss",
            description="Training and validation loss by step, with the losses of simple models.",
            x_label="step",
            y_label="nats a token",
            curves=[curve] if steps else [means],
            marks=[_validation(_spread(facts.epochs))] if facts.epochs else [],
            levels=_levels(facts),
            notes=[*_thinned(log), *_fewer_epochs(facts.epochs), *_reach_note(facts.epochs)],
        ),
        "loss",
    )


def _spread(epochs: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Return all epochs, or of too many some: the least and greatest loss of every span."""
    places = [(float(number), each["val_loss"]) for number, each in enumerate(epochs)]
    return [epochs[int(number)] for number, _ in thin(places, MAX_EPOCHS // 2)]


def _validation(epochs: Sequence[Mapping[str, Any]]) -> Marks:
    return Marks(
        label="validation, ± one standard error",
        points=[(each["step"], each["val_loss"]) for each in epochs],
        reaches=[each.get("val_loss_standard_error") or 0.0 for each in epochs],
        words=[_epoch_words(each) for each in epochs],
        colour="validation",
    )


def _epoch_words(epoch: Mapping[str, Any]) -> str:
    error = epoch.get("val_loss_standard_error")
    around = f" {reach(error)}" if error is not None else ""
    place = f"epoch {epoch['epoch']}, step {epoch['step']}"
    return f"{place}: {number(epoch['val_loss'])}{around} nats"


def _levels(facts: Facts) -> list[Level]:
    """Collect what the loss is held to: baselines of the shards, and the target of the plan."""
    shards, train = facts.stages.get("shard"), facts.stages.get("train")
    evaluate = facts.stages.get("evaluate")
    levels = []
    for name, label in BASELINES.items():
        values = (value_of(record, name) for record in (shards, evaluate))
        value = next((each for each in values if each is not None), None)
        if value is not None:
            levels.append(Level(label=f"{label} {number(value)}", value=value))
    if target := value_of(train, "target_val_loss"):
        levels.append(Level(label=f"target {number(target)}", value=target, colour="target"))
    return levels


def _step_plots(log: StepLog) -> list[Markup]:
    plots = []
    for name, title, unit, is_log in _QUANTITIES:
        if points := _points(log.steps, name):
            plots.append(
                draw(
                    Plot(
                        title=title,
                        description=f"{title} by step: {unit}.",
                        x_label="step",
                        y_label=unit,
                        curves=[Curve(label=title, points=points, colour="validation")],
                        is_log=is_log,
                        height="low",
                    ),
                    name.replace("_", "-"),
                )
            )
    return plots


def _points(steps: Sequence[Mapping[str, Any]], name: str) -> list[Point]:
    return [(row["step"], row[name]) for row in steps if row.get(name) is not None]


def _thinned(log: StepLog) -> list[str]:
    if len(log.steps) <= 2 * NUM_SPANS:
        return []
    how = f"{len(log.steps):,} steps are drawn as {NUM_SPANS} spans, each with its least and its"
    return [f"{how} greatest value: a single spike stays visible."]


def _fewer_epochs(epochs: Sequence[Mapping[str, Any]]) -> list[str]:
    if len(epochs) <= MAX_EPOCHS:
        return []
    how = f"Of {len(epochs):,} epochs those with the least and the greatest validation loss of"
    return [f"{how} every span are drawn, {len(_spread(epochs))} in all."]


def _reach_note(epochs: Sequence[Mapping[str, Any]]) -> list[str]:
    documents = {each.get("val_documents") for each in epochs} - {None}
    if len(documents) != 1:
        return []
    return [f"Standard errors by document, of {number(documents.pop())} held-out documents."]


def _epoch_table(epochs: Sequence[Mapping[str, Any]]) -> Markup | None:
    if not epochs:
        return None
    columns = {
        "epoch": "epoch",
        "step": "step",
        "train_loss": "training loss",
        "val_loss": "validation loss",
        "val_loss_standard_error": "± standard error",
        "val_bits_per_byte": "bits a byte",
        "learning_rate": "learning rate",
        "tokens_per_second": "tokens a second",
        "wall_seconds": "time",
    }
    shown = _spread(epochs)
    return tag(
        "details",
        tag("summary", tag("h3", "Epochs"), tag("span", f"{len(shown)} of {len(epochs)} records")),
        table(
            list(columns.values()),
            [[_epoch_cell(epoch, name) for name in columns] for epoch in shown],
            caption="Epochs; losses in nats a token",
        ),
    )


def _epoch_cell(epoch: Mapping[str, Any], name: str) -> Child:
    place = f"epoch-{epoch['epoch']:03d}.{name}"
    value = epoch.get(name)
    return cited(value, place, duration(value) if name == "wall_seconds" and value else None)


def _spikes(log: StepLog) -> Markup | None:
    if not log.spikes:
        return None
    steps = ", ".join(str(each["step"]) for each in log.spikes[:20])
    more = f", and {len(log.spikes) - 20} more" if len(log.spikes) > 20 else ""
    said = f"{len(log.spikes)} batches were spikes and not learnt from, at steps {steps}{more}."
    return tag("p", said, class_="warning")


def _source(facts: Facts, log: StepLog) -> Markup:
    parts: list[Child] = []
    if log.name:
        parts.append([log.name, " ", digest(f"sha256:{log.sha256}")])
    if facts.epochs:
        parts.append(tag("a", f"{len(facts.epochs)} records of epochs", href="#records"))
    return source(facts.stages.get("train"), *parts)
