"""Checkpoint: seal the evaluated snapshot as a bundle that other programs open."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.tokenizer_file import END_OF_TEXT
from evidence.gates import Gate, Measurements
from evidence.refs import CheckpointRef, EvaluationRef, parse_ref
from model.apr_model import read_model, write_model
from model.hugging_face import read_directory, write_directory
from tasks.checkpoint_settings import CheckpointSettings
from tasks.model_card import model_card
from tasks.models import APR
from tasks.prefect_task import publish, stage_task, tracking
from tasks.run_record import Run
from tasks.snapshots import SNAPSHOTS, Snapshot
from tasks.stage import Stage, perform
from tasks.store import Artefact, open_store
from tasks.thresholds import Thresholds

VERSION = 2
CARD = "README.md"


def measure(artefact: Artefact) -> Measurements:
    """Read both model files back and compare them, value by value."""
    settings, apr = read_model(artefact.directory / APR, scan=True)
    other_settings, other = read_directory(artefact.directory)
    return {
        "epoch": artefact.index["content"]["epoch"],
        "tensors": len(apr),
        "parameters": sum(tensor.numel() for tensor in apr.values()),
        "apr_bytes": (artefact.directory / APR).stat().st_size,
        "safetensors_bytes": (artefact.directory / "model.safetensors").stat().st_size,
        "differing_tensors": len(differing_tensors(apr, other)),
        "settings_differ": int(settings != other_settings),
    }


def differing_tensors(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> list[str]:
    """Name the tensors that are not bit for bit the same on both sides."""
    return sorted(
        name
        for name in left.keys() | right.keys()
        if name not in left or name not in right or not torch.equal(left[name], right[name])
    )


def summary(measured: Measurements) -> str:
    """Say in a line what came out."""
    return f"{measured['parameters']:,} parameters in {measured['tensors']} tensors, sealed"


STAGE = Stage(
    name="checkpoint",
    version=VERSION,
    ref_type=CheckpointRef,
    measure=measure,
    summary=summary,
    gates=(
        Gate(
            id="checkpoint.formats",
            sentence="the .apr and the safetensors file hold the same tensors, bit for bit",
            measured="differing_tensors",
            operator="==",
            threshold=0,
        ),
        Gate(
            id="checkpoint.settings",
            sentence="both files describe the same architecture",
            measured="settings_differ",
            operator="==",
            threshold=0,
        ),
    ),
)


@stage_task("checkpoint", "seal what {evaluation.short} scored as {settings.name}")
def checkpoint_task(
    run: Run,
    evaluation: EvaluationRef,
    settings: CheckpointSettings,
    thresholds: Thresholds,
) -> CheckpointRef:
    """Seal the snapshot that the evaluation scored."""

    def build(out: Path) -> dict[str, Any]:
        store = open_store()
        scored = store.open(evaluation)
        training, shards = (
            store.open(parse_ref(scored.index["content"][kind])) for kind in ("training", "shards")
        )
        return write_bundle(training, scored, shards, settings, out)

    done = perform(
        run,
        STAGE,
        {"checkpoint": asdict(settings)},
        {"evaluation": str(evaluation)},
        build,
        thresholds=asdict(thresholds),
        tracking=tracking(),
    )
    publish(run, STAGE, done.record)
    return CheckpointRef(done.ref.digest)


def write_bundle(
    training: Artefact,
    evaluation: Artefact,
    shards: Artefact,
    settings: CheckpointSettings,
    out: Path,
) -> dict[str, Any]:
    """Write `.apr`, the Hugging Face files and the model card."""
    epoch = int(evaluation.index["content"]["epoch"])
    llama, tensors = read_model(
        Snapshot.of_epoch(training.directory / SNAPSHOTS, epoch).weights, scan=True
    )
    tokenizer_json = (shards.directory / "tokenizer.json").read_text()
    provenance = {
        "name": settings.name,
        "license": settings.licence,
        "data_source": settings.data_source,
        "data_license": settings.data_licence,
        "source": f"{training.ref}, epoch {epoch}",
    }
    write_model(out / APR, llama, tensors, tokenizer_json=tokenizer_json, provenance=provenance)
    write_directory(
        out,
        llama,
        tensors,
        tokenizer_json=tokenizer_json,
        end_of_text=END_OF_TEXT,
        dtype=torch.float32,
    )
    card = model_card(asdict(settings), asdict(llama), provenance, evaluation)
    (out / CARD).write_text(card)
    return {
        "name": settings.name,
        "epoch": epoch,
        "training": str(training.ref),
        "evaluation": str(evaluation.ref),
    }
