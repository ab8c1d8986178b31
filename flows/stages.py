"""Each stage as a flow of its own: refs in, ref out."""

from typing import Any

from prefect import flow
from prefect.states import Failed

from data.shard import ShardsIndex
from evidence.refs import CheckpointRef, Ref, ShardsRef, TokensRef, TrainingRef
from flows.refs import resolve, resolve_evaluation
from flows.run import Finished, recorded
from flows.settings import load_settings, possible_here
from tasks.bisection import bisect_task
from tasks.checkpoint import checkpoint_task
from tasks.evaluate import evaluate_task
from tasks.fetch import fetch_task
from tasks.known_errors import KNOWN_ERRORS
from tasks.preflight import check_context
from tasks.pretokenize import pretokenize_task
from tasks.run_record import Run
from tasks.scored_model import scored
from tasks.shard import shard_task
from tasks.store import open_store
from tasks.train import train_task

Overrides = tuple[str, ...]


@flow(name="fetch", flow_run_name="{preset}: fetch", persist_result=False)
def fetch_flow(preset: str, overrides: Overrides = ()) -> dict[str, Any]:
    """Fetch the contents that the preset's source only lists."""
    settings = load_settings(preset, overrides)
    try:
        return fetch_task(settings.source, settings.runtime)
    except KNOWN_ERRORS as error:
        return Failed(message=str(error), data=error)  # type: ignore[return-value]  # a state


@flow(name="pretokenize", flow_run_name="{name}: pretokenize", persist_result=False)
def pretokenize_flow(name: str, preset: str, overrides: Overrides = ()) -> Finished:
    """Make token files of the preset's source."""
    settings = load_settings(preset, overrides)
    request = _request("pretokenize", preset, overrides)
    return recorded(
        name,
        settings,
        request,
        lambda run: pretokenize_task(
            run,
            settings.source,
            settings.filters,
            settings.tokenizer,
            settings.pretokenize,
            settings.thresholds,
            settings.runtime,
        ),
    )


@flow(name="shard", flow_run_name="{name}: shard {tokens}", persist_result=False)
def shard_flow(name: str, preset: str, tokens: str, overrides: Overrides = ()) -> Finished:
    """Make shuffled rows of token files."""
    settings, ref = load_settings(preset, overrides), resolve(tokens, TokensRef)
    request = _request("shard", preset, overrides, tokens=ref)
    return recorded(
        name,
        settings,
        request,
        lambda run: shard_task(
            run,
            ref,
            settings.shard,
            settings.pretokenize.bounds,
            settings.thresholds,
            settings.runtime,
        ),
    )


@flow(name="train", flow_run_name="{name}: train on {shards}", persist_result=False)
def train_flow(name: str, preset: str, shards: str, overrides: Overrides = ()) -> Finished:
    """Train a model on shards."""
    settings, ref = load_settings(preset, overrides), resolve(shards, ShardsRef)
    request = _request("train", preset, overrides, shards=ref)

    def train(run: Run) -> TrainingRef:
        index = open_store().open(ref).read_index(ShardsIndex)
        check_context(index, settings.shard.context_length)
        return train_task(
            run, ref, settings.model, settings.train, settings.thresholds, settings.runtime
        )

    return recorded(name, settings, request, train)


@flow(name="evaluate", flow_run_name="{name}: evaluate {model}", persist_result=False)
def evaluate_flow(
    name: str, preset: str, model: str, shards: str, overrides: Overrides = ()
) -> Finished:
    """Score a training's best snapshot, a checkpoint or model files on the validation rows."""
    settings, rows = possible_here(load_settings(preset, overrides)), resolve(shards, ShardsRef)
    chosen = scored(model)
    request = {**_request("evaluate", preset, overrides, shards=rows), **chosen.inputs}
    return recorded(
        name,
        settings,
        request,
        lambda run: evaluate_task(
            run,
            chosen,
            rows,
            settings.evaluate,
            settings.code_benchmark,
            settings.thresholds,
            settings.runtime,
        ),
    )


@flow(name="checkpoint", flow_run_name="{name}: seal {evaluation}", persist_result=False)
def checkpoint_flow(name: str, preset: str, evaluation: str, overrides: Overrides = ()) -> Finished:
    """Seal the snapshot that an evaluation scored."""
    settings, ref = load_settings(preset, overrides), resolve_evaluation(evaluation)
    request = _request("checkpoint", preset, overrides, evaluation=ref)
    return recorded(
        name,
        settings,
        request,
        lambda run: checkpoint_task(run, ref, settings.checkpoint, settings.thresholds),
    )


@flow(name="bisect", flow_run_name="{name}: trace {checkpoint}", persist_result=False)
def bisect_flow(name: str, preset: str, checkpoint: str, overrides: Overrides = ()) -> Finished:
    """Trace a sealed checkpoint against the model that was trained."""
    settings, ref = load_settings(preset, overrides), resolve(checkpoint, CheckpointRef)
    request = _request("bisect", preset, overrides, checkpoint=ref)
    return recorded(
        name,
        settings,
        request,
        lambda run: bisect_task(run, ref, settings.thresholds, settings.runtime),
    )


def _request(stage: str, preset: str, overrides: Overrides, **refs: Ref) -> dict[str, object]:
    named = {kind: str(ref) for kind, ref in refs.items()}
    return {"flow": stage, "preset": preset, "overrides": list(overrides), **named}
