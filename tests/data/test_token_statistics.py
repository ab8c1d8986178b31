import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import DegenerateTokensError, TokenOutOfRangeError
from data.token_statistics import DegenerateBounds, TokenCounter, token_statistics

# The first ids of a real corpus whose encoder mapped every byte to the unknown token.
UNKNOWN, OTHER = 128244, 128247
ALL_UNKNOWN = np.array([UNKNOWN] * 32830 + [OTHER] * 2)
VOCAB_SIZE = 151646


def bounds(min_distinct_ids: int, *, max_unk_ratio: float = 0) -> DegenerateBounds:
    return DegenerateBounds(
        max_unk_ratio=max_unk_ratio, min_distinct_ids=min_distinct_ids, max_top_share=0.5
    )


def test_a_stream_is_described_by_its_counts() -> None:
    found = token_statistics(np.array([5, 5, 2, 7]), 9, unk_id=7)
    assert found.num_tokens == 4
    assert found.distinct_ids == 3
    assert found.entropy_bits == 1.5
    assert found.unk_ratio == 0.25
    assert found.max_id == 7
    assert found.top_ids == ((5, 2), (2, 1), (7, 1))
    assert found.top_share == 0.5


def test_a_vocabulary_without_an_unknown_token_has_none() -> None:
    assert token_statistics(np.array([0, 0, 1]), 2).unk_ratio == 0


def test_an_empty_stream_has_no_largest_id() -> None:
    found = token_statistics(np.array([], dtype=np.uint16), 4)
    assert (found.num_tokens, found.distinct_ids, found.max_id) == (0, 0, -1)
    assert (found.entropy_bits, found.unk_ratio, found.top_share) == (0, 0, 0)


@given(st.lists(st.integers(0, 30), max_size=200), st.integers(0, 200))
def test_counting_in_pieces_is_counting_at_once(ids: list[int], cut: int) -> None:
    counter = TokenCounter(31, "pieces")
    counter.add(np.array(ids[:cut], dtype=np.int64))
    counter.add(np.array(ids[cut:], dtype=np.int64))
    assert counter.statistics(3) == token_statistics(np.array(ids, dtype=np.int64), 31, unk_id=3)


def test_the_entropy_of_equal_shares_is_the_logarithm_of_their_number() -> None:
    assert token_statistics(np.arange(50), 60).entropy_bits == pytest.approx(math.log2(50))


@pytest.mark.parametrize(("ids", "token"), [([0, 4], 4), ([0, -1], -1)])
def test_an_id_beyond_the_vocabulary_is_refused(ids: list[int], token: int) -> None:
    with pytest.raises(TokenOutOfRangeError) as caught:
        token_statistics(np.array(ids), 4)
    assert caught.value.where == "token stream"
    assert caught.value.token == token
    assert caught.value.vocab_size == 4


@pytest.mark.parametrize(
    ("min_distinct_ids", "unk_id", "measure", "expected"),
    [
        (3, UNKNOWN, "distinct_ids", "at least 3"),
        (2, UNKNOWN, "unk_ratio", "at most 0.01"),
        (2, None, "top_share", "at most 0.5"),
    ],
)
def test_a_corpus_of_one_id_is_refused_even_if_nobody_knows_that_it_is_the_unknown(
    min_distinct_ids: int, unk_id: int | None, measure: str, expected: str
) -> None:
    found = token_statistics(ALL_UNKNOWN, VOCAB_SIZE, unk_id=unk_id)
    assert found.entropy_bits < 0.002
    with pytest.raises(DegenerateTokensError) as caught:
        bounds(min_distinct_ids, max_unk_ratio=0.01).refuse(found, "tokens")
    assert caught.value.where == "tokens"
    assert caught.value.measure == measure
    assert caught.value.expected == expected


def test_a_stream_of_many_ids_is_accepted() -> None:
    bounds(100).refuse(token_statistics(np.arange(100), 100), "tokens")


def test_a_short_stream_need_not_have_as_many_ids_as_a_long_one() -> None:
    pair = np.array([1, 2] * 48)
    bounds(1000).refuse(token_statistics(pair[:32], 9), "short")
    with pytest.raises(DegenerateTokensError) as caught:
        bounds(1000).refuse(token_statistics(pair, 9), "long")
    assert (caught.value.measure, caught.value.expected) == ("distinct_ids", "at least 6")


@pytest.mark.parametrize(
    ("where", "num_tokens", "hint"),
    [
        ("val shard 0", 96, "there is little text: raise pretokenize.validation_fraction, use a"),
        ("train shard 0", 96, "there is little text: use a larger corpus"),
        ("val shard 0", 600, "decode the first document"),
    ],
)
def test_a_short_text_is_not_blamed_on_the_tokenizer(
    where: str, num_tokens: int, hint: str
) -> None:
    with pytest.raises(DegenerateTokensError) as caught:
        bounds(6).refuse(token_statistics(np.arange(num_tokens) % 2, 9), where)
    assert (
        str(caught.value)
        == f"{where}, {num_tokens} tokens: distinct_ids is 2, should be at least 6"
    )
    assert caught.value.hint.startswith(hint)


def test_counts_made_elsewhere_are_counted() -> None:
    counter = TokenCounter(4, "parts")
    counter.add(np.array([1, 1, 2]))
    counter.add_counts(np.array([0, 1, 0, 5]))
    assert counter.counts_V.tolist() == [0, 3, 1, 5]
