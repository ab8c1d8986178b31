"""Prefect and MLflow kept quiet and in a place of their own, and one finished run to look at."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.tasks.tiny import Finished

# Before anything imports Prefect or MLflow: both read their environment once.
_HOME = tempfile.TemporaryDirectory(prefix="assay-tests-", ignore_cleanup_errors=True)
os.environ.update(
    {
        "PREFECT_HOME": f"{_HOME.name}/prefect",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_DISABLE_AGENT_HINT": "true",
        "DO_NOT_TRACK": "true",
    }
)

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> "Finished":
    """One finished run of all six stages, only to be read."""
    from tests.tasks.tiny import make_finished

    return make_finished(tmp_path_factory.mktemp("finished") / "home")


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """Put the environment back: a command fills in what is not set, for its own process."""
    before = dict(os.environ)
    yield
    if os.environ != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def own_threads() -> Iterator[None]:
    """Restore the number of threads: the worker sets that of its process, which here is ours."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home directory that the environment points to."""
    from tests.tasks.tiny import point_to

    directory = tmp_path / "home"
    directory.mkdir()
    point_to(monkeypatch, directory)
    return directory


@pytest.fixture
def reading(finished: "Finished", monkeypatch: pytest.MonkeyPatch) -> "Finished":
    """The finished run with the environment pointing to it."""
    from tests.tasks.tiny import point_to

    point_to(monkeypatch, finished.home)
    return finished


@pytest.fixture
def copied(finished: "Finished", home: Path) -> "Finished":
    """A copy of the finished run that a test may damage."""
    from tests.tasks.tiny import copy_of

    return copy_of(finished, home)
