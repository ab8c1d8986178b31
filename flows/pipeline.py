"""The pipeline: six stages as one flow run, each a task that passes a ref to the next."""

from prefect import flow
from prefect.runtime import flow_run

from data.pretokenize import TokensIndex
from flows.after_failure import bisected_after
from flows.approval import wait_for_approval
from flows.errors import FlowError
from flows.run import Finished, recorded
from flows.settings import PipelineSettings, load_settings, possible_here
from tasks.bisection import bisect_task
from tasks.checkpoint import checkpoint_task
from tasks.code_benchmark import check_ready
from tasks.device import choose_device
from tasks.evaluate import evaluate_task
from tasks.known_errors import KNOWN_ERRORS
from tasks.preflight import check_held_out
from tasks.pretokenize import pretokenize_task
from tasks.run_record import Run
from tasks.scored_model import ScoredTraining
from tasks.shard import shard_task
from tasks.store import open_store
from tasks.train import train_task


def _run_name() -> str:
    """Say what runs and on which data; settings that cannot be read are refused later."""
    asked = flow_run.parameters
    name = f"{asked['name']}: {asked['preset']}"
    try:
        settings = load_settings(asked["preset"], asked["overrides"])
    except (FlowError, *KNOWN_ERRORS):
        return name
    return f"{name} on {settings.source.kind}"


@flow(name="pipeline", flow_run_name=_run_name, persist_result=False)
def pipeline(
    name: str = "demo",
    preset: str = "demo",
    overrides: tuple[str, ...] = (),
    ask_first: bool = False,  # noqa: FBT001, FBT002  # a field of the form
) -> Finished:
    """Take source code to a sealed, evaluated and traced model.

    Args:
        name: The first part of the run's name; the day is added.
        preset: A preset that comes with assay, or the path of a TOML file.
        overrides: Settings that differ from the preset, each as `section.key=value`.
        ask_first: Wait until somebody resumes the run before it begins.
    """
    settings = possible_here(load_settings(preset, overrides))
    if ask_first:
        wait_for_approval(settings)
    request = {"flow": "pipeline", "preset": preset, "overrides": list(overrides)}
    return recorded(name, settings, request, lambda run: _judged(run, settings))


def _judged(run: Run, settings: PipelineSettings) -> object:
    with bisected_after(run, settings.runtime):
        return _stages(run, settings)


def _stages(run: Run, settings: PipelineSettings) -> object:
    thresholds, runtime = settings.thresholds, settings.runtime
    choose_device(runtime)  # refuses a device that is not there before any work is done
    check_ready(settings.code_benchmark)
    pretokenize, bounds = settings.pretokenize, settings.pretokenize.bounds
    tokens = pretokenize_task(
        run, settings.source, settings.filters, settings.tokenizer, pretokenize, thresholds, runtime
    )
    index = open_store().peek(tokens).read_index(TokensIndex)
    fraction, min_val_batches = pretokenize.validation_fraction, thresholds.min_val_batches
    check_held_out(index, fraction, settings.shard, settings.train, min_val_batches)
    shards = shard_task(run, tokens, settings.shard, bounds, thresholds, runtime)
    training = train_task(run, shards, settings.model, settings.train, thresholds, runtime)
    scored, evaluate, code = ScoredTraining(training), settings.evaluate, settings.code_benchmark
    evaluation = evaluate_task(run, scored, shards, evaluate, code, thresholds, runtime)
    checkpoint = checkpoint_task(run, evaluation, settings.checkpoint, thresholds)
    bisect_task(run, checkpoint, thresholds, runtime)
    return checkpoint
