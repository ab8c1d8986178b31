from collections.abc import Callable
from pathlib import Path

import pytest

from evidence.errors import BrokenSealError
from evidence.records import write_record
from model.errors import CorruptFileError
from model.ranks import Ranks
from model.state_copy import Staging
from model.train import train
from model.training_state import new_state
from tasks.snapshots import (
    Snapshot,
    complete_snapshots,
    drop_incomplete,
    latest_snapshot,
    write_snapshot,
)
from tests.model import tiny
from tests.model.small_llama import small_settings, small_tokenizer


def make(training: Path, epoch: int, *, complete: bool = True) -> Snapshot:
    snapshot = Snapshot.of_epoch(training / "ckpt", epoch)
    snapshot.directory.mkdir(exist_ok=True)
    snapshot.weights.write_bytes(b"weights")
    snapshot.state.mkdir()
    (snapshot.state / "state.json").write_bytes(b"{}")
    if complete:
        write_record(
            snapshot.record,
            {"epoch": epoch, "step": epoch, "cursor_rows": epoch, "files": snapshot.digests()},
        )
    return snapshot


def names(training: Path) -> list[str]:
    return sorted(path.name for path in (training / "ckpt").iterdir())


def test_the_files_of_an_epoch_are_named_like_this() -> None:
    snapshot = Snapshot.of_epoch(Path("ckpt"), 7)
    assert snapshot.weights == Path("ckpt/epoch-007.apr")
    assert snapshot.state == Path("ckpt/epoch-007.state")
    assert snapshot.record == Path("ckpt/epoch-007.metadata.json")


def test_an_epoch_is_complete_when_its_record_is_there(tmp_path: Path) -> None:
    for epoch in (10, 0, 2):
        make(tmp_path, epoch)
    make(tmp_path, 11, complete=False)
    found = complete_snapshots(tmp_path)
    assert [snapshot.epoch for snapshot in found] == [0, 2, 10]
    assert found[1].read()["epoch"] == 2


def test_a_training_that_has_not_begun_has_no_snapshots(tmp_path: Path) -> None:
    assert complete_snapshots(tmp_path) == []
    drop_incomplete(tmp_path)


def test_what_an_unfinished_epoch_left_is_dropped(tmp_path: Path) -> None:
    make(tmp_path, 0)
    before = names(tmp_path)
    make(tmp_path, 1, complete=False)
    (tmp_path / "ckpt" / ".epoch-000.metadata.json.partial").touch()
    (tmp_path / "ckpt" / "stray").touch()
    drop_incomplete(tmp_path)
    assert names(tmp_path) == before
    assert before == ["epoch-000.apr", "epoch-000.metadata.json", "epoch-000.state"]


def test_an_edited_epoch_record_is_refused(tmp_path: Path) -> None:
    snapshot = make(tmp_path, 3)
    snapshot.record.write_text(snapshot.record.read_text().replace('"epoch": 3', '"epoch": 4'))
    with pytest.raises(BrokenSealError) as caught:
        snapshot.read()
    assert caught.value.path == str(snapshot.record)


def written(directory: Path, write_more: Callable[[Path], None]) -> dict[str, str]:
    state = new_state(small_settings(), tiny.TRAIN, "cpu")
    next(train(state, iter(tiny.rows(1)), tiny.TRAIN))
    copy = Staging().copy(state, Ranks())
    assert copy is not None
    return write_snapshot(
        Snapshot.of_epoch(directory, 1),
        copy,
        small_settings(),
        tokenizer_json=small_tokenizer().to_str(),
        source="rows",
        write_more=write_more,
    )


def test_a_snapshot_is_written_whole_and_says_what_it_holds(tmp_path: Path) -> None:
    def write_more(state: Path) -> None:
        (state / "more").write_text("x")

    found = written(tmp_path, write_more)
    assert found == Snapshot.of_epoch(tmp_path, 1).digests()
    names = ["epoch-001.apr", "epoch-001.state/more", "epoch-001.state/optimizer.safetensors"]
    assert sorted(found) == [*names, "epoch-001.state/state.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-001.apr", "epoch-001.state"]


@pytest.mark.parametrize("place", [20, -5])
@pytest.mark.parametrize("name", ["epoch-001.apr", "epoch-001.state/optimizer.safetensors"])
def test_what_the_disk_gives_back_otherwise_gets_no_name(
    tmp_path: Path, name: str, place: int
) -> None:
    def flip(state: Path) -> None:
        path = state.parent / name
        raw = bytearray(path.read_bytes())
        raw[place] ^= 1
        path.write_bytes(raw)

    with pytest.raises(CorruptFileError):
        written(tmp_path, flip)
    assert [path.name for path in tmp_path.iterdir()] == [".epoch-001.partial"]


def test_an_epoch_takes_the_place_of_a_step_only_once_it_is_complete(tmp_path: Path) -> None:
    make(tmp_path, 0)
    stopped = Snapshot.of_step(tmp_path / "ckpt", 7)
    stopped.weights.write_bytes(b"weights")
    stopped.state.mkdir()
    write_record(stopped.record, {"step": 7, "cursor_rows": 56, "files": stopped.digests()})
    make(tmp_path, 1, complete=False)
    drop_incomplete(tmp_path)
    assert latest_snapshot(tmp_path) == stopped
    stopped.remove()
    assert latest_snapshot(tmp_path) == Snapshot.of_epoch(tmp_path / "ckpt", 0)
    assert names(tmp_path) == ["epoch-000.apr", "epoch-000.metadata.json", "epoch-000.state"]
