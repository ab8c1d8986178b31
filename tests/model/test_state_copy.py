from pathlib import Path

import pytest
import torch

from model.errors import CorruptFileError
from model.ranks import Ranks
from model.state_copy import Staging, StateCopy, require_same
from model.train import train
from model.training_state import weights
from tests.model import tiny


def copied(staging: Staging) -> StateCopy:
    state = tiny.state()
    next(train(state, iter(tiny.rows(10)), tiny.TRAIN))
    copy = staging.copy(state, Ranks())
    assert copy is not None
    return copy


def test_a_copy_stays_what_it_was_while_training_goes_on() -> None:
    state = tiny.state()
    reports = train(state, iter(tiny.rows(10)), tiny.TRAIN)
    next(reports)
    copy = Staging().copy(state, Ranks())
    assert copy is not None
    before = {name: tensor.clone() for name, tensor in {**copy.weights, **copy.optimizer}.items()}
    next(reports)
    after = {**copy.weights, **copy.optimizer}
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not torch.equal(weights(state)["lm_head.weight"], copy.weights["lm_head.weight"])


def test_the_memory_of_a_copy_serves_again() -> None:
    staging = Staging()
    first = copied(staging).weights["lm_head.weight"].data_ptr()
    assert copied(staging).weights["lm_head.weight"].data_ptr() == first


def test_ranks_other_than_the_first_keep_no_copy() -> None:
    ranks = Ranks()
    ranks.rank = 1
    assert Staging().copy(tiny.state(), ranks) is None


def test_what_was_saved_is_read_again_bit_by_bit(tmp_path: Path) -> None:
    copy = copied(Staging())
    copy.save(tmp_path)
    copy.require_saved(tmp_path)
    copy.optimizer["model.norm.weight.exp_avg"][3] *= 1 + 1e-6
    with pytest.raises(CorruptFileError) as caught:
        copy.require_saved(tmp_path)
    assert caught.value.path == tmp_path / "optimizer.safetensors"
    assert caught.value.found == "model.norm.weight.exp_avg is read back otherwise"


def test_a_state_file_that_reads_otherwise_is_refused(tmp_path: Path) -> None:
    copy = copied(Staging())
    copy.save(tmp_path)
    (tmp_path / "state.json").write_text(copy.text.replace('"step": 1', '"step": 2'))
    with pytest.raises(CorruptFileError) as caught:
        copy.require_saved(tmp_path)
    assert caught.value.path == tmp_path / "state.json"


def test_a_nan_is_the_same_as_itself_and_a_missing_tensor_is_not() -> None:
    nan = {"x": torch.tensor([float("nan")])}
    require_same(Path("x"), nan, {"x": nan["x"].clone()})
    with pytest.raises(CorruptFileError) as caught:
        require_same(Path("x"), {}, nan)
    assert (caught.value.found, caught.value.expected) == ("0 tensors", "1, as in memory")
