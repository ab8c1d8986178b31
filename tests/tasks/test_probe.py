import json
from pathlib import Path

import numpy as np
import pytest
import torch

from data.rows import open_rows
from data.shard import ShardsIndex
from model.llama import Llama
from tasks.models import load_apr
from tasks.probe import Fingerprint, probe_ids, read_fingerprint, read_probe_loss
from tasks.scored_model import best_snapshot
from tests.data.corpus import write_shards
from tests.model.small_llama import small_settings, small_tensors
from tests.tasks.tiny import Finished


def test_the_probe_is_the_first_validation_row_without_its_last_target(tmp_path: Path) -> None:
    index = write_shards(tmp_path, [[[1, 2, 3, 4]]], [[[5, 6, 7, 8], [1, 1, 1, 1]]], vocab_size=9)
    ids = probe_ids(open_rows(tmp_path, index, "val"))
    assert ids.tolist() == [[5, 6, 7]]


def test_a_long_row_gives_only_its_beginning(tmp_path: Path) -> None:
    row = np.arange(100).tolist()
    index = write_shards(tmp_path, [[row]], [[row]], vocab_size=100)
    assert probe_ids(open_rows(tmp_path, index, "val")).tolist() == [row[:64]]


def model(scale: float = 1.0) -> Llama:
    found = Llama(small_settings())
    found.load_state_dict({name: scale * each for name, each in small_tensors().items()})
    return found


def test_equal_models_have_equal_fingerprints(tmp_path: Path) -> None:
    for name in ("left", "right"):
        (tmp_path / name).mkdir()
        Fingerprint.of(model(), torch.tensor([[1, 2, 3]])).write(tmp_path / name)
    left, right = (read_fingerprint(tmp_path / name) for name in ("left", "right"))
    assert left == right
    assert {len(digest) for digest in left.values()} == {64}


def test_other_weights_or_other_tokens_give_another_fingerprint(tmp_path: Path) -> None:
    cases = {
        "one": (model(), [[1, 2, 3]]),
        "two": (model(1.01), [[1, 2, 3]]),
        "three": (model(), [[1, 2, 4]]),
    }
    for name, (each, ids) in cases.items():
        (tmp_path / name).mkdir()
        Fingerprint.of(each, torch.tensor(ids)).write(tmp_path / name)
    one, two, three = (read_fingerprint(tmp_path / name) for name in cases)
    assert one.keys() == two.keys() == three.keys()
    assert len({json.dumps(each) for each in (one, two, three)}) == 3


def test_the_saved_weights_have_the_fingerprint_of_the_model_in_memory(
    finished: Finished,
) -> None:
    snapshot = best_snapshot(finished.training)
    shards = finished.store.open(finished.refs.shards)
    rows = open_rows(shards.directory, shards.read_index(ShardsIndex), "val")
    found = Fingerprint.of(load_apr(snapshot.weights, "cpu"), probe_ids(rows))
    assert found.digests == read_fingerprint(snapshot.state)
    assert found.loss_nats == read_probe_loss(snapshot.state)


def test_a_missing_fingerprint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_fingerprint(tmp_path)
