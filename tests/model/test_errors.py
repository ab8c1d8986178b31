import pickle
from pathlib import Path

import pytest

from model import errors

HERE = Path("here.apr")
EXAMPLES = [
    (errors.WrongSettingError("train.x", 0, "at least 1"), "train.x is 0, should be at least 1"),
    (errors.ModelFormatError(HERE, "3 bytes", "4"), "here.apr: 3 bytes, should be 4"),
    (errors.CorruptFileError(HERE, "3 bytes", "4"), "here.apr: 3 bytes, should be 4"),
    (
        errors.UnencodableError("Q4_K", "rows of 32", "multiples of 256"),
        "Q4_K: rows of 32, should be multiples of 256",
    ),
    (
        errors.WrongTensorsError("here", ("a", "b", "c", "d"), (), ("e",)),
        "here: missing a, b, c ...; wrong shape e; should be exactly the architecture's tensors",
    ),
    (errors.NonFiniteError("loss", 7, float("inf")), "step 7: loss is inf, should be finite"),
    (
        errors.LossSpikeError(7, "grad_norm", 30.0, 2.5, 0),
        "step 7: grad_norm spikes to 30, should be at most 2.5",
    ),
    (
        errors.StreamExhaustedError(7, 9),
        "batches ended after step 7, should reach step 9",
    ),
    (
        errors.DifferentProgramsError("logits", "(1,)", "(2,)"),
        "logits: (1,) on one side, (2,) on the other; should be equal",
    ),
]


@pytest.mark.parametrize(("error", "text"), EXAMPLES)
def test_an_error_says_where_what_is_and_what_should_be(
    error: errors.ModelError, text: str
) -> None:
    assert str(error) == text


@pytest.mark.parametrize("error", [error for error, _ in EXAMPLES])
def test_an_error_survives_a_process_boundary(error: errors.ModelError) -> None:
    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is type(error)
    assert vars(copy) == vars(error)


def test_the_drawn_tree_names_every_class() -> None:
    classes = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.ModelError)
    }

    assert errors.__doc__ is not None
    assert {name for name in classes if name not in errors.__doc__} == set()
    assert len(EXAMPLES) == len(classes) - 1
