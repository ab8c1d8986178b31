"""Plots of a corpus: how long its documents are, how well they compress, why files were dropped.

Bins are counted a piece of the table at a time.
"""

import base64
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from prefect.artifacts import create_image_artifact, create_table_artifact
from prefect.context import TaskRunContext

from data.accounting import Account
from data.documents import DOCUMENTS, REJECTED, read_pieces
from tasks.prefect_view import shown
from tasks.run_record import Run

PLOT = "pretokenize-corpus.png"
DESCRIPTION = "Document lengths, bytes a token, and why files were rejected"
LENGTH_EDGES = np.geomspace(1, 1e7, 71)
RATIO_EDGES = np.linspace(0, 10, 101)


def plot_corpus(run: Run, directory: Path) -> Path:
    """Plot a tokens directory into the run's evidence, and show it in the Prefect UI."""
    lengths = np.zeros(len(LENGTH_EDGES) - 1, np.int64)
    ratios = np.zeros(len(RATIO_EDGES) - 1, np.int64)
    account = Account()
    for piece in read_pieces(directory / DOCUMENTS, ["num_bytes", "num_tokens"]):
        num_bytes, num_tokens = (piece[name].to_numpy() for name in ("num_bytes", "num_tokens"))
        lengths += np.histogram(num_tokens, LENGTH_EDGES)[0]
        ratios += np.histogram(num_bytes / num_tokens, RATIO_EDGES)[0]
    for piece in read_pieces(directory / REJECTED, ["filter"]):
        account.rejections(piece)
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _histogram(left, LENGTH_EDGES, lengths, "tokens of a document")
    left.set_xscale("log")
    _histogram(middle, RATIO_EDGES, ratios, "bytes a token, by document")
    names = sorted(account.by_filter, key=lambda name: account.by_filter[name])
    right.barh(names, [account.by_filter[name] for name in names])
    right.set_xlabel("files rejected, by filter")
    path = run.directory / PLOT
    figure.savefig(path, dpi=80)
    show_plot(path, "pretokenize-corpus", DESCRIPTION)
    return path


def _histogram(axes: Axes, edges: np.ndarray, counts: np.ndarray, label: str) -> None:
    axes.stairs(counts, edges, fill=True)
    axes.set_xlabel(label)
    axes.set_ylabel("documents")


def show_plot(path: Path, key: str, description: str) -> None:
    """Show a PNG in the Prefect UI, from within a task."""
    if TaskRunContext.get() is not None:
        encoded = base64.b64encode(path.read_bytes()).decode()
        shown(
            lambda: create_image_artifact(
                image_url=f"data:image/png;base64,{encoded}", key=key, description=description
            )
        )


def show_table(rows: list[dict[str, Any]], key: str, description: str) -> None:
    """Show a table in the Prefect UI, from within a task."""
    if TaskRunContext.get() is not None:
        shown(lambda: create_table_artifact(rows, key=key, description=description))
