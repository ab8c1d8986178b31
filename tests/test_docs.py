"""The documents say what the program does: commands, presets, folders, files, exit codes."""

import importlib
import re
import subprocess
import tomllib
from pathlib import Path

import typer.main
import yaml

from evidence.records import STAGES
from flows import exit_codes
from flows.cli import app
from flows.settings import preset_names
from tests.test_architecture import PROJECT

README = (PROJECT / "README.md").read_text()


def rows(heading: str) -> list[str]:
    """First cells of the table that follows a heading."""
    table = README.split(heading, 1)[1].split("\n\n", 1)[0]
    cells = (line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|"))
    return [cell for cell in cells if not set(cell) <= {"-"}]


def test_every_command_is_in_the_readme_and_nothing_else_is() -> None:
    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    documented = set(re.findall(r"`assay ([a-z]+)", " ".join(rows("| command | does |\n"))))
    assert documented == commands


def test_every_command_and_every_option_has_a_help_text() -> None:
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        assert command.help, name


def test_every_preset_is_in_the_readme() -> None:
    assert sorted(rows("| preset | for |\n")) == sorted(f"`{name}`" for name in preset_names())


def test_the_tree_in_the_readme_is_the_tree() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], capture_output=True, text=True, cwd=PROJECT, check=True
    ).stdout.split()
    folders = {name.split("/")[0] for name in listed if "/" in name and not name.startswith(".")}
    house = README.split("## The house", 1)[1].split("```")[1]
    assert set(re.findall(r"^(\w+)/", house, re.MULTILINE)) == folders


def test_the_files_that_the_readme_names_exist() -> None:
    named = set(re.findall(r"`((?:flows|tasks|data|model|evidence)/[\w/]+\.py)`", README))
    assert named
    assert [name for name in sorted(named) if not (PROJECT / name).is_file()] == []


def test_the_exit_codes_in_the_readme_are_those_of_the_table() -> None:
    text = README.split("Exit codes:", 1)[1].split(".", 1)[0]
    documented = {int(number) for number in re.findall(r"\b(\d+) [a-z]", text)}
    constants = {
        value for name, value in vars(exit_codes).items() if name.isupper() and type(value) is int
    }
    assert documented == constants | {0}
    assert set(exit_codes.EXIT_CODES.values()) <= documented


def test_the_transcript_has_the_columns_and_the_stages_of_a_run() -> None:
    transcript = README.split("<!-- transcript:", 1)[1].split("<!-- end", 1)[0]
    lines = [line for line in transcript.splitlines()[2:] if line.strip() and line[0] != "`"]
    header = next(i for i, line in enumerate(lines) if line.startswith("stage "))
    assert lines[header].split() == ["stage", "seconds", "outcome", "figures", "gates"]
    assert [line.split()[0] for line in lines[:header]] == [
        *("pipeline,", "planned", "warning:"),
        *STAGES,
    ]
    # A long cell goes on in the next line.
    rows = [line for line in lines[header + 1 :] if not line.startswith(" ")]
    assert [line.split()[0] for line in rows] == [
        *STAGES,
        "output",
        "complete",
        "watch",
        "evidence",
    ]


def test_the_deployments_name_a_flow_that_exists_and_its_parameters() -> None:
    from flows.deployments import deployments

    served = {each.name: each for each in deployments("15 3 * * *", "demo")}
    declared = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
    assert sorted(each["name"] for each in declared) == sorted(served)
    for each in declared:
        own = served[each["name"]]
        assert each["description"] == own.description
        assert each["tags"] == own.tags
        assert each.get("parameters", {}) == own.parameters
        crons = [schedule["cron"] for schedule in each.get("schedules", ())]
        assert crons == [schedule.schedule.cron for schedule in own.schedules or ()]
        path, _, name = each["entrypoint"].partition(":")
        flow = getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)
        assert (PROJECT / path).is_file()
        given = set(each.get("parameters", ()))
        for trigger in each.get("triggers", ()):
            (expected,) = (set(each.expect) for each in own.triggers)
            assert set(trigger["expect"]) == expected
            given |= set(trigger["parameters"])
        assert given <= set(flow.parameters.properties)


def test_the_container_files_agree_with_the_project() -> None:
    compose = yaml.safe_load((PROJECT / "docker/compose.yaml").read_text())
    assert {"prefect", "worker", "mlflow", "postgres", "objects"} <= set(compose["services"])
    for service in compose["services"].values():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:")
    dockerfile = (PROJECT / "docker/Dockerfile").read_text()
    for source in re.findall(r"^COPY (?!--)(.+) \S+$", dockerfile, re.MULTILINE):
        for name in source.split():
            assert (PROJECT / name).exists(), name


def test_the_lock_pins_every_package_to_one_version() -> None:
    for name in ("requirements.lock", "requirements-dev.lock", "requirements-servers.lock"):
        lines = (PROJECT / name).read_text().splitlines()
        loose = [line for line in lines if "==" not in line and not line.startswith(("-r", "#"))]
        assert loose == []
    assert "torch==2.13.0" in (PROJECT / "requirements.lock").read_text().splitlines()


def test_the_changelog_names_the_version_of_the_package() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert f"## {project['version']}" in (PROJECT / "CHANGELOG.md").read_text()


def test_the_licence_is_apache() -> None:
    assert "Apache License" in Path(PROJECT / "LICENSE").read_text()
