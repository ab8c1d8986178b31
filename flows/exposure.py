"""Who may reach the servers of `assay up`: this machine alone, or others, and then with a login."""

import importlib.util
import ipaddress
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from flows.errors import OpenServerError, WrongValueError
from tasks import places
from tasks.errors import FeatureError

LOOPBACK = "127.0.0.1"
ANY = "0.0.0.0"  # noqa: S104  # compared
PREFECT_LOGIN = "PREFECT_SERVER_API_AUTH_STRING"
MLFLOW_LOGIN = ("MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY")
MLFLOW_ADMIN = "assay"
"MLflow's first user, unless MLFLOW_AUTH_ADMIN_USERNAME is another; MLflow itself knows none."
AUTH_CONFIG = "auth.ini"
AUTH_CACHE_SECONDS = 60
"A password is hashed on purpose slowly, and else would be for every request."


@dataclass(frozen=True, slots=True)
class Exposure:
    """Where servers listen, and whether MLflow asks for a login."""

    host: str = LOOPBACK
    has_mlflow_login: bool = False

    @property
    def reachable(self) -> str:
        """Where this machine itself reaches them."""
        return LOOPBACK if self.host == ANY else self.host

    @property
    def prefect_api_path(self) -> str | None:
        """Return the API's path where a browser must ask the address that it has the page from."""
        return "/api" if self.host == ANY else None

    def mlflow_options(self) -> list[str]:
        """Return the options that have MLflow ask for a login."""
        return ["--app-name", "basic-auth"] if self.has_mlflow_login else []

    def mlflow_environment(self) -> dict[str, str]:
        """Say where MLflow keeps its users, and by which names it may be asked.

        What is set already stands. The users are beside its database, not where it was started.
        """
        given: dict[str, str] = {}
        if not is_loopback(self.host):
            names = own_names(self.host)
            given["MLFLOW_SERVER_ALLOWED_HOSTS"] = ",".join(
                pattern for name in names for pattern in (name, f"{name}:*")
            )
        if self.has_mlflow_login and "MLFLOW_AUTH_CONFIG_PATH" not in os.environ:
            given["MLFLOW_AUTH_CONFIG_PATH"] = str(_write_auth_config())
        return {name: value for name, value in given.items() if name not in os.environ}


def _write_auth_config() -> Path:
    path = places.mlflow_directory() / AUTH_CONFIG
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "[mlflow]\ndefault_permission = READ\n"
        f"admin_username = {MLFLOW_ADMIN}\n"
        f"database_uri = sqlite:///{path.with_name('users.db')}\n"
        f"auth_cache_ttl_seconds = {AUTH_CACHE_SECONDS}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    return path


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


def own_names(host: str) -> list[str]:
    """Return under which names and addresses others ask for what listens at a host."""
    if host != ANY:
        return [host]
    cards = psutil.net_if_addrs().values()
    addresses = {each.address for card in cards for each in card if each.family == socket.AF_INET}
    return sorted({"localhost", socket.gethostname(), *addresses})
