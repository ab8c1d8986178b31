"""The shape of the house: where packages come from, what imports what, how long things may get."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
PACKAGES = ("flows", "tasks", "data", "model", "evidence")
MODULES = sorted(path for package in PACKAGES for path in (PROJECT / package).rglob("*.py"))
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 50


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_the_folder_of_this_repository(package: str) -> None:
    found = importlib.import_module(package).__file__
    assert found is not None
    assert Path(found).resolve().parent == PROJECT / package


def test_docker_is_not_a_package_so_that_it_does_not_shadow_the_docker_sdk() -> None:
    assert not (PROJECT / "docker" / "__init__.py").exists()


def test_no_module_is_named_like_one_of_the_standard_library() -> None:
    names = {path.stem for path in MODULES} - {"__init__"}
    assert names & sys.stdlib_module_names == set()


@pytest.mark.parametrize("command", ["--help", "run --help", "runs --help"])
def test_help_imports_neither_torch_nor_prefect_nor_mlflow(command: str) -> None:
    program = (
        "import sys; from flows.cli import run; run(sys.argv[1:]);"
        "heavy = {'torch', 'prefect', 'mlflow', 'pandas', 'pyarrow', 'numba'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *command.split()],
        capture_output=True,
        text=True,
        cwd=PROJECT,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["tasks.train_worker", "tasks.generate"])
def test_training_and_generating_import_neither_prefect_nor_mlflow(module: str) -> None:
    program = (
        f"import sys; import {module};"
        "heavy = {'prefect', 'mlflow'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=PROJECT, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_modules_and_functions_stay_short(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= MAX_MODULE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{node.name} has {length} lines"


def test_the_project_names_no_path_of_a_developers_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], capture_output=True, text=True, cwd=PROJECT, check=True
    ).stdout.split()
    private = ("/" + "root/", "/" + "home/", "/" + "work/", "/" + "Users/")
    texts = {name: (PROJECT / name).read_bytes() for name in listed if (PROJECT / name).is_file()}
    found = [name for name, text in texts.items() for part in private if part.encode() in text]
    assert not found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_every_exception_from_the_rules_of_security_has_its_reason(path: Path) -> None:
    excepted = [line for line in path.read_text().splitlines() if re.search(r"noqa:.*\bS\d", line)]

    assert [line for line in excepted if not re.search(r"noqa: [A-Z0-9, ]+  #? ?\(?\w", line)] == []


def test_data_and_model_mean_the_same_by_padding() -> None:
    from data import rows
    from model import loss

    assert rows.PADDING == loss.PADDING


def test_tasks_say_what_they_say_through_what_spells_out_orders_to_a_terminal() -> None:
    tasks = [path for path in MODULES if path.is_relative_to(PROJECT / "tasks")]
    assert [path.stem for path in tasks if "sys.stderr.write(" in path.read_text()] == ["saying"]
