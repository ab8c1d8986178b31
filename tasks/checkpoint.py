"""Checkpoint: seal the evaluated snapshot as a bundle that other programs open."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.rows import open_rows
from data.shard import ShardsIndex
from data.tokenizer_file import END_OF_TEXT
from evidence.canonical import file_sha256
from evidence.gates import Gate, Measurements
from evidence.records import Recipe
from evidence.refs import CheckpointRef, EvaluationRef, parse_ref
from model.apr_model import read_model
from model.architecture import family
from model.errors import WrongSettingError
from model.hugging_face import write_tokenizer
from model.llama import LlamaSettings
from tasks import evaluate, first_forward
from tasks.bundle import Sealable, measure_files, seal, weights_files
from tasks.checkpoint_settings import CheckpointSettings
from tasks.evaluations import require_current
from tasks.model_card import Evaluated, model_card
from tasks.prefect_task import publish, stage_task, tracking
from tasks.probe import probe_ids, read_probe_loss
from tasks.publish_bundle import RECIPE, finish, listed_files, publish_faults
from tasks.run_record import CHAIN_HEAD, Run
from tasks.snapshots import SNAPSHOTS, Snapshot
from tasks.stage import Built, Stage, perform
from tasks.store import Artefact, Store, open_store
from tasks.thresholds import Thresholds
from tasks.train_measure import SETTINGS

VERSION = 6


def measure(artefact: Artefact) -> Measurements:
    """Read every file with weights, and hold it to the recorded forward pass."""
    directory, content = artefact.directory, artefact.index["content"]
    found = measure_files(directory, content["lossless"])
    drift = abs(found["forward_loss_nats"] - content["recorded_loss_nats"])
    return {
        "epoch": content["epoch"],
        **found,
        "forward_drift_nats": drift,
        "publish_faults": len(list(publish_faults(directory, listed_files(artefact)))),
    }


def summary(measured: Measurements) -> str:
    """Say in a line what came out."""
    return (
        f"{measured['parameters']:,} parameters in {measured['tensors']} tensors, sealed in "
        f"{measured['weights_files']} files"
    )


STAGE = Stage(
    name="checkpoint",
    version=VERSION,
    ref_type=CheckpointRef,
    measure=measure,
    summary=summary,
    gates=(
        Gate(
            id="checkpoint.formats",
            sentence="all files in float32 hold the same tensors, bit for bit",
            measured="differing_tensors",
            operator="==",
            threshold=0,
        ),
        Gate(
            id="checkpoint.settings",
            sentence="all files describe the same architecture",
            measured="settings_differ",
            operator="==",
            threshold=0,
        ),
        Gate(
            id="checkpoint.forward",
            sentence="every file, loaded again, computes what was recorded of it",
            measured="files_unlike_forward",
            operator="==",
            threshold=0,
        ),
        Gate(
            id="checkpoint.drift",
            sentence="the sealed model has the loss that the trainer's had on the same tokens",
            measured="forward_drift_nats",
            operator="<=",
            threshold="thresholds.max_reload_drift",
        ),
        Gate(
            id="checkpoint.quantised",
            sentence="no rounded file's logits are farther from the model's than was planned",
            measured="largest_quantised_error",
            operator="<=",
            threshold="thresholds.max_quantised_error",
        ),
        Gate(
            id="checkpoint.publish",
            sentence="the bundle has every file that a hub wants, as its manifest says",
            measured="publish_faults",
            operator="==",
            threshold=0,
            required=False,
        ),
    ),
)


def recipe(evaluation: str, settings: CheckpointSettings) -> Recipe:
    """Name all that decides the result."""
    return Recipe(
        stage=STAGE.name,
        version=STAGE.version,
        settings={"checkpoint": asdict(settings)},
        inputs={"evaluation": evaluation},
    )


@stage_task("checkpoint", "seal what {evaluation.short} scored as {settings.name}")
def checkpoint_task(
    run: Run,
    evaluation: EvaluationRef,
    settings: CheckpointSettings,
    thresholds: Thresholds,
) -> CheckpointRef:
    """Seal the snapshot that the evaluation scored."""

    def build(out: Path) -> Built:
        store = open_store()
        scored = store.open(evaluation)
        training, shards = scored_from(store, scored)
        rows = open_rows(shards.directory, shards.read_index(ShardsIndex), "val")
        ids = probe_ids(rows).tolist()
        epoch = int(scored.index["content"]["epoch"])
        evaluated = Evaluated(scored.ref, epoch, evaluate.measure(scored))
        content = write_bundle(training, evaluated, shards, settings, ids, out)
        # A chain that is written anew later contradicts what is noted beside the checkpoint.
        head = run.plan()[CHAIN_HEAD]
        return Built(content, {CHAIN_HEAD: head} if head else {})

    done = perform(
        run,
        STAGE,
        recipe(str(evaluation), settings),
        build,
        thresholds=asdict(thresholds),
        tracking=tracking(),
    )
    publish(run, STAGE, done.record)
    return CheckpointRef(done.ref.digest)


def scored_from(store: Store, scored: Artefact) -> tuple[Artefact, Artefact]:
    """Open the training and the shards of an evaluation.

    Raises: OutdatedEvaluationError, WrongSettingError if what it scored is not of a training.
    """
    require_current(scored)
    content = scored.index["content"]
    if content["training"] is None or content["epoch"] is None:
        expected = "the evaluation of a training's snapshot"
        raise WrongSettingError("evaluation", scored.ref.short, expected)
    training, shards = (store.open(parse_ref(content[kind])) for kind in ("training", "shards"))
    return training, shards


def write_bundle(
    training: Artefact,
    evaluated: Evaluated,
    shards: Artefact,
    settings: CheckpointSettings,
    ids: list[list[int]],
    out: Path,
) -> dict[str, Any]:
    """Write the weights, all that other programs need to use them, and what says whence they are.

    Raises: UnfaithfulFileError.
    """
    epoch = evaluated.epoch
    snapshot = Snapshot.of_epoch(training.directory / SNAPSHOTS, epoch)
    llama, tensors = read_model(snapshot.weights, scan=True)
    tokenizer_json = (shards.directory / "tokenizer.json").read_text()
    provenance = {
        "name": settings.name,
        "license": settings.licence,
        "data_source": settings.data_source,
        "data_license": settings.data_licence,
        "source": f"{training.ref}, epoch {epoch}",
    }
    ends = write_tokenizer(out, llama, tokenizer_json=tokenizer_json, end_of_text=END_OF_TEXT)
    model = Sealable(
        llama=llama,
        tensors=tensors,
        tokenizer_json=tokenizer_json,
        ends=ends,
        provenance=provenance,
    )
    files = list(weights_files(out, model, settings))
    record = seal(files, model, ids)
    first_forward.write_record(out, record)
    shutil.copyfile(training.directory / SETTINGS, out / RECIPE)
    finish(
        out,
        settings,
        tokenizer_json=tokenizer_json,
        facts=_facts(training, epoch, llama, out / RECIPE),
        card=lambda files: model_card(settings, llama, provenance, evaluated, record, files),
    )
    return {
        "name": settings.name,
        "epoch": epoch,
        "training": str(training.ref),
        "evaluation": str(evaluated.ref),
        "lossless": [file.path.name for file in files if file.is_lossless],
        "recorded_loss_nats": read_probe_loss(snapshot.state),
    }


def _facts(training: Artefact, epoch: int, llama: LlamaSettings, recipe: Path) -> dict[str, Any]:
    """Collect what the manifest says of how the model came about."""
    return {
        "version": f"epoch {epoch} of {training.ref.digest[:12]}",
        "architecture": family(llama),
        "provenance": {
            "pipeline": "assay pretokenize, shard, train, evaluate, checkpoint",
            "parent": "none, trained from scratch",
            "recipe": recipe.name,
            "recipe_sha256": file_sha256(recipe),
        },
    }
