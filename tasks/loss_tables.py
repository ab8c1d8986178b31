"""What an evaluation says by source and by position: tables and a plot beside its record."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from data.baselines import ORDERS
from model.loss_statistics import bits_per_byte, loss_statistics
from tasks.loss_evaluation import LOSSES, POSITIONS
from tasks.plots import show_plot, show_table
from tasks.run_record import Run
from tasks.store import Artefact

SOURCES_TABLE, POSITIONS_TABLE = "evaluate-sources.csv", "evaluate-positions.csv"
PLOT = "evaluate-positions.png"
SHOWN_SOURCES = 20


def illustrate_losses(run: Run, artefact: Artefact) -> None:
    """Write the tables and the plot into the run's evidence, and show them in the Prefect UI."""
    positions = position_losses(artefact.directory)
    write_table(run.directory / POSITIONS_TABLE, positions)
    _plot(run.directory / PLOT, positions, artefact.index["content"]["baselines"])
    show_plot(run.directory / PLOT, "evaluate-positions", "Loss by position in a row")
    if sources := [asdict(each) for each in source_losses(artefact.directory)]:
        write_table(run.directory / SOURCES_TABLE, sources)
        show_table(sources[:SHOWN_SOURCES], "evaluate-sources", "Loss by source, largest first")


def position_losses(directory: Path) -> list[dict[str, Any]]:
    """Break an evaluation down by position in a row; units: nats per token."""
    table = pq.read_table(directory / POSITIONS)
    return [
        {
            "position": each["position"],
            "target_tokens": each["target_tokens"],
            "mean_nats": each["nats"] / each["target_tokens"],
        }
        for each in table.to_pylist()
        if each["target_tokens"]
    ]


@dataclass(frozen=True, slots=True)
class SourceLoss:
    """The loss on documents of one source.

    Units: nats per token.
    """

    source: str
    documents: int
    target_tokens: int
    mean_nats: float
    standard_error_nats: float | None
    bits_per_byte: float


def source_losses(directory: Path) -> list[SourceLoss]:
    """Break an evaluation down by source, the largest first; empty where none is known."""
    table = pd.read_parquet(directory / LOSSES)
    if "source" not in table:
        return []
    by_source = table[table["target_tokens"] > 0].groupby("source")
    found = [_source_loss(str(source), documents) for source, documents in by_source]
    return sorted(found, key=lambda each: (-each.target_tokens, each.source))


def _source_loss(source: str, documents: pd.DataFrame) -> SourceLoss:
    nats, tokens = documents["nats"].to_numpy(), documents["target_tokens"].to_numpy()
    found, num_bytes = loss_statistics(nats, tokens), int(documents["target_bytes"].sum())
    return SourceLoss(
        source=source,
        documents=found.num_documents,
        target_tokens=found.num_tokens,
        mean_nats=found.mean_nats,
        standard_error_nats=found.standard_error_nats,
        bits_per_byte=bits_per_byte(found.mean_nats, found.num_tokens, num_bytes),
    )


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows, of which there is one at least, as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _plot(path: Path, rows: Sequence[Mapping[str, Any]], baselines: Mapping[str, Any]) -> None:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    positions, nats = ([row[name] for row in rows] for name in ("position", "mean_nats"))
    axes.plot(positions, nats, marker=".", label="model")
    for name in ("uniform_nats", *ORDERS):
        axes.axhline(baselines[name], color="grey", linestyle=":")
        axes.annotate(name.removesuffix("_nats"), (positions[-1], baselines[name]), ha="right")
    axes.set_xlabel("position in the row")
    axes.set_ylabel("nats per token")
    axes.set_xscale("log")
    axes.legend()
    figure.savefig(path, dpi=80)
