"""The loss curve of a training: in the Prefect UI while it grows, in the evidence at its end."""

import base64
import io
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from matplotlib.figure import Figure
from prefect.artifacts import create_image_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.context import TaskRunContext

from data.baselines import BASELINES, ORDERS
from evidence.canonical import read_object
from evidence.refs import parse_ref
from tasks.prefect_view import shown
from tasks.snapshots import complete_snapshots
from tasks.store import open_store
from tasks.train_measure import SETTINGS
from tasks.training_log import TRAIN_LOG, read_rows

PLOT = "train-loss.png"
DESCRIPTION = "Loss by step, validation with its standard error, and models that only count"
DRAW_SECONDS = 30.0
"At most so often: each drawing is read anew from the log, and sent to the Prefect server."
SHARE = 50
"And drawing takes no more of the time than this part of it."
MAX_POINTS = 2000
"A drawing has fewer pixels than this across."


@dataclass(slots=True)
class LiveLossPlot:
    """An image artifact that follows a training; outside of a task run it does nothing."""

    training: Path
    baselines: Mapping[str, float]
    _id: UUID | None = None
    _due: float = field(default_factory=lambda: time.monotonic() + DRAW_SECONDS)

    def look(self) -> None:
        """Draw again if that is due; a long log, which takes longer to read, less often."""
        begin = time.monotonic()
        if TaskRunContext.get() is not None and begin >= self._due:
            self.draw()
            end = time.monotonic()
            self._due = end + max(DRAW_SECONDS, SHARE * (end - begin))

    def draw(self) -> None:
        """Draw, and show it in the place of the drawing before."""
        image = draw(self.training, self.baselines)
        url = f"data:image/png;base64,{base64.b64encode(image).decode()}"
        shown(lambda: self._send(url))

    def _send(self, url: str) -> None:
        if self._id is None:
            made = create_image_artifact(image_url=url, key="train-loss", description=DESCRIPTION)
            assert isinstance(made, UUID)
            self._id = made
            return
        with get_client(sync_client=True) as client:
            client.update_artifact(self._id, ArtifactUpdate(data=url))


def read_baselines(shards: Path) -> dict[str, float]:
    """Read what models that only count score on the validation rows."""
    found: Any = read_object(shards / BASELINES)
    return {name: float(found[name]) for name in ("uniform_nats", *ORDERS)}


def baselines_of(training: Path) -> dict[str, float]:
    """Return the baselines of a training's shards, where those are still there."""
    made_with: Any = read_object(training / SETTINGS)
    directory = open_store().directory(parse_ref(made_with["shards"]))
    return read_baselines(directory) if (directory / BASELINES).is_file() else {}


def draw(training: Path, baselines: Mapping[str, float]) -> bytes:
    """Draw a training as far as it is, as a PNG.

    Units: nats per token.
    """
    rows = read_rows(training / TRAIN_LOG)
    rows = rows[:: 1 + len(rows) // MAX_POINTS]
    epochs = [snapshot.read() for snapshot in complete_snapshots(training)]
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    steps, losses = [row["step"] for row in rows], [row["train_loss"] for row in rows]
    axes.plot(steps, losses, linewidth=0.8, alpha=0.7, label="training")
    axes.errorbar(
        [epoch["step"] for epoch in epochs],
        [epoch["val_loss"] for epoch in epochs],
        [epoch["val_loss_standard_error"] or 0.0 for epoch in epochs],
        marker="o",
        capsize=3,
        label="validation",
    )
    for number, (name, nats) in enumerate(baselines.items()):
        label = name.removesuffix("_nats").replace("_", "-")
        axes.axhline(nats, linestyle=":", color=f"C{number + 2}", label=f"{label} {nats:.3f}")
    axes.set_xlabel("step")
    axes.set_ylabel("nats a token")
    axes.legend(loc="upper right", fontsize="small")
    image = io.BytesIO()
    figure.savefig(image, dpi=80, format="png")
    return image.getvalue()
