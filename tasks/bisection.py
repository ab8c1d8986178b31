"""Bisect: trace the sealed checkpoint against the trained model, operation by operation.

The reference is the snapshot that was sealed; the candidates are the checkpoint's `.apr` and its
safetensors file. Beside them stand the digests that the worker took of the model in its memory.
"""

import math
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.rows import open_rows
from data.shard import ShardsIndex
from evidence.canonical import finite, pretty, read_object
from evidence.gates import Gate, Measurements
from evidence.records import Recipe
from evidence.refs import CheckpointRef, TraceRef, parse_ref
from model.disagreement import compare, first_departure
from model.llama import LlamaSettings
from model.taps import Trace, trace
from model.trace_text import TraceHeader, sub_ffn_csv, trace_text
from tasks.device import choose_device, num_threads
from tasks.errors import ImportedError
from tasks.heat_map import by_layer, draw_heat_map
from tasks.models import APR, load_apr, load_directory
from tasks.plots import show_plot
from tasks.prefect_task import publish, stage_task, tracking
from tasks.probe import probe_ids, read_fingerprint
from tasks.run_record import Run
from tasks.runtime import RuntimeSettings
from tasks.snapshots import SNAPSHOTS, Snapshot
from tasks.stage import Stage, perform
from tasks.store import Artefact, Store, open_store
from tasks.thresholds import Thresholds

VERSION = 1
RESULT = "trace.json"
TEXT = "trace.txt"
CSV = "sub-ffn-per-layer-stds.csv"
PLOT = "bisect-heat-map.png"
ROUNDING = 2.0**-24
"""Relative error of a number that is rounded to float32."""


def measure(artefact: Artefact) -> Measurements:
    """Compute the verdicts again from the recorded taps and differences."""
    result: Any = read_object(artefact.directory / RESULT)
    sides = result["candidates"].values()
    sites = [site for side in sides for site in side]
    taps = {tap["site"]: tap["sha256"] for tap in result["taps"]}
    errors = [math.inf if site["relative_l2"] is None else site["relative_l2"] for site in sites]
    departed = [site["site"] for site, error in zip(sites, errors, strict=True) if error > 0]
    largest = max(errors)
    return {
        "sites": len(taps),
        "sides": len(sides),
        "tokens": len(result["ids"][0]),
        "largest_relative_error": largest if math.isfinite(largest) else None,
        "differing_sites": len(set(departed)),
        "first_differing_site": departed[0] if departed else "none",
        "sites_unlike_memory": sum(
            taps[site] != digest for site, digest in result["in_memory"].items()
        ),
    }


def summary(measured: Measurements) -> str:
    """Say in a line what came out."""
    if measured["first_differing_site"] == "none":
        return f"no fault: {measured['sites']} sites agree bit for bit on {measured['sides']} files"
    return f"first difference at {measured['first_differing_site']}"


STAGE = Stage(
    name="bisect",
    version=VERSION,
    ref_type=TraceRef,
    measure=measure,
    summary=summary,
    gates=(
        Gate(
            id="bisect.agrees",
            sentence="the sealed checkpoint computes what the trained model computes",
            measured="largest_relative_error",
            operator="<=",
            threshold="thresholds.max_trace_error",
        ),
        Gate(
            id="bisect.memory",
            sentence="every operation equals, bit for bit, the model in the trainer's memory",
            measured="sites_unlike_memory",
            operator="==",
            threshold=0,
            required=False,
        ),
    ),
)


def recipe(checkpoint: str, thresholds: Thresholds) -> Recipe:
    """Name all that decides the result."""
    return Recipe(
        stage=STAGE.name,
        version=VERSION,
        settings={"max_trace_error": thresholds.max_trace_error},
        inputs={"checkpoint": checkpoint},
    )


@stage_task("bisect", "trace {checkpoint.short} against the trained model")
def bisect_task(
    run: Run, checkpoint: CheckpointRef, thresholds: Thresholds, runtime: RuntimeSettings
) -> TraceRef:
    """Trace a sealed checkpoint against the snapshot that it was sealed from."""

    def build(out: Path) -> dict[str, Any]:
        torch.set_num_threads(num_threads(runtime))
        store = open_store()
        return trace_checkpoint(
            store, store.open(checkpoint), choose_device(runtime), thresholds, out
        )

    done = perform(
        run,
        STAGE,
        recipe(str(checkpoint), thresholds),
        build,
        thresholds=asdict(thresholds),
        tracking=tracking(),
    )
    for name in (TEXT, CSV):
        shutil.copyfile(done.artefact.directory / name, run.directory / name)
    draw_disagreements(done.artefact, run.directory / PLOT)
    show_plot(run.directory / PLOT, "bisect-heat-map", summary(done.record["measurements"]))
    publish(run, STAGE, done.record)
    return TraceRef(done.ref.digest)


def draw_disagreements(artefact: Artefact, path: Path) -> None:
    """Draw the larger error of both files at every site, over the rounding of one number."""
    result: Any = read_object(artefact.directory / RESULT)
    worst: dict[str, float] = {}
    for sites in result["candidates"].values():
        for site in sites:
            error = math.inf if site["relative_l2"] is None else site["relative_l2"]
            worst[site["site"]] = max(worst.get(site["site"], 0.0), error / ROUNDING)
    kinds, ratios = by_layer(worst)
    title = "the sealed checkpoint beside the trained model"
    draw_heat_map(path, kinds, ratios, title=title, label="relative L2 over 2^-24")


def trace_checkpoint(
    store: Store, checkpoint: Artefact, device: str, thresholds: Thresholds, out: Path
) -> dict[str, Any]:
    """Trace the trained model and both files of its checkpoint on the probe.

    Raises: ImportedError.
    """
    content = checkpoint.index["content"]
    if "training" not in content:
        raise ImportedError(checkpoint.ref.short, "training to compare it with")
    training = store.open(parse_ref(content["training"]))
    snapshot = Snapshot.of_epoch(training.directory / SNAPSHOTS, int(content["epoch"]))
    ids_BT = _probe(store, snapshot).to(device)
    model = load_apr(snapshot.weights, device)
    reference = trace(model, ids_BT, keep_tensors=True)
    candidates = {
        APR: load_apr(checkpoint.directory / APR, device),
        "model.safetensors": load_directory(checkpoint.directory, device),
    }
    compared = {
        name: compare(reference, trace(candidate, ids_BT, keep_tensors=True))
        for name, candidate in candidates.items()
    }
    bar = thresholds.max_trace_error
    departures = {
        name: first_departure(found, max_relative_l2=bar) for name, found in compared.items()
    }
    result = {
        "ids": reference.ids,
        "taps": [asdict(tap) for tap in reference.taps],
        "in_memory": read_fingerprint(snapshot.state),
        "candidates": {name: [asdict(site) for site in found] for name, found in compared.items()},
        "first_departures": {name: each and each.site for name, each in departures.items()},
    }
    (out / RESULT).write_bytes(pretty(finite(result)))
    _write_text(out, checkpoint, model.settings, reference)
    return {"checkpoint": str(checkpoint.ref), "tokens": ids_BT.numel()}


def _probe(store: Store, snapshot: Snapshot) -> Tensor:
    shards = store.open(parse_ref(str(snapshot.read()["shards"])))
    return probe_ids(open_rows(shards.directory, shards.read_index(ShardsIndex), "val"))


def _write_text(out: Path, checkpoint: Artefact, settings: LlamaSettings, found: Trace) -> None:
    header = TraceHeader(
        model_path=f"{checkpoint.ref.short}/{APR}",
        contract=f"{len(found.taps)} taps compared with the trained model",
        file_format="APR (native)",
        tokenizer=f"Tokenizer: embedded BPE, {settings.vocab_size} tokens",
        prompt="(first validation row)",
    )
    (out / TEXT).write_text(trace_text(header, settings, found))
    (out / CSV).write_text(sub_ffn_csv(found))
