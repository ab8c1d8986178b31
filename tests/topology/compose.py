"""Run the services of docker/compose.yaml as processes here, by the file's own commands."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.test_architecture import PROJECT

COMPOSE = PROJECT / "docker" / "compose.yaml"
VARIABLE = re.compile(r"\$\{(?P<name>\w+):\?(?P<complaint>[^}]*)\}")
BIN = Path(sys.executable).parent
PASSED_ON = ("LANG", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")


def services(secrets: Mapping[str, str]) -> dict[str, Any]:
    """Read the services with the secrets filled in; as in compose, a missing one is an error."""

    def fill(match: re.Match[str]) -> str:
        if not secrets.get(match["name"]):
            raise LookupError(f"{match['name']}: {match['complaint']}")
        return secrets[match["name"]]

    found: dict[str, Any] = yaml.safe_load(VARIABLE.sub(fill, COMPOSE.read_text()))["services"]
    return found


def command_of(service: Mapping[str, Any]) -> list[str]:
    return [*service.get("entrypoint", []), *service.get("command", [])]


def environment_of_image() -> dict[str, str]:
    """Return what the Dockerfile's last ENV sets."""
    text = (PROJECT / "docker" / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.startswith("ENV ")]
    return dict(pair.split("=", 1) for pair in lines[-1].removeprefix("ENV ").split())


class Host:
    """Where the services are: every container's address is one of this machine."""

    def __init__(self, ports: Mapping[str, int], directory: Path) -> None:
        self.directory = directory
        self._here = {
            "0.0.0.0": "127.0.0.1",
            "/mlflow.ini": str(PROJECT / "docker" / "mlflow.ini"),
            **{f"{name}:{port}": f"127.0.0.1:{ports[name]}" for name, port in INSIDE.items()},
            **{f"127.0.0.1:{port}": f"127.0.0.1:{ports[name]}" for name, port in INSIDE.items()},
        }
        self._alone = {
            "postgres": "127.0.0.1",
            **{str(port): str(ports[name]) for name, port in INSIDE.items()},
        }

    def here(self, text: str) -> str:
        if text in self._alone:
            return self._alone[text]
        for inside, outside in self._here.items():
            text = text.replace(inside, outside)
        return text

    def environment(self, service: Mapping[str, Any], name: str) -> dict[str, str]:
        """Return all that a service's process finds in its environment: nothing of this one's."""
        volume = self.directory / name
        volume.mkdir(exist_ok=True)
        own = {
            "PATH": f"{BIN}:/usr/bin:/bin",
            "HOME": str(volume),
            "PREFECT_HOME": str(volume / "prefect"),
            **environment_of_image(),
            "ASSAY_HOME": str(volume / "home"),
            "ASSAY_EVIDENCE": str(volume / "evidence"),
            "ASSAY_PROJECT": str(PROJECT),
            **{key: os.environ[key] for key in PASSED_ON if key in os.environ},
        }
        given = {key: self.here(value) for key, value in service.get("environment", {}).items()}
        return {**own, **given}

    def start(
        self, service: Mapping[str, Any], name: str, changes: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a service's command; what it says goes to a file beside its volume."""
        with self.log(name).open("ab") as log:
            return subprocess.Popen(
                [self.here(word) for word in command_of(service)],
                env={**self.environment(service, name), **(changes or {})},
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def log(self, name: str) -> Path:
        return self.directory / f"{name}.log"


INSIDE = {"postgres": 5432, "objects": 7070, "prefect": 4200, "mlflow": 5000}
"The ports inside of the containers."


def stop(process: subprocess.Popen[bytes], patience: float = 20.0) -> None:
    """End a service and whatever it has started."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(patience)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
