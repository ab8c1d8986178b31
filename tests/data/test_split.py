import hashlib

from hypothesis import given
from hypothesis import strategies as st

from data.split import is_validation, split_of


def test_the_share_held_out_is_the_fraction_asked_for() -> None:
    digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(4000)]
    held_out = sum(is_validation(digest, 0.1, 7) for digest in digests)
    # The standard deviation is 19 documents.
    assert 324 <= held_out <= 476


def test_another_seed_holds_out_other_documents() -> None:
    digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(100)]
    assert [is_validation(d, 0.5, 1) for d in digests] != [
        is_validation(d, 0.5, 2) for d in digests
    ]


@given(st.text(), st.floats(0.01, 0.98), st.integers(0, 2**32))
def test_a_larger_fraction_only_adds_documents(sha256: str, fraction: float, seed: int) -> None:
    if is_validation(sha256, fraction, seed):
        assert is_validation(sha256, fraction + 0.01, seed)


def test_the_decision_is_the_same_on_every_machine() -> None:
    digest = hashlib.sha256(b"").hexdigest()
    assert split_of(digest, 0.48, 0) == "val"
    assert split_of(digest, 0.47, 0) == "train"
