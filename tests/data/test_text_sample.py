import hashlib
from itertools import permutations

import pytest

from data.errors import WrongSettingError
from data.text_sample import TextSample

TEXTS = ["aaaa", "bbbbbb", "cc", "ddddd", "e"]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def texts_of(kept: TextSample) -> list[str]:
    return [document.content.decode() for document in kept.documents()]


def sample(texts: list[str], max_bytes: int, seed: int = 0) -> list[str]:
    kept = TextSample(max_bytes, seed)
    for text in texts:
        kept.add(digest(text), text)
    return texts_of(kept)


def test_everything_that_fits_is_kept() -> None:
    assert sorted(sample(TEXTS, 18)) == TEXTS


def test_the_order_of_documents_and_duplicates_do_not_change_the_sample() -> None:
    for max_bytes in range(1, 19):
        expected = sample(TEXTS, max_bytes)
        orders = [sample([*order, *order], max_bytes) for order in permutations(TEXTS)]
        assert all(found == expected for found in orders)


def test_a_sample_has_at_most_its_bytes_but_at_least_a_document() -> None:
    for max_bytes in range(1, 19):
        kept = sample(TEXTS, max_bytes)
        assert len(kept) == 1 or sum(map(len, kept)) <= max_bytes
    assert len(sample(TEXTS, 1)) == 1


def test_of_equal_documents_the_names_of_the_first_are_kept() -> None:
    kept = TextSample(10, 0)
    for name in ("first", "second"):
        kept.add(digest("aaaa"), "aaaa", (name,))
    assert [document.names for document in kept.documents()] == [("first",)]


def test_another_seed_draws_another_sample() -> None:
    texts = [str(number) for number in range(1000, 1100)]
    assert sample(texts, 40, seed=0) != sample(texts, 40, seed=1)
    assert sample(texts, 40, seed=0) == sample(texts, 40, seed=0)


def test_a_document_that_is_not_wanted_would_not_have_been_kept() -> None:
    texts = [str(number) for number in range(1000, 1100)]
    kept = TextSample(40, 0)
    wanted = []
    for text in texts:
        if kept.wants(digest(text)):
            wanted.append(text)
            kept.add(digest(text), text)
    assert len(wanted) < len(texts)
    assert texts_of(kept) == sample(texts, 40)


def test_a_sample_of_no_bytes_is_refused() -> None:
    with pytest.raises(WrongSettingError):
        TextSample(0, 0)
