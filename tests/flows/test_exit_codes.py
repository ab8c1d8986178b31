"""Every error class has an exit code and a sentence."""

import inspect
from types import ModuleType

import pytest

from data import errors as data_errors
from data import source_errors
from evidence import errors as evidence_errors
from flows import errors as flow_errors
from flows.exit_codes import EXIT_CODES, UNEXPECTED, exit_code
from model import errors as model_errors
from tasks import errors as task_errors
from tasks import evaluate_errors, ledger_errors, train_errors
from tasks.evaluate import STAGE as EVALUATE
from tasks.train_errors import WorkerFailedError

MODULES: tuple[ModuleType, ...] = (
    data_errors,
    source_errors,
    evidence_errors,
    flow_errors,
    model_errors,
    task_errors,
    train_errors,
    evaluate_errors,
    ledger_errors,
)
LEAVES = [
    kind
    for module in MODULES
    for _, kind in inspect.getmembers(module, inspect.isclass)
    if issubclass(kind, Exception)
    and kind.__module__ == module.__name__
    and not kind.__subclasses__()
]


@pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)
def test_an_error_class_has_an_exit_code(kind: type[Exception]) -> None:
    if kind is WorkerFailedError:
        return
    assert any(ancestor in EXIT_CODES for ancestor in kind.__mro__)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_the_tree_in_a_modules_docstring_names_every_class(module: ModuleType) -> None:
    assert module.__doc__ is not None
    names = [
        kind.__name__
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, Exception) and kind.__module__ == module.__name__
    ]
    assert [name for name in names if name not in module.__doc__] == []


def test_the_workers_failure_has_the_code_of_the_error_that_it_names() -> None:
    for error, code in (("NonFiniteError", 5), ("StorageError", 7), ("Nobody", UNEXPECTED)):
        assert exit_code(WorkerFailedError(error, "why", "", "FAILED")) == code


def test_an_error_that_nobody_listed_is_unexpected() -> None:
    assert exit_code(RuntimeError("?")) == UNEXPECTED


def test_a_model_that_could_not_be_asked_is_no_gate_that_it_missed() -> None:
    def failed(gate: str) -> Exception:
        return evidence_errors.GateFailedError(gate, "a sentence", 1.0, "==", 0.0)

    assert exit_code(failed("evaluate.inference")) == 8
    assert exit_code(failed("evaluate.canonical")) == 5
    assert "evaluate.inference" in {gate.id for gate in EVALUATE.gates}
