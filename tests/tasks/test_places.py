from pathlib import Path

import pytest

from tasks import places


def test_without_an_environment_everything_is_inside_the_project(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("ASSAY_HOME", "ASSAY_STORE", "ASSAY_EVIDENCE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    project = Path(__file__).resolve().parents[2]
    assert project == places.PROJECT
    assert places.home() == project / ".assay"
    assert places.store() == project / ".assay" / "store"
    assert places.evidence() == project / "evidence"
    assert places.mlflow_uri() == f"sqlite:///{project}/.assay/mlflow/mlflow.db"


def test_the_environment_says_where_things_live(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path))
    monkeypatch.setenv("ASSAY_EVIDENCE", str(tmp_path / "records"))
    monkeypatch.delenv("ASSAY_STORE", raising=False)
    assert places.store() == tmp_path / "store"
    monkeypatch.setenv("ASSAY_STORE", "relative/store")
    assert places.store() == Path.cwd() / "relative" / "store"
    assert places.evidence() == tmp_path / "records"
    assert places.mlflow_lock() == tmp_path / "mlflow" / "lock"


def test_a_tracking_uri_of_the_user_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert places.mlflow_uri() == "http://127.0.0.1:5000"
