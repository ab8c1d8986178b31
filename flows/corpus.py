"""Refresh a corpus: fetch what its source lists by now, tokenize it and lay out rows."""

from prefect import flow

from flows.run import Finished, recorded
from flows.settings import load_settings
from tasks.fetch import fetch_task
from tasks.pretokenize import pretokenize_task
from tasks.run_record import Run
from tasks.shard import shard_task


@flow(name="corpus", flow_run_name="{name}: corpus of {preset}", persist_result=False)
def corpus_flow(
    name: str = "corpus", preset: str = "demo", overrides: tuple[str, ...] = ()
) -> Finished:
    """Make shards of what the source has now; what has not changed is reused.

    Args:
        name: The first part of the run's name; the day is added.
        preset: A preset that comes with assay, or the path of a TOML file.
        overrides: Settings that differ from the preset, each as `section.key=value`.
    """
    settings = load_settings(preset, overrides)
    request = {"flow": "corpus", "preset": preset, "overrides": list(overrides)}

    def stages(run: Run) -> object:
        thresholds, runtime = settings.thresholds, settings.runtime
        fetch_task(settings.source, runtime)
        pretokenize, bounds = settings.pretokenize, settings.pretokenize.bounds
        tokens = pretokenize_task(
            run,
            settings.source,
            settings.filters,
            settings.tokenizer,
            pretokenize,
            thresholds,
            runtime,
        )
        return shard_task(run, tokens, settings.shard, bounds, thresholds, runtime)

    return recorded(name, settings, request, stages)
