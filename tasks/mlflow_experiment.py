"""The MLflow experiment that holds all runs, made by whoever needs it first."""

import sys

from mlflow import MlflowClient

from tasks import places
from tasks.store import locked

EXPERIMENT = "assay"


def open_client() -> tuple[MlflowClient, str]:
    """Connect to the tracking server; the embedded database is made by one process at a time."""
    uri = places.mlflow_uri()
    with locked(places.mlflow_lock(), what="the MLflow database", wait=True):
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    return client, uri


def require_experiment(client: MlflowClient) -> str:
    """Return the id of the experiment, which is made if there is none."""
    with locked(places.mlflow_lock(), what="the MLflow database", wait=True):
        if known := client.get_experiment_by_name(EXPERIMENT):
            return str(known.experiment_id)
        location = None
        if client.tracking_uri.startswith("sqlite:"):
            location = (places.mlflow_directory() / "artifacts").as_uri()
        return str(client.create_experiment(EXPERIMENT, artifact_location=location))


if __name__ == "__main__":
    sys.stdout.write(require_experiment(open_client()[0]) + "\n")
