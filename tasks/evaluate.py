"""Evaluate: score a model on validation rows, and the code that it writes.

The loss stands beside models that only count and compressors, the code beside controls.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from evidence.gates import Gate, Measurements
from evidence.records import Recipe
from evidence.refs import EvaluationRef, ShardsRef, parse_ref
from tasks.code_benchmark import problems_sha256
from tasks.code_benchmark_settings import CodeBenchmarkSettings
from tasks.code_evaluation import (
    WRITTEN_GATES,
    decoding_measurements,
    have_code_written,
    written_measurements,
    written_summary,
)
from tasks.device import num_threads
from tasks.evaluate_settings import EvaluateSettings
from tasks.loss_evaluation import loss_measurements, score_losses
from tasks.loss_tables import illustrate_losses
from tasks.prefect_task import publish, stage_task, tracking
from tasks.preflight import check_tokenizer
from tasks.run_record import Run
from tasks.runtime import RuntimeSettings
from tasks.scored_model import Scored
from tasks.stage import Built, Stage, perform
from tasks.store import Artefact, open_store
from tasks.thresholds import Thresholds
from tasks.written_tables import illustrate_written

VERSION = 6


def measure(artefact: Artefact) -> Measurements:
    """Compute everything again from what the evaluation kept."""
    content = artefact.index["content"]
    epoch = {} if content["epoch"] is None else {"epoch": content["epoch"]}
    return {**epoch, **loss_measurements(artefact), **written_measurements(artefact)}


def summary(measured: Measurements) -> str:
    """Say in a line what came out."""
    return (
        f"{measured['val_loss']:.3f} nats, {measured['val_bits_per_byte']:.3f} bits a byte; "
        f"5-gram {measured['five_gram_nats']:.3f} nats, {measured['five_gram_bits_per_byte']:.3f} "
        f"bits; xz {measured['xz_stream_bits_per_byte']:.3f} bits{written_summary(measured)}"
    )


STAGE = Stage(
    name="evaluate",
    version=VERSION,
    ref_type=EvaluationRef,
    measure=measure,
    measure_observed=decoding_measurements,
    summary=summary,
    gates=(
        Gate(
            id="evaluate.forward",
            sentence="the model predicts what a plain float64 implementation does",
            measured="forward_error",
            operator="<=",
            threshold="thresholds.max_forward_error",
        ),
        Gate(
            id="evaluate.reload",
            sentence="the saved weights score what the model in training scored",
            measured="reload_drift",
            operator="<=",
            threshold="thresholds.max_reload_drift",
            # Only the weights and rows of a training's own epoch have such a loss.
            if_measured=True,
        ),
        Gate(
            id="evaluate.unigram",
            sentence="the model predicts better than a table of token frequencies",
            measured="loss_to_unigram",
            operator="<=",
            threshold="thresholds.max_loss_to_unigram",
        ),
        Gate(
            id="evaluate.bigram",
            sentence="the model predicts better than an interpolated bigram",
            measured="loss_to_bigram",
            operator="<=",
            threshold="thresholds.max_loss_to_bigram",
            required=False,
        ),
        *WRITTEN_GATES,
    ),
)


def _illustrate(run: Run, artefact: Artefact) -> None:
    illustrate_losses(run, artefact)
    illustrate_written(run, artefact)


def recipe(
    model: Mapping[str, str],
    shards: str,
    tokens: str | None,
    settings: EvaluateSettings,
    code: CodeBenchmarkSettings,
) -> Recipe:
    """Name all that decides the result; `tokens` are those that the shards were made of."""
    inputs = {**model, "shards": shards}
    if tokens:
        inputs["tokens"] = tokens
    if problems := problems_sha256(code):
        inputs["problems"] = f"sha256:{problems}"
    return Recipe(
        stage=STAGE.name,
        version=STAGE.version,
        settings={"evaluate": asdict(settings), "code_benchmark": asdict(code)},
        inputs=inputs,
    )


@stage_task("evaluate", "evaluate {model.short} on {shards.short}")
def evaluate_task(
    run: Run,
    model: Scored,
    shards: ShardsRef,
    settings: EvaluateSettings,
    code: CodeBenchmarkSettings,
    thresholds: Thresholds,
    runtime: RuntimeSettings,
) -> EvaluationRef:
    """Score a model on the validation rows of shards, and run the code that it writes."""
    store = open_store()
    tokens = store.origin(shards).get("tokens")

    def build(out: Path) -> Built:
        torch.set_num_threads(num_threads(runtime))
        rows, opened = store.open(shards), model.open(store)
        check_tokenizer(model.short, opened.tokenizer_sha256, rows.directory)
        corpus = store.open(parse_ref(tokens)) if tokens else None
        found = score_losses(opened, rows, corpus, settings, runtime, out)
        kept, observed = have_code_written(opened, rows, corpus, settings, code, runtime, out)
        asked = {"code_benchmark": code.as_kept()}
        return Built({**opened.facts(shards), **found, **asked, **kept}, observed)

    done = perform(
        run,
        STAGE,
        recipe(model.inputs, str(shards), tokens, settings, code),
        build,
        thresholds=asdict(thresholds),
        illustrate=lambda artefact: _illustrate(run, artefact),
        tracking=tracking(),
    )
    publish(run, STAGE, done.record)
    return EvaluationRef(done.ref.digest)
