import inspect
import pickle

import pytest

from data import source_errors
from data.errors import SourceError
from data.source_errors import (
    BucketRefusedError,
    CorruptSourceError,
    EmptyLanguageError,
    FetchIncompleteError,
    HubRefusedError,
    MissingColumnError,
    MissingDatasetError,
    UnreachableSourceError,
)
from flows.exit_codes import exit_code

EXAMPLES: list[tuple[SourceError, str, int]] = [
    (
        CorruptSourceError("a.parquet", "no footer", "a whole parquet file"),
        "a.parquet: no footer, should be a whole parquet file",
        4,
    ),
    (
        MissingColumnError("a.parquet", "text", ("content", "path")),
        "a.parquet: no column 'text', should be one of content, path",
        4,
    ),
    (
        EmptyLanguageError("data", "python", ("C", "Python")),
        "data: no file in 'python', should be one of C, Python",
        3,
    ),
    (
        EmptyLanguageError("data", "python", ()),
        "data: no file in 'python', should be one of no language at all",
        3,
    ),
    (
        MissingDatasetError("hf://datasets/a/b", "404"),
        "hf://datasets/a/b: not on the hub (404), should be a folder of a dataset",
        3,
    ),
    (
        HubRefusedError("hf://datasets/a/b", "401"),
        "hf://datasets/a/b: refused (401), should be open to your token",
        10,
    ),
    (
        BucketRefusedError("s3://b", "403"),
        "s3://b: refused (403), should be open to your credentials",
        10,
    ),
    (
        UnreachableSourceError("s3://b", "timed out"),
        "s3://b: no answer (timed out), should be reachable",
        10,
    ),
    (
        FetchIncompleteError("x rows 0-9", 3, 9, 0.1, "3 missing key"),
        "x rows 0-9: 3 of 9 files are missing (3 missing key), should be a share of at most 0.1",
        5,
    ),
]


@pytest.mark.parametrize(("error", "message", "code"), EXAMPLES)
def test_an_error_has_a_sentence_a_hint_and_an_exit_code(
    error: SourceError, message: str, code: int
) -> None:
    assert str(error) == message
    assert exit_code(error) == code
    assert error.hint


@pytest.mark.parametrize("error", [error for error, _, _ in EXAMPLES])
def test_an_error_survives_a_process_boundary(error: SourceError) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert (str(back), vars(back)) == (str(error), vars(error))


def test_the_tree_drawn_in_the_module_is_the_tree() -> None:
    here = {
        name
        for name, found in inspect.getmembers(source_errors, inspect.isclass)
        if issubclass(found, SourceError) and found is not SourceError
    }
    lines = (source_errors.__doc__ or "").splitlines()
    drawn = {line.split("+-- ")[1].split()[0] for line in lines if line.startswith("+-- ")}
    assert drawn == here == {type(error).__name__ for error, _, _ in EXAMPLES}
