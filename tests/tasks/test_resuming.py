"""Training that stopped somewhere and went on is training that never stopped, bit for bit."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from data.shard import ShardsIndex
from evidence.errors import BrokenSealError
from evidence.records import write_record
from model.errors import CorruptFileError, ModelFormatError
from model.ranks import Ranks
from tasks.snapshots import Snapshot, complete_snapshots, latest_snapshot, stopped_snapshots
from tasks.train_errors import SnapshotDamagedError, StoppedError
from tasks.train_job import Job
from tasks.train_worker import work
from tasks.training_log import read_rows
from tests.tasks.test_train_worker import assert_same_training, job_of, lenient
from tests.tasks.tiny import Finished, at_home, begin, sharded, tiny_settings

MANY_PASSES = {"batch_rows": 40, "micro_batch_rows": 20}
"Ten batches a pass over the rows: training passes over them almost five times."


def stop_after(step: int, directory: Path) -> Ranks:
    """Ask to stop during a step."""
    log = directory / "train.jsonl"
    return Ranks(lambda: log.is_file() and len(read_rows(log)) >= step - 1)


def stop_and_go(job: Job, steps: list[int]) -> None:
    """Train, stopping after each of these steps."""
    for step in steps:
        with pytest.raises(StoppedError) as caught:
            work(job, stop_after(step, Path(job.directory)))
        assert (caught.value.step, caught.value.num_steps) == (step, job.train.num_steps)
    work(job)


@pytest.mark.parametrize("steps", [[1], [15], [16], [17, 19], [16, 32], [3, 20, 47]], ids=str)
def test_stopping_changes_nothing(finished: Finished, tmp_path: Path, steps: list[int]) -> None:
    stop_and_go(job_of(finished, tmp_path), steps)
    assert_same_training(tmp_path, finished.training.directory)
    assert stopped_snapshots(tmp_path) == []


@pytest.mark.parametrize("steps", [[], [1], [15], [17, 19], [3, 20, 47]], ids=str)
def test_beginning_the_next_step_before_one_is_judged_changes_nothing(
    finished: Finished, tmp_path: Path, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.train_worker.is_ahead", lambda _job: True)
    stop_and_go(job_of(finished, tmp_path), steps)
    assert_same_training(tmp_path, finished.training.directory)
    assert stopped_snapshots(tmp_path) == []


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_stopping_changes_nothing_over_several_passes(
    finished: Finished, tmp_path: Path, optimizer: str
) -> None:
    changes = {**MANY_PASSES, "optimizer": optimizer, "thresholds": lenient(finished)}
    work(job_of(finished, tmp_path / "straight", **changes))
    stop_and_go(job_of(finished, tmp_path / "stopped", **changes), [10, 12, 30])
    assert_same_training(tmp_path / "stopped", tmp_path / "straight")


def test_stopping_changes_nothing_where_rows_hold_whole_documents_and_padding(
    copied: Finished, tmp_path: Path
) -> None:
    settings = tiny_settings(copied.home, ['shard.packing="whole"'])
    with at_home(copied.home):
        shards = copied.store.open(sharded(begin(settings), copied.refs.tokens, settings))
    own = {
        "shards": str(shards.directory),
        "shards_ref": str(shards.ref),
        "shards_index": dict(shards.index["content"]),
        "thresholds": lenient(copied),
    }
    assert shards.read_index(ShardsIndex).packing == "whole"
    work(job_of(copied, tmp_path / "straight", **own))
    stop_and_go(job_of(copied, tmp_path / "stopped", **own), [7, 23])
    assert_same_training(tmp_path / "stopped", tmp_path / "straight")
    tokens = [row["tokens"] for row in read_rows(tmp_path / "straight" / "train.jsonl")]
    assert min(tokens) < max(tokens) <= 8 * 32


def test_where_an_epoch_has_just_ended_its_snapshot_is_enough(
    finished: Finished, tmp_path: Path
) -> None:
    with pytest.raises(StoppedError):
        work(job_of(finished, tmp_path), stop_after(16, tmp_path))
    assert [each.epoch for each in complete_snapshots(tmp_path)] == [0]
    assert stopped_snapshots(tmp_path) == []


def test_a_second_stop_in_an_epoch_replaces_the_first(finished: Finished, tmp_path: Path) -> None:
    for step in (3, 5):
        with pytest.raises(StoppedError):
            work(job_of(finished, tmp_path), stop_after(step, tmp_path))
    assert [each.name for each in stopped_snapshots(tmp_path)] == ["step-00000005"]
    assert latest_snapshot(tmp_path) == stopped_snapshots(tmp_path)[0]


@pytest.fixture
def stopped(finished: Finished, tmp_path: Path) -> Snapshot:
    """The snapshot of a training that was stopped in its second epoch."""
    with pytest.raises(StoppedError):
        work(job_of(finished, tmp_path), stop_after(20, tmp_path))
    (snapshot,) = stopped_snapshots(tmp_path)
    return snapshot


FILES = (
    ".apr",
    ".state/optimizer.safetensors",
    ".state/state.json",
    ".state/fingerprint.json",
    ".state/probe.json",
)


def test_a_snapshot_has_these_files(stopped: Snapshot) -> None:
    assert sorted(stopped.digests()) == sorted(f"{stopped.name}{name}" for name in FILES)
    assert stopped.read()["files"] == stopped.digests()


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_in_any_file_of_a_snapshot_is_refused_by_name(
    finished: Finished, stopped: Snapshot, tmp_path: Path, name: str
) -> None:
    path = stopped.directory / f"{stopped.name}{name}"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(SnapshotDamagedError) as caught:
        work(job_of(finished, tmp_path))
    assert caught.value.path == path
    assert caught.value.name == "step-00000020"
    assert caught.value.found.startswith("sha256 ")


def test_a_flipped_bit_in_the_record_of_a_snapshot_is_refused(
    finished: Finished, stopped: Snapshot, tmp_path: Path
) -> None:
    stopped.record.write_text(stopped.record.read_text().replace('"step": 20', '"step": 21'))
    with pytest.raises(BrokenSealError) as caught:
        work(job_of(finished, tmp_path))
    assert caught.value.path == str(stopped.record)


def test_a_missing_file_of_a_snapshot_is_refused_by_name(
    finished: Finished, stopped: Snapshot, tmp_path: Path
) -> None:
    shutil.rmtree(stopped.state)
    with pytest.raises(SnapshotDamagedError) as caught:
        work(job_of(finished, tmp_path))
    assert caught.value.path.parent == stopped.state
    assert caught.value.found == "no file"


def test_what_the_hint_says_of_a_damaged_snapshot_helps(
    finished: Finished, stopped: Snapshot, tmp_path: Path
) -> None:
    stopped.weights.write_bytes(b"")
    with pytest.raises(SnapshotDamagedError) as caught:
        work(job_of(finished, tmp_path))
    assert caught.value.hint.startswith("delete step-00000020.* beside it")
    for path in stopped.directory.glob("step-00000020.*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    work(job_of(finished, tmp_path))
    assert_same_training(tmp_path, finished.training.directory)


def sealed_again(snapshot: Snapshot) -> None:
    """Make a record that the changed files keep to."""
    record = {key: value for key, value in snapshot.read().items() if key != "record_sha256"}
    write_record(snapshot.record, {**record, "files": snapshot.digests()})


def test_weights_of_another_architecture_are_refused(
    finished: Finished, stopped: Snapshot, tmp_path: Path
) -> None:
    job = job_of(finished, tmp_path)
    other = TypeAdapter(type(job.model)).validate_python(
        {**vars_of(job.model), "rope_theta": 500_000.0}
    )
    with pytest.raises(ModelFormatError) as caught:
        work(job_of(finished, tmp_path, model=other))
    assert caught.value.path == stopped.weights
    assert "rope_theta=10000.0" in caught.value.found
    assert "rope_theta=500000.0" in caught.value.expected


def vars_of(settings: Any) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in settings.__dataclass_fields__}


def test_a_state_of_a_newer_version_is_refused(
    finished: Finished, stopped: Snapshot, tmp_path: Path
) -> None:
    path = stopped.state / "state.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    sealed_again(stopped)
    with pytest.raises(ModelFormatError) as caught:
        work(job_of(finished, tmp_path))
    assert (caught.value.path, caught.value.found) == (path, "version is 2")


def test_weights_of_a_newer_version_are_refused(
    finished: Finished, stopped: Snapshot, tmp_path: Path
) -> None:
    raw = bytearray(stopped.weights.read_bytes())
    raw[4] += 1
    stopped.weights.write_bytes(raw)
    sealed_again(stopped)
    with pytest.raises((ModelFormatError, CorruptFileError)) as caught:
        work(job_of(finished, tmp_path))
    assert caught.value.path == stopped.weights
