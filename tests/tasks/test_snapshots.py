from pathlib import Path

import pytest

from evidence.errors import BrokenSealError
from evidence.records import write_record
from tasks.snapshots import Snapshot, complete_snapshots, drop_incomplete


def make(training: Path, epoch: int, *, complete: bool = True) -> Snapshot:
    snapshot = Snapshot.of_epoch(training / "ckpt", epoch)
    snapshot.directory.mkdir(exist_ok=True)
    snapshot.weights.write_bytes(b"weights")
    snapshot.state.mkdir()
    (snapshot.state / "state.json").write_bytes(b"{}")
    if complete:
        write_record(snapshot.record, {"epoch": epoch, "step": epoch, "files": snapshot.digests()})
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
