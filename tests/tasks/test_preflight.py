"""Shards of another tokenizer, context length or dtype than what is to be done with them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.errors import CorruptShardError
from data.pretokenize import TokensIndex
from data.shard import ShardsIndex
from evidence.canonical import file_sha256
from flows.exit_codes import exit_code
from tasks.errors import PreflightError
from tasks.evaluate_errors import DifferentTokenizerError
from tasks.preflight import check_context, check_fits, check_held_out
from tasks.train_worker import work
from tests.tasks.test_train_worker import job_of
from tests.tasks.tiny import (
    Finished,
    at_home,
    begin,
    evaluated,
    pretokenized,
    sharded,
    tiny_settings,
)


def index_of(finished: Finished) -> ShardsIndex:
    return finished.store.open(finished.refs.shards).read_index(ShardsIndex)


def test_shards_of_the_settings_context_pass_and_others_are_refused(finished: Finished) -> None:
    check_context(index_of(finished), 32)
    with pytest.raises(PreflightError) as caught:
        check_context(index_of(finished), 64)
    assert vars(caught.value) == {
        "setting": "shard.context_length",
        "found": 64,
        "expected": "32, as in these shards",
    }


def check_batches(finished: Finished, min_val_batches: float, packing: str = "concatenate") -> None:
    settings = finished.settings
    tokens = finished.store.open(finished.refs.tokens).read_index(TokensIndex)
    shard = replace(settings.shard, packing=packing)  # type: ignore[arg-type]  # one of the two
    fraction = settings.pretokenize.validation_fraction
    check_held_out(tokens, fraction, shard, settings.train, min_val_batches)


def test_too_little_that_is_held_out_is_refused_by_the_setting_that_decides_it(
    finished: Finished,
) -> None:
    # 77 rows, in batches of eight.
    check_batches(finished, 77 / 8)
    with pytest.raises(PreflightError) as caught:
        check_batches(finished, 10)
    assert str(caught.value) == (
        "pretokenize.validation_fraction is 0.2, should be larger: the 6 of 40 documents that are "
        "held out fill 77 rows of 33 tokens, validation needs 80 (thresholds.min_val_batches, "
        "train.batch_rows)"
    )
    assert caught.value.hint == (
        "--set pretokenize.validation_fraction=VALUE changes it for one run, the preset for all"
    )
    assert exit_code(caught.value) == 5


def test_rows_of_whole_documents_are_counted_when_they_are_cut(finished: Finished) -> None:
    check_batches(finished, 10, packing="whole")


@pytest.mark.parametrize("num_ranks", [1, 2, 4, 8])
def test_ranks_that_share_a_batch_evenly_pass(finished: Finished, num_ranks: int) -> None:
    settings = finished.settings
    check_fits(index_of(finished), settings.model, settings.train, num_ranks)


def test_ranks_that_cannot_share_a_batch_evenly_are_refused(finished: Finished) -> None:
    settings = finished.settings
    with pytest.raises(PreflightError) as caught:
        check_fits(index_of(finished), settings.model, settings.train, 3)
    assert (caught.value.setting, caught.value.found) == ("train.batch_rows", 8)
    assert caught.value.expected.startswith("a multiple of the 3 ranks")


def test_shards_of_another_tokenizer_are_not_scored(copied: Finished) -> None:
    changes = ["tokenizer.sample_seed=9", "tokenizer.sample_bytes=9000"]
    settings = tiny_settings(copied.home, changes)
    with at_home(copied.home):
        run = begin(settings)
        shards = sharded(run, pretokenized(run, settings), settings)
        with pytest.raises(DifferentTokenizerError) as caught:
            evaluated(run, copied.refs.training, shards, settings)
    assert caught.value.model == copied.refs.training.short
    own = copied.store.open(copied.refs.shards).directory / "tokenizer.json"
    other = copied.store.open(shards).directory / "tokenizer.json"
    assert caught.value.expected == file_sha256(own)[:12]
    assert caught.value.found == file_sha256(other)[:12]
    assert "compare bits per byte" in caught.value.hint
    assert exit_code(caught.value) == 5


@pytest.mark.parametrize(("key", "value"), [("dtype", "uint32"), ("context_length", 31)])
def test_rows_of_another_width_than_the_index_says_are_refused_by_name(
    finished: Finished, tmp_path: Path, key: str, value: Any
) -> None:
    job = job_of(finished, tmp_path)
    changed = replace(job, shards_index={**job.shards_index, key: value})
    with pytest.raises(CorruptShardError) as caught:
        work(changed)
    assert caught.value.path.name.endswith(".bin")
    assert caught.value.path.parent.parent == Path(job.shards)
    assert not (tmp_path / "train.jsonl").exists()
