"""Nothing that is read can run: no pickle of others, no evaluated text, in any package."""

import ast
import inspect
import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.test_architecture import MODULES, PROJECT

MODULES_THAT_RUN_WHAT_THEY_READ = {
    *("pickle", "_pickle", "cPickle", "pickletools", "cloudpickle", "dill", "jsonpickle"),
    *("joblib", "shelve", "marshal", "code", "codeop", "runpy", "imp", "dbm", "hickle"),
}
CALLS_THAT_RUN_WHAT_THEY_READ = {
    *("torch.load", "torch.jit.load", "torch.package.PackageImporter", "torch.hub.load"),
    *("torch.export.load", "torch.serialization.load", "torch.distributed.load"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.unsafe_load_all"),
    *("pd.read_pickle", "pandas.read_pickle", "os.system", "os.popen", "ctypes.pydll.LoadLibrary"),
    *("eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec"),
}
ARGUMENTS_THAT_ALLOW_IT = {"allow_pickle", "shell", "trust_remote_code"}
ALLOWED = {
    "tasks/unit_worker.py": {"pickle"},  # what this process has pickled itself, to see if it can
    "tasks/unit_flow.py": {"pickle"},  # a job, from the process that asks for it
    "tasks/box.py": {"exec", "compile"},  # what a sandbox is for
    "data/syntax.py": {"compile", "codeop"},  # to a syntax tree, which nobody runs
}


def dotted(node: ast.expr) -> str:
    """Write a name with its attributes, as far as it is one."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def runs_what_it_reads(text: str) -> Iterator[str]:
    """Yield every way by which a module could run what it reads."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from _imported(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from _imported([f"{node.module}.{alias.name}" for alias in node.names])
        elif isinstance(node, ast.Call):
            yield from _called(node)


def _imported(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        if (package := name.partition(".")[0]) in MODULES_THAT_RUN_WHAT_THEY_READ:
            yield package
        if name in CALLS_THAT_RUN_WHAT_THEY_READ:
            yield name


def _called(call: ast.Call) -> Iterator[str]:
    if (name := dotted(call.func)) in CALLS_THAT_RUN_WHAT_THEY_READ:
        yield name
    for given in call.keywords:
        is_false = isinstance(given.value, ast.Constant) and given.value.value is False
        if given.arg in ARGUMENTS_THAT_ALLOW_IT and not is_false:
            yield given.arg


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_no_module_runs_what_it_reads(path: Path) -> None:
    found = set(runs_what_it_reads(path.read_text()))

    assert found == ALLOWED.get(str(path.relative_to(PROJECT)), set())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import pickle", "pickle"),
        ("def f():\n    import cloudpickle.fast", "cloudpickle"),
        ("from joblib import load", "joblib"),
        ("from torch import load", "torch.load"),
        ("torch.load(path)", "torch.load"),
        ("torch.load(path, weights_only=False)", "torch.load"),
        ("yaml.load(text, Loader=yaml.Loader)", "yaml.load"),
        ("numpy.load(path, allow_pickle=True)", "allow_pickle"),
        ("numpy.load(path, allow_pickle=wish)", "allow_pickle"),
        ("run(text, shell=True)", "shell"),
        ("X.from_pretrained(p, trust_remote_code=True)", "trust_remote_code"),
        ("eval(text)", "eval"),
        ("builtins.exec(text)", "builtins.exec"),
    ],
)
def test_what_would_is_seen(text: str, found: str) -> None:
    assert list(runs_what_it_reads(text)) == [found]


def test_what_does_not_is_not() -> None:
    harmless = "model.eval(); re.compile('x'); yaml.safe_load(t); np.load(p, allow_pickle=False)"

    assert list(runs_what_it_reads(harmless)) == []


def test_numpy_refuses_pickles_where_nobody_allows_them() -> None:
    assert inspect.signature(np.load).parameters["allow_pickle"].default is False
    with pytest.raises(ValueError, match="allow_pickle"):
        np.load(io.BytesIO(npy_of_objects()))


def npy_of_objects() -> bytes:
    """Write an array of objects, which numpy pickles."""
    file = io.BytesIO()
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    return file.getvalue()
