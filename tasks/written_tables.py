"""What a model wrote in an evaluation, as tables that people read beside its record."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tasks.code_benchmark import ANSWERS, MODEL
from tasks.loss_tables import write_table
from tasks.plots import show_table
from tasks.run_record import Run
from tasks.store import Artefact
from tasks.syntax_benchmark import CONTINUATIONS

SHOWN = 20
"""Rows of each table; the artefact has all of them."""
_COLUMNS: Mapping[str, tuple[str, ...]] = {
    ANSWERS: ("task", "sample", "completion", "verdict", "detail"),
    CONTINUATIONS: ("document", "line", "prompt", "continuation", "is_valid", "is_true_valid"),
}


def illustrate_written(run: Run, artefact: Artefact) -> None:
    """Write some of what the model wrote into the run's evidence, and show it in the Prefect UI."""
    for name in _COLUMNS:
        if rows := written_rows(artefact.directory / name):
            key = f"evaluate-{Path(name).stem}"
            write_table(run.directory / f"{key}.csv", rows)
            show_table(rows, key, f"What the model wrote: the first {len(rows)}")


def written_rows(path: Path) -> list[dict[str, Any]]:
    """Return the first rows of what a model wrote; none where nothing was asked."""
    if not path.is_file():
        return []
    table = pd.read_parquet(path)
    if path.name == ANSWERS:
        table = table[table["answered_by"] == MODEL]
    columns = list(_COLUMNS[path.name])
    # A model may write NUL, which databases do not take.
    shown = table[columns].head(SHOWN).replace("\0", "\N{REPLACEMENT CHARACTER}", regex=True)
    return [dict(zip(columns, row, strict=True)) for row in shown.itertuples(index=False)]
