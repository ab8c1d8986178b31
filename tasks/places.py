"""Where things live on this machine: the one module that reads assay's environment variables."""

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def home() -> Path:
    """Directory of everything that can be made again or belongs to this machine (`ASSAY_HOME`)."""
    return Path(os.environ.get("ASSAY_HOME", PROJECT / ".assay")).absolute()


def store() -> Path:
    """Directory of the artefacts (`ASSAY_STORE`); the cache of a store that is elsewhere."""
    text = os.environ.get("ASSAY_STORE")
    return Path(text).absolute() if text and "://" not in text else home() / "store"


def store_url() -> str | None:
    """Where the artefacts are if that is no directory of this machine (`ASSAY_STORE`)."""
    text = os.environ.get("ASSAY_STORE")
    return text if text and "://" in text else None


def evidence() -> Path:
    """Directory of the run records (`ASSAY_EVIDENCE`)."""
    return Path(os.environ.get("ASSAY_EVIDENCE", PROJECT / "evidence")).absolute()


def mlflow_directory() -> Path:
    """Directory of the embedded MLflow database and artifacts."""
    return home() / "mlflow"


def mlflow_lock() -> Path:
    """The lock that whoever may make the embedded MLflow database holds."""
    return mlflow_directory() / "lock"


def mlflow_uri() -> str:
    """Tracking URI: the user's `MLFLOW_TRACKING_URI`, else the embedded database."""
    embedded = f"sqlite:///{mlflow_directory() / 'mlflow.db'}"
    return os.environ.get("MLFLOW_TRACKING_URI", embedded)
