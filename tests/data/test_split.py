import hashlib
from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from data.split import Holdout, is_chosen


def test_the_share_held_out_is_the_fraction_asked_for() -> None:
    digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(4000)]
    held_out = sum(is_chosen(digest, 0.1, 7) for digest in digests)
    # The standard deviation is 19 documents.
    assert 324 <= held_out <= 476


def test_another_seed_holds_out_other_documents() -> None:
    digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(100)]
    assert [is_chosen(d, 0.5, 1) for d in digests] != [is_chosen(d, 0.5, 2) for d in digests]


@given(st.text(), st.floats(0.01, 0.98), st.integers(0, 2**32))
def test_a_larger_fraction_only_adds_documents(sha256: str, fraction: float, seed: int) -> None:
    if is_chosen(sha256, fraction, seed):
        assert is_chosen(sha256, fraction + 0.01, seed)


def holdout(fraction: float, group_by: Literal["document", "repository"] = "document") -> Holdout:
    return Holdout(validation_fraction=fraction, seed=0, group_by=group_by)


def test_the_decision_is_the_same_on_every_machine() -> None:
    digest = hashlib.sha256(b"").hexdigest()
    assert holdout(0.48).side(digest) == "val"
    assert holdout(0.47).side(digest) == "train"


def test_a_repository_is_held_out_as_one_and_a_document_without_one_alone() -> None:
    by_repository = holdout(0.5, "repository")
    assert by_repository.group("12ab", "someone/something") == "someone/something"
    assert by_repository.group("12ab", "") == "12ab"
    assert holdout(0.5).group("12ab", "someone/something") == "12ab"
