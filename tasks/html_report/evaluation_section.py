"""What the model can do, held to what needs no model: n-grams and compressors."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.html_report.facts import Facts
from tasks.html_report.figures import Record, digest, measured, number, percent, source, value_of
from tasks.html_report.markup import Child, Markup, table, tag
from tasks.html_report.plot import Curve, Level, Plot, draw
from tasks.html_report.section import Section, section
from tasks.html_report.training_section import BASELINES

_RIVALS = {
    "uniform_bits_per_byte": "uniform guess",
    "unigram_bits_per_byte": "unigram",
    "bigram_bits_per_byte": "interpolated bigram",
    "five_gram_bits_per_byte": "5-gram",
    "zlib_bits_per_byte": "zlib, each document",
    "zlib_stream_bits_per_byte": "zlib, as one stream",
    "xz_bits_per_byte": "xz, each document",
    "xz_stream_bits_per_byte": "xz, as one stream",
}
_MODEL = "val_bits_per_byte"
POSITIONS, SOURCES = "evaluate-positions.csv", "evaluate-sources.csv"
CONTINUATIONS = "evaluate-continuations.csv"
_SHOWN_SOURCES, _SHOWN_TEXTS = 12, 4


def evaluation_section(facts: Facts) -> Section | None:
    """Write the scores of the evaluated model."""
    record = facts.stages.get("evaluate")
    if record is None or not record["measurements"]:
        return None
    return section(
        "evaluation",
        "Evaluation",
        _scope(record),
        _rivals(record),
        _positions(facts, record),
        _code(record),
        _sources(facts),
        _texts(facts),
        source(record, *(_file(facts, each) for each in (POSITIONS, SOURCES, CONTINUATIONS))),
    )


def _scope(record: Record) -> Markup:
    return tag(
        "p",
        measured(record, "val_loss"),
        " ± ",
        measured(record, "val_loss_standard_error"),
        " nats a token on ",
        measured(record, "val_tokens"),
        " tokens of ",
        measured(record, "val_documents"),
        " held-out documents, in ",
        measured(record, "precision"),
        "; the error is by document. Model ",
        digest(str(value_of(record, "model_sha256"))),
        ", data ",
        digest(str(value_of(record, "validation_sha256"))),
        ".",
    )


def _rivals(record: Record) -> Markup:
    found = {
        name: value for name in (_MODEL, *_RIVALS) if (value := value_of(record, name)) is not None
    }
    most = max(found.values())
    rows: list[list[Child]] = []
    for name in sorted(found, key=lambda each: -found[each]):
        bar = tag(
            "span",
            class_=f"bar {'model' if name == _MODEL else 'rival'}",
            style=f"width:{100 * found[name] / most:.2f}%",
        )
        label = tag("strong", "this model") if name == _MODEL else _RIVALS[name]
        rows.append(
            [
                label,
                measured(record, name),
                tag("div", tag("div", bar, class_="track"), class_="bars"),
            ]
        )
    columns = ("reads the held-out code with", "bits a byte", "less is better")
    return table(columns, rows, caption="Bits a byte", class_="account")


def _positions(facts: Facts, record: Record) -> Markup | None:
    rows = read_table(facts, POSITIONS)
    points = [(float(row["position"]), float(row["mean_nats"])) for row in rows]
    if len(points) < 2:
        return None
    levels = [
        Level(label=f"{label} {number(value)}", value=value)
        for name, label in BASELINES.items()
        if name != "uniform_nats" and (value := value_of(record, name)) is not None
    ]
    return draw(
        Plot(
            title="Loss by position in a row",
            description="Validation loss by position: how much the model gains from context.",
            x_label="position in the row, in tokens",
            y_label="nats a token",
            curves=[Curve(label="model", points=points, colour="validation")],
            levels=levels,
            height="low",
        ),
        "positions",
    )


def _code(record: Record) -> Markup | None:
    shares = {
        "humaneval_pass_at_1": "HumanEval problems solved, pass@1",
        "canonical_pass_at_1": "the benchmark's own solutions that pass here",
        "syntax_valid_share": "continuations of held-out code that parse",
        "syntax_true_share": "the true continuations that parse",
        "syntax_shuffled_share": "shuffled true continuations that parse",
    }
    rows: list[list[Child]] = [
        [label, percent(record, name)]
        for name, label in shares.items()
        if value_of(record, name) is not None
    ]
    if value_of(record, "decode_tokens_per_second") is not None:
        where = f"tokens decoded a second on {value_of(record, 'decode_device')}"
        rows.append([where, measured(record, "decode_tokens_per_second")])
    return table(("code", "result"), rows, caption="What it writes") if rows else None


def _sources(facts: Facts) -> Markup | None:
    rows = read_table(facts, SOURCES)
    if not rows:
        return None
    cells: list[list[Child]] = [
        [
            row["source"],
            number(int(row["documents"])),
            number(float(row["mean_nats"])),
            number(float(row["standard_error_nats"]))
            if row["standard_error_nats"]
            else "one document",
            number(float(row["bits_per_byte"])),
        ]
        for row in rows[:_SHOWN_SOURCES]
    ]
    return tag(
        "details",
        tag("summary", tag("h3", "By source"), tag("span", f"{len(cells)} of {len(rows)} shown")),
        table(
            ("source", "documents", "nats a token", "± standard error", "bits a byte"),
            cells,
            caption="Loss by source, largest first",
        ),
    )


def _texts(facts: Facts) -> Markup | None:
    rows = read_table(facts, CONTINUATIONS)
    if not rows:
        return None
    texts = [
        tag(
            "figure",
            tag("figcaption", f"document {row['document']}, line {row['line']}: {_parses(row)}"),
            tag("pre", tag("code", row["prompt"], tag("mark", row["continuation"]))),
        )
        for row in rows[:_SHOWN_TEXTS]
    ]
    shown = f"the first {len(texts)} of {len(rows)} recorded; marked is what the model wrote"
    return tag("details", tag("summary", tag("h3", "In its own words"), tag("span", shown)), texts)


def _parses(row: Mapping[str, str]) -> str:
    return "parses" if row["is_valid"] == "True" else "does not parse"


def read_table(facts: Facts, name: str) -> Sequence[Mapping[str, str]]:
    """Read a table of the evidence; none where there is none."""
    path: Path = facts.run.directory / name
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _file(facts: Facts, name: str) -> list[Child]:
    found = facts.files.get(name)
    return [name, " ", digest(f"sha256:{found}")] if found else []
