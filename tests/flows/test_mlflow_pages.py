"""Where links to MLflow lead."""

import pytest

from flows.mlflow_pages import experiment_page
from tasks.mirroring import experiment_id

SERVER = "http://127.0.0.1:5000"


@pytest.mark.parametrize(
    ("experiment", "page"),
    [
        ("7", "#/experiments/7?workflowType=machine_learning"),
        (None, "#/experiments?workflowType=machine_learning"),
    ],
)
def test_a_link_says_that_it_is_trainings_that_are_wanted(
    experiment: str | None, page: str
) -> None:
    assert experiment_page(SERVER, experiment) == f"{SERVER}/{page}"


def test_an_mlflow_that_cannot_be_asked_has_no_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://")
    assert experiment_id() is None
