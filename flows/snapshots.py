"""Evaluate one snapshot of a run, as soon as it is there: started by the event that tells of it."""

from prefect import flow

from evidence.refs import ShardsRef, parse_ref
from flows.run import Finished, recorded
from flows.settings import planned_settings, possible_here
from tasks.errors import NotFoundError
from tasks.evaluate import evaluate_task
from tasks.live import training_directory
from tasks.run_record import Run
from tasks.scored_model import scored
from tasks.shared_runs import find_shared_run
from tasks.shared_snapshots import fetch_snapshot
from tasks.snapshots import EPOCH, SNAPSHOTS, Snapshot


@flow(name="snapshot", flow_run_name="{run}: evaluate {snapshot}", persist_result=False)
def snapshot_flow(run: str, snapshot: str, overrides: tuple[str, ...] = ()) -> Finished:
    """Score a snapshot by the settings of its run, as a run of its own.

    Args:
        run: The run that trains, or has trained.
        snapshot: Its snapshot, such as `epoch-003`.
        overrides: Settings that differ from the run's, each as `section.key=value`.
    """
    trained = find_shared_run(run)
    found = _find(trained, snapshot)
    settings = possible_here(planned_settings(trained.plan(), overrides))
    record = found.read()
    model, shards = scored(str(found.weights)), ShardsRef(parse_ref(record["shards"]).digest)
    trend = {"run": trained.name, "epoch": found.epoch}
    request = {"flow": "snapshot", "overrides": list(overrides), "trend": trend, **model.inputs}
    return recorded(
        f"{trained.name}-{snapshot}",
        settings,
        request,
        lambda own: evaluate_task(
            own,
            model,
            shards,
            settings.evaluate,
            settings.code_benchmark,
            settings.thresholds,
            settings.runtime,
        ),
    )


def _find(run: Run, name: str) -> Snapshot:
    """Find a snapshot where the training is now: it moves into the store at its end.

    Raises: NotFoundError.
    """
    training = training_directory(run)
    where = str(run.directory if training is None else training)
    # The name comes with an event, which anybody may send who reaches the server.
    if not EPOCH.fullmatch(name):
        raise NotFoundError(f"snapshot {name}", where)
    if training is not None:
        found = Snapshot(training / SNAPSHOTS, name)
        if found.record.is_file():
            return found
    if elsewhere := fetch_snapshot(run, name):
        return elsewhere
    raise NotFoundError(f"snapshot {name}", where)
