import pickle

import pytest

from evidence import errors
from evidence.errors import (
    BrokenChainError,
    BrokenSealError,
    EvidenceError,
    GateFailedError,
    MalformedEvidenceError,
    MalformedJsonError,
    NoEvidenceError,
    NotPlainError,
    WrongHeadError,
    WrongRefError,
    WrongShapeError,
)

PLAIN = "a finite number, a string, a boolean, null, a list or a mapping with string keys"

EXAMPLES = [
    (
        NotPlainError("a[1]", "nan"),
        f"a[1] is nan, should be {PLAIN}",
    ),
    (
        NotPlainError("", "nan"),
        f"value is nan, should be {PLAIN}",
    ),
    (
        MalformedJsonError("x/record.json", "holds NaN"),
        "x/record.json: holds NaN, should be one strict JSON document",
    ),
    (
        BrokenSealError("x/record.json", "aa", "bb"),
        "x/record.json: its fields have the digest bb, should be aa",
    ),
    (
        WrongShapeError("x/plan.json", "settings is not as the schema says: missing"),
        "x/plan.json: settings is not as the schema says: missing, should be a record of this kind",
    ),
    (
        BrokenChainError("x/CHAIN.jsonl", ("HEAD: names line 3", "line 2")),
        "x/CHAIN.jsonl: was edited, should only grow\n  HEAD: names line 3\n  line 2",
    ),
    (
        WrongHeadError("newest"),
        "'newest' names no head of a chain, should be SEQ:SHA256",
    ),
    (
        WrongRefError("corpus:1", "64 lower-case hex digits"),
        "'corpus:1' cannot be used here, should be 64 lower-case hex digits",
    ),
    (
        GateFailedError("train.learned", "the model learned", 2.5, "<", 1.0),
        "gate train.learned: the model learned: measured 2.5, should be < 1",
    ),
    (
        GateFailedError("train.learned", "the model learned", None, "<", None),
        "gate train.learned: the model learned: measured nothing, should be < nothing",
    ),
    (
        NoEvidenceError("x", "no directory"),
        "x: no directory, should be a directory with evidence of a training",
    ),
    (
        MalformedEvidenceError("x/epoch-000.metadata.json", "holds NaN"),
        "x/epoch-000.metadata.json: holds NaN, should be a record that can be read",
    ),
]


@pytest.mark.parametrize(("error", "message"), EXAMPLES)
def test_the_message_says_where_what_is_and_what_should_be(
    error: EvidenceError, message: str
) -> None:
    assert str(error) == message


@pytest.mark.parametrize("error", [error for error, _ in EXAMPLES])
def test_an_error_survives_pickling(error: EvidenceError) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert vars(back) == vars(error)
    assert (str(back), back.hint) == (str(error), error.hint)


def test_every_error_of_the_package_is_shown_here_and_in_the_tree() -> None:
    classes = set(EvidenceError.__subclasses__())
    assert {type(error) for error, _ in EXAMPLES} == classes
    for each in classes:
        assert each.__name__ in (errors.__doc__ or "")
