"""Servers are for this machine alone, or ask for a login; a login that is wrong is a sentence."""

import base64
import importlib.util
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flows.cli import run
from flows.environment import require_login
from flows.errors import OpenServerError, ServerRefusedError, WrongValueError
from flows.exit_codes import exit_code
from flows.exposure import Exposure, exposure, own_login
from tasks.errors import FeatureError

LOGINS = {
    "PREFECT_SERVER_API_AUTH_STRING": "me:secret",
    "MLFLOW_AUTH_ADMIN_PASSWORD": "a-long-secret",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "another",
}


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "8.8.8.8", "team.example.org"])
@pytest.mark.parametrize("missing", LOGINS)
@pytest.mark.parametrize("empty", [True, False])
def test_servers_that_others_reach_need_every_login(host: str, missing: str, empty: bool) -> None:
    given = {**LOGINS, missing: ""}
    if not empty:
        del given[missing]
    with pytest.raises(OpenServerError) as caught:
        exposure(host, given)
    assert (caught.value.host, caught.value.variable) == (host, missing)
    assert exit_code(caught.value) == 2


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost"])
def test_servers_of_this_machine_alone_need_none(host: str) -> None:
    assert exposure(host, {}) == Exposure(host, has_mlflow_login=False)


@pytest.mark.parametrize("host", ["::", "::1", ""])
def test_a_host_that_cannot_be_bound_is_refused(host: str) -> None:
    with pytest.raises(WrongValueError):
        exposure(host, LOGINS)


def test_with_logins_mlflow_asks_for_one_and_keeps_its_users_at_home(home: Path) -> None:
    found = exposure("0.0.0.0", LOGINS)
    assert found.mlflow_options() == ["--app-name", "basic-auth"]
    assert found.reachable == "127.0.0.1"
    config = Path(found.mlflow_environment()["MLFLOW_AUTH_CONFIG_PATH"])
    assert config.is_relative_to(home)
    assert f"sqlite:///{home}/mlflow/users.db" in config.read_text()
    assert "secret" not in config.read_text()
    # Without a name for its first user MLflow does not start.
    assert "\nadmin_username = assay\n" in config.read_text()


def test_who_asks_by_a_name_of_this_machine_is_let_in(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = "MLFLOW_SERVER_ALLOWED_HOSTS"
    monkeypatch.delenv(variable, raising=False)
    anywhere = exposure("0.0.0.0", LOGINS).mlflow_environment()[variable].split(",")
    for name in ("127.0.0.1", "localhost", socket.gethostname()):
        assert {name, f"{name}:*"} <= {*anywhere}
    assert not any(name.startswith("*") for name in anywhere)
    named = exposure("team.example.org", LOGINS).mlflow_environment()
    assert named[variable] == "team.example.org,team.example.org:*"
    assert variable not in exposure("127.0.0.1", LOGINS).mlflow_environment()
    monkeypatch.setenv(variable, "proxy.example.org")
    assert variable not in exposure("0.0.0.0", LOGINS).mlflow_environment()


def test_a_page_asks_the_address_that_it_came_from() -> None:
    assert exposure("0.0.0.0", LOGINS).prefect_api_path == "/api"
    assert exposure("127.0.0.1", {}).prefect_api_path is None


def test_without_logins_mlflow_is_started_as_ever() -> None:
    assert Exposure().mlflow_options() == []
    assert Exposure().mlflow_environment() == {}


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(FeatureError, match="Flask-WTF"):
        exposure("0.0.0.0", LOGINS)


def test_who_starts_the_server_has_its_login() -> None:
    assert own_login(LOGINS) == {"PREFECT_API_AUTH_STRING": "me:secret"}
    assert own_login({}) == {}


@pytest.mark.usefixtures("own_places")
def test_an_open_server_is_refused_before_anything_starts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in LOGINS:
        monkeypatch.delenv(name, raising=False)
    assert run(["up", "--host", "0.0.0.0"]) == 2
    said = capsys.readouterr().err
    assert "--host 0.0.0.0: PREFECT_SERVER_API_AUTH_STRING is not set, should be" in said
    assert "hint: " in said
    assert not Path(os.environ["ASSAY_HOME"]).exists()


@pytest.fixture
def prefect() -> Iterator[str]:
    """A Prefect server as far as its login goes."""

    class Door(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            word = "Basic " + base64.b64encode(b"me:secret").decode()
            self.send_response(200 if self.headers["Authorization"] == word else 401)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/api"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("login", ["", "me:wrong"])
def test_a_server_that_refuses_our_login_is_said_before_the_run(
    prefect: str, login: str, own_places: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.environ["PREFECT_API_URL"] = prefect
    os.environ["PREFECT_API_AUTH_STRING"] = login
    with pytest.raises(ServerRefusedError) as caught:
        require_login()
    assert (caught.value.url, caught.value.status) == (prefect, 401)
    assert run(["run", "--preset", "smoke"]) == 10
    said = capsys.readouterr().err
    assert f"PREFECT_API_URL: {prefect} answers 401 to our login" in said
    assert "Traceback" not in said
    assert not (own_places / "evidence").exists()


def test_a_server_that_lets_us_in_is_not_complained_of(prefect: str, own_places: Path) -> None:
    os.environ["PREFECT_API_URL"] = prefect
    os.environ["PREFECT_API_AUTH_STRING"] = "me:secret"
    require_login()
