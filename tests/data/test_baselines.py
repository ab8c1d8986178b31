import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data import baselines as module
from data.baselines import (
    ROW_BASELINES,
    Baselines,
    RowBaselines,
    count_and_score,
    target_bytes,
)
from data.errors import CorruptShardError, TokenOutOfRangeError
from data.rows import Rows, open_rows
from tests.data.corpus import write_shards

VOCAB_SIZE = 6

Grid = list[list[int]]


def opened(directory: Path, train: Grid, val: Grid) -> tuple[Rows, Rows]:
    index = write_shards(directory, [train], [val], vocab_size=VOCAB_SIZE)
    return open_rows(directory, index, "train"), open_rows(directory, index, "val")


def scored(train: Rows, val: Rows, max_train_tokens: int = 10**6) -> tuple[Baselines, int]:
    by_row, counted = count_and_score(train, val, VOCAB_SIZE, max_train_tokens=max_train_tokens)
    return by_row.over(np.arange(len(val))), counted


def test_a_worked_example(tmp_path: Path) -> None:
    rows = opened(tmp_path, [[1, 2, 1, 2]], [[1, 2, 3, 1]])
    found, _ = scored(*rows)
    # Of four tokens, 1 and 2 occur twice; pairs: 12 twice, 21 once; 3 was never a history.
    unigrams, bigrams = (3 / 10, 1 / 10, 3 / 10), ((2 + 3 / 10) / 3, (1 / 10) / 2, 3 / 10)
    assert found.uniform_nats == math.log(6)
    assert found.unigram_nats == pytest.approx(-math.log(math.prod(unigrams)) / 3)
    assert found.bigram_nats == pytest.approx(-math.log(math.prod(bigrams)) / 3)
    assert found.num_target_tokens == 3
    # After 1 2 came 1 once, which halves what is left of the bigram for 3.
    five_grams = ((2 + 3 / 10) / 3, (1 / 10) / 2 / 2, 3 / 10)
    assert found.five_gram_nats == pytest.approx(-math.log(math.prod(five_grams)) / 3)


def test_counting_in_pieces_is_counting_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = [[1, 2, 3, 4], [4, 3, 2, 1], [1, 2, 1, 2], [5, 5, 5, 5], [2, 3, 2, 3]]
    rows = opened(tmp_path, train, train[1:3])
    at_once = scored(*rows)
    monkeypatch.setattr(module, "READ_TOKENS", 1)
    assert scored(*rows) == at_once


def test_how_many_rows_and_tokens_are_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ_TOKENS", 1)
    train = [[1, 2, 3, 4], [4, 3, 2, 1], [1, 2, 1, 2]]
    rows, told = opened(tmp_path, train, [[1, 2, 3, 4]]), list[tuple[int, int, int]]()
    tell = lambda *each: told.append(each)  # noqa: E731
    count_and_score(*rows, VOCAB_SIZE, max_train_tokens=8, tell=tell)
    assert told == [(1, 4, 4), (2, 4, 8), (3, 4, 12), (4, 4, 16)]


def test_the_means_over_some_rows_are_those_of_these_rows_alone(tmp_path: Path) -> None:
    train, val = [[1, 2, 3, 4], [4, 3, 2, 1], [1, 2, 1, 2]], [[1, 2, 3, 4], [5, 5, 5, 5]]
    both, alone = opened(tmp_path / "both", train, val), opened(tmp_path / "one", train, val[1:])
    by_row, _ = count_and_score(*both, VOCAB_SIZE, max_train_tokens=10**6)
    assert by_row.over(np.array([1])) == scored(*alone)[0]


def test_the_losses_of_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = opened(tmp_path, [[1, 2, 1, 2]], [[1, 2, 3, 1], [3, 3, 3, 3]])
    by_row, _ = count_and_score(*rows, VOCAB_SIZE, max_train_tokens=10**6)
    by_row.write(tmp_path)
    found = RowBaselines.read(tmp_path, VOCAB_SIZE)
    assert found.over(np.array([1])) == by_row.over(np.array([1]))
    (tmp_path / ROW_BASELINES).unlink()
    with pytest.raises(CorruptShardError) as caught:
        RowBaselines.read(tmp_path, VOCAB_SIZE)
    assert caught.value.path == tmp_path / ROW_BASELINES


def test_only_targets_have_bytes(tmp_path: Path) -> None:
    _, val = opened(tmp_path, [[0, 0, 0]], [[5, 1, 0], [4, 2, 2]])
    token_bytes = np.array([0, 1, 10, 100, 1000, 10000])
    # An end of text (0) ends a document; the last row's targets are of the third.
    assert target_bytes(val, np.arange(2), token_bytes, 3).sum() == 1 + 0 + 10 + 10
    assert target_bytes(val, np.array([0]), token_bytes, 3).tolist() == [1, 0, 0]


def test_an_id_beyond_the_vocabulary_is_refused(tmp_path: Path) -> None:
    train, val = opened(tmp_path, [[1, 2]], [[1, 5]])
    with pytest.raises(TokenOutOfRangeError) as caught:
        count_and_score(train, val, 5, max_train_tokens=10**6)
    assert (caught.value.where, caught.value.token, caught.value.vocab_size) == ("val rows", 5, 5)


def test_of_many_training_tokens_rows_spread_over_them_are_counted(tmp_path: Path) -> None:
    train = [[number, number] for number in (1, 2, 3, 4, 5)]
    rows = opened(tmp_path, train, [[1, 2]])
    found, counted = scored(*rows, max_train_tokens=7)
    assert counted == 6
    # Rows 0, 1 and 3 were counted, so 2 was seen twice among six tokens.
    assert found.unigram_nats == pytest.approx(-math.log(3 / (6 + VOCAB_SIZE)))


def test_padding_is_neither_counted_nor_scored(tmp_path: Path) -> None:
    padded = [[1, 0, 0, 0], [2, 3, 0, 0]]
    index = replace(write_shards(tmp_path, [padded], [padded], vocab_size=6), packing="whole")
    rows = open_rows(tmp_path, index, "train"), open_rows(tmp_path, index, "val")
    found, counted = scored(*rows)
    assert (found.num_target_tokens, counted) == (3, 5)
    token_bytes = np.array([0, 1, 10, 100, 0, 0])
    assert target_bytes(rows[1], np.arange(2), token_bytes, 9).sum() == 100
