from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.fuzz import FORMATS, INPUTS, Format, exchange, fuzz, spoil

NUM_FILES = 1500
NUM_INPUTS = 250


@pytest.mark.parametrize("name", FORMATS)
def test_spoilt_files_are_read_or_refused(tmp_path: Path, name: str) -> None:
    outcome = fuzz(FORMATS[name], NUM_FILES, seed=0, keep=tmp_path)

    assert outcome.failures == []
    # Some edits hit weights or names that mean nothing; most hit what is checked.
    assert outcome.counts["read"] > 0
    num_refused = sum(outcome.counts.values()) - outcome.counts["read"]
    assert num_refused > NUM_FILES * len(FORMATS[name].readers) / 2


@pytest.mark.parametrize("name", INPUTS)
def test_spoilt_inputs_and_records_are_read_or_refused(tmp_path: Path, name: str) -> None:
    outcome = fuzz(INPUTS[name], NUM_INPUTS, seed=0, keep=tmp_path)

    assert outcome.failures == []
    assert sum(outcome.counts.values()) - outcome.counts["read"] > NUM_INPUTS / 4


def test_a_reader_that_fails_otherwise_is_found_and_its_file_kept(tmp_path: Path) -> None:
    def careless(path: Path) -> object:
        return path.read_bytes()[3]

    kind = Format(".bin", lambda: [b"abcd"], (careless,))

    outcome = fuzz(kind, 40, seed=0, keep=tmp_path)

    assert outcome.failures
    assert set(outcome.failures) == {"careless: IndexError('index out of range')"}
    kept = list(tmp_path.glob("failure-0-*.bin"))
    assert len(kept) == len(outcome.failures)
    assert all(len(path.read_bytes()) < 4 for path in kept)


def test_the_same_seed_spoils_in_the_same_way() -> None:
    spoilt = [spoil(bytes(100), np.random.default_rng(7)) for _ in range(2)]
    assert spoilt[0] == spoilt[1] != bytes(100)

    text = b'{"a": 1, "b": [true, "c"]}'
    exchanged = [exchange(text, np.random.default_rng(7)) for _ in range(2)]
    assert exchanged[0] == exchanged[1] != text


def test_what_holds_no_value_stays_as_it_is() -> None:
    assert exchange(b"nothing", np.random.default_rng(7)) == b"nothing"
