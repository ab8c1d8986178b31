"""Who may reach the servers of `assay up`: this machine alone, or others, and then with a login."""

import importlib.util
import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass

from flows.errors import OpenServerError, WrongValueError
from tasks import places
from tasks.errors import FeatureError

LOOPBACK = "127.0.0.1"
PREFECT_LOGIN = "PREFECT_SERVER_API_AUTH_STRING"
MLFLOW_LOGIN = ("MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY")
AUTH_CONFIG = "auth.ini"


@dataclass(frozen=True, slots=True)
class Exposure:
    """Where servers listen, and whether MLflow asks for a login."""

    host: str = LOOPBACK
    has_mlflow_login: bool = False

    @property
    def reachable(self) -> str:
        """Where this machine itself reaches them."""
        return LOOPBACK if self.host == "0.0.0.0" else self.host  # noqa: S104  # compared

    def mlflow_options(self) -> list[str]:
        """Return the options that have MLflow ask for a login."""
        return ["--app-name", "basic-auth"] if self.has_mlflow_login else []

    def mlflow_environment(self) -> dict[str, str]:
        """Say where MLflow keeps its users: beside its database, not where it was started."""
        if not self.has_mlflow_login or "MLFLOW_AUTH_CONFIG_PATH" in os.environ:
            return {}
        path = places.mlflow_directory() / AUTH_CONFIG
        path.parent.mkdir(parents=True, exist_ok=True)
        users = path.with_name("users.db")
        function = "mlflow.server.auth:authenticate_request_basic_auth"
        path.write_text(
            f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{users}\n"
            f"authorization_function = {function}\n"
        )
        return {"MLFLOW_AUTH_CONFIG_PATH": str(path)}


def exposure(host: str, environment: Mapping[str, str]) -> Exposure:
    """Decide who may reach servers that listen at a host, by the logins of the environment.

    Raises: OpenServerError if others may and need no login, FeatureError if a package is missing,
        WrongValueError.
    """
    if ":" in host or not host:
        raise WrongValueError("up", "--host", host, "an IPv4 address or a name")
    has_mlflow_login = all(environment.get(name) for name in MLFLOW_LOGIN)
    if not is_loopback(host):
        for name in (PREFECT_LOGIN, *MLFLOW_LOGIN):
            if not environment.get(name):
                raise OpenServerError(host, name)
    if has_mlflow_login and importlib.util.find_spec("flask_wtf") is None:
        raise FeatureError(MLFLOW_LOGIN[0], "set", "Flask-WTF")
    return Exposure(host, has_mlflow_login)


def own_login(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what clients of this process need to get into the Prefect server that it starts."""
    login = environment.get(PREFECT_LOGIN)
    return {"PREFECT_API_AUTH_STRING": login} if login else {}


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches what listens at a host; names are not looked up."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
