"""Places of their own for the tests of the flows, and an environment that is put back."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

USERS = ("ASSAY_STORE", "MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME")


@contextmanager
def places_in(directory: Path) -> Iterator[None]:
    """Keep everything in a directory; `prepare()` fills the environment, so restore all of it."""
    before = dict(os.environ)
    for name in USERS:
        os.environ.pop(name, None)
    os.environ["ASSAY_HOME"] = str(directory / "home")
    os.environ["ASSAY_EVIDENCE"] = str(directory / "evidence")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def own_places(tmp_path: Path) -> Iterator[Path]:
    with places_in(tmp_path):
        yield tmp_path
