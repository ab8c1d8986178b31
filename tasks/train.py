"""Train: start the worker, follow its log, and store what it leaves.

The worker is a process of its own, so that this one can watch it: progress goes to the terminal
and to the Prefect UI from here, and a worker that dies is started again from its last snapshot.
"""

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.progress import Progress as OnProgress
from data.shard import ShardsIndex
from evidence.canonical import pretty
from evidence.records import SEAL, Recipe
from evidence.refs import ShardsRef, TrainingRef
from model.llama import LlamaSettings
from model.train import TrainSettings
from tasks.device import choose_device, is_compiled, num_threads, world_size
from tasks.gpu_slots import gpu_names, gpu_slots
from tasks.live import announce
from tasks.loss_plot import (
    DESCRIPTION,
    PLOT,
    LiveLossPlot,
    baselines_of,
    draw,
    read_baselines,
)
from tasks.plots import show_plot
from tasks.prefect_task import publish, stage_task, tracking
from tasks.preflight import check_fits
from tasks.progress import progress_bars
from tasks.pulse import Pulse
from tasks.rank_processes import run_ranks
from tasks.run_record import Run
from tasks.runtime import RuntimeSettings
from tasks.shared_snapshots import SharedSnapshots, fetch_unfinished
from tasks.snapshot_events import SnapshotEvents
from tasks.snapshots import best_record, complete_snapshots
from tasks.stage import perform
from tasks.step_watch import SPIKE
from tasks.store import Artefact, open_store
from tasks.thresholds import Thresholds
from tasks.train_job import Job
from tasks.train_measure import SETTINGS, STAGE
from tasks.train_outcome import success
from tasks.training_log import TRAIN_LOG, LogTail


def recipe(shards: str, model: LlamaSettings, settings: TrainSettings) -> Recipe:
    """Name all that decides the result."""
    return Recipe(
        stage=STAGE.name,
        version=STAGE.version,
        settings={"model": asdict(model), "train": asdict(settings)},
        inputs={"shards": shards},
    )


@stage_task("train", "train {model.num_layers}x{model.hidden_size} for {settings.num_steps} steps")
def train_task(
    run: Run,
    shards: ShardsRef,
    model: LlamaSettings,
    settings: TrainSettings,
    thresholds: Thresholds,
    runtime: RuntimeSettings,
) -> TrainingRef:
    """Train a model on shards, going on from its last snapshot if there is one."""
    wanted = recipe(str(shards), model, settings)

    def build(directory: Path) -> dict[str, Any]:
        artefact = open_store().open(shards)
        index = artefact.read_index(ShardsIndex)
        check_fits(index, model, settings, world_size(runtime))
        announce(run, directory)
        made_with = {"shards": str(shards), "context_length": index.context_length}
        (directory / SETTINGS).write_bytes(pretty({**wanted.settings, **made_with}))
        job = training_job(directory, artefact, model, settings, thresholds, runtime)
        fetch_unfinished(directory)
        gpus = gpu_names(job.device, job.num_ranks // job.num_nodes)
        with (
            gpu_slots(gpus, run.name),
            progress_bars() as bars,
            SharedSnapshots(run, directory) as shared,
        ):
            plot = LiveLossPlot(directory, read_baselines(artefact.directory))
            progress = _Progress(
                directory, settings.num_steps, bars, shared, SnapshotEvents(run, shared), plot
            )
            run_ranks(job, progress.show)
            progress.show()
        progress.tell()
        return _index(directory, settings)

    done = perform(
        run,
        STAGE,
        wanted,
        build,
        thresholds=asdict(thresholds),
        resumable=True,
        illustrate=lambda training: _illustrate(run, training),
        tracking=tracking(),
    )
    announce(run, done.artefact.directory)
    publish(run, STAGE, done.record)
    return TrainingRef(done.ref.digest)


def training_job(
    directory: Path,
    artefact: Artefact,
    model: LlamaSettings,
    settings: TrainSettings,
    thresholds: Thresholds,
    runtime: RuntimeSettings,
) -> Job:
    """Say what a worker is to do in a directory."""
    return Job(
        directory=str(directory),
        shards=str(artefact.directory),
        shards_ref=str(artefact.ref),
        shards_index=dict(artefact.index["content"]),
        model=model,
        train=settings,
        thresholds=thresholds,
        num_threads=num_threads(runtime),
        device=choose_device(runtime),
        num_ranks=world_size(runtime),
        num_nodes=runtime.num_nodes,
        rendezvous=runtime.rendezvous,
        parallelism=runtime.parallelism,
        deterministic=runtime.deterministic,
        compiled=is_compiled(runtime),
        start_timeout_seconds=runtime.start_timeout_seconds,
        step_timeout_seconds=runtime.step_timeout_seconds,
        state_digest_steps=runtime.state_digest_steps,
    )


class _Progress:
    """Shows the steps that the worker has logged, and tells of snapshots, since the last look."""

    def __init__(
        self,
        directory: Path,
        num_steps: int,
        bars: OnProgress,
        shared: SharedSnapshots,
        events: SnapshotEvents,
        plot: LiveLossPlot,
    ) -> None:
        self._tail = LogTail(directory / TRAIN_LOG)
        self._step, self._num_steps = 0, num_steps
        self._bars, self._shared, self._events, self._plot = bars, shared, events, plot
        bars("train", 0, num_steps)

    def show(self, pulse: Pulse | None = None) -> None:
        """Look, and show; `pulse` says what the steps do not, that validation rows are scored."""
        for row in self._tail.rows():
            if SPIKE not in row:
                self._step = row["step"]
                self._bars(_said(row), self._step, self._num_steps)
        if pulse and pulse.num_all:
            validated = f"{pulse.num_done:,} of {pulse.num_all:,} rows"
            self._bars(f"train, validating {validated}", self._step, self._num_steps)
        self._shared.look()
        self.tell()
        self._plot.look()

    def tell(self) -> None:
        """Tell of the snapshots that every machine can read by now."""
        self._events.look()


def _said(row: Mapping[str, Any]) -> str:
    return (
        f"train, loss {row['train_loss']:.3f}, {row['tokens_seen']:,} tokens, "
        f"{row['tokens_per_second']:,.0f} a second"
    )


def _index(directory: Path, settings: TrainSettings) -> dict[str, Any]:
    """Say how far the training came, how it ended and which snapshot is the best."""
    epochs = [snapshot.read() for snapshot in complete_snapshots(directory)]
    best = best_record(epochs)
    return {
        "num_epochs": len(epochs),
        "num_steps": epochs[-1]["step"],
        "tokens_seen": epochs[-1]["tokens_seen"],
        "outcome": success(
            best["val_loss"],
            settings.target_val_loss,
            ended_early=epochs[-1]["step"] < settings.num_steps,
        ),
        "best_epoch": best["epoch"],
        "best_val_loss": best["val_loss"],
        "best_record": best[SEAL],
    }


def _illustrate(run: Run, training: Artefact) -> None:
    _copy_epoch_records(run, training)
    image = draw(training.directory, baselines_of(training.directory))
    (run.directory / PLOT).write_bytes(image)
    show_plot(run.directory / PLOT, "train-loss", DESCRIPTION)


def _copy_epoch_records(run: Run, training: Artefact) -> None:
    for snapshot in complete_snapshots(training.directory):
        shutil.copyfile(snapshot.record, run.directory / snapshot.record.name)
