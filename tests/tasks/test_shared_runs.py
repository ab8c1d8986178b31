"""Two machines that share a bucket and no disk: one goes on from what the other has left."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest

from tasks.errors import NotFoundError
from tasks.run_record import Run
from tasks.shared_runs import find_shared_run, share_run
from tasks.shared_snapshots import (
    SharedSnapshots,
    fetch_snapshot,
    fetch_unfinished,
    forget_unfinished,
)
from tasks.snapshots import complete_snapshots, stopped_snapshots
from tasks.store import open_store
from tasks.train_errors import SnapshotDamagedError, StoppedError
from tasks.train_worker import work
from tests.tasks import loopback_s3
from tests.tasks.loopback_s3 import LoopbackS3
from tests.tasks.test_resuming import stop_after
from tests.tasks.test_store import flip
from tests.tasks.test_train_worker import job_of, losses
from tests.tasks.tiny import Finished

pytestmark = pytest.mark.usefixtures("own_threads")

BUCKET = "team"
TRAINING = "train-0123456789abcdef"


@pytest.fixture(scope="module")
def server() -> Iterator[LoopbackS3]:
    with loopback_s3.serve() as s3:
        yield s3


@pytest.fixture
def s3(server: LoopbackS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackS3]:
    loopback_s3.point_to(monkeypatch, server)
    monkeypatch.setenv("ASSAY_STORE", f"s3://{BUCKET}/store")
    bucket = boto3.resource("s3").Bucket(BUCKET)
    bucket.create()
    yield server
    server.clear()
    bucket.objects.all().delete()


@contextmanager
def machine(directory: Path) -> Iterator[Path]:
    """A machine with its own caches and records; yields where its unfinished training is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSAY_HOME", str(directory / "home"))
        patch.setenv("ASSAY_EVIDENCE", str(directory / "evidence"))
        training = directory / "home" / "store" / "tmp" / TRAINING
        training.mkdir(parents=True, exist_ok=True)
        yield training


def stopped_at_24(finished: Finished, training: Path) -> None:
    with pytest.raises(StoppedError):
        work(job_of(finished, training), stop_after(24, training))


def keys() -> list[str]:
    return sorted(each.key for each in boto3.resource("s3").Bucket(BUCKET).objects.all())


def test_a_training_that_was_stopped_goes_on_elsewhere_to_the_same_bits(
    s3: LoopbackS3, finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with machine(tmp_path / "one") as training:
        stopped_at_24(finished, training)
        with SharedSnapshots(finished.run, training):
            pass
        assert len(stopped_snapshots(training)) == 1
    with machine(tmp_path / "two") as training:
        fetch_unfinished(training)
        assert "going on from step-00000024, which another machine has made" in (
            capsys.readouterr().err
        )
        assert not training.with_name(f"{TRAINING}.fetched").exists()
        work(job_of(finished, training))
        assert losses(training) == losses(finished.training.directory)
        ours = [each.read() for each in complete_snapshots(training)]
        theirs = [each.read() for each in complete_snapshots(finished.training.directory)]
        assert len(ours) == 3
        for key in ("val_loss", "optimizer_state_sha", "tokens_seen"):
            assert [each[key] for each in ours] == [each[key] for each in theirs]


def test_who_came_farther_is_not_thrown_back(
    s3: LoopbackS3, finished: Finished, tmp_path: Path
) -> None:
    with machine(tmp_path / "one") as training:
        stopped_at_24(finished, training)
        with SharedSnapshots(finished.run, training):
            pass
    with machine(tmp_path / "two") as training:
        work(job_of(finished, training))
        before = losses(training)
        fetch_unfinished(training)
        assert losses(training) == before
        assert stopped_snapshots(training) == []


def test_a_snapshot_is_told_of_once_others_can_read_it_and_its_record_comes_last(
    s3: LoopbackS3, finished: Finished, tmp_path: Path
) -> None:
    with machine(tmp_path / "one") as training:
        stopped_at_24(finished, training)
        with SharedSnapshots(finished.run, training) as shared:
            assert shared.ready() == []
        assert [each.name for each in shared.ready()] == ["epoch-000"]
    sent = [path.partition(TRAINING)[2] for method, path in s3.asked if method == "PUT"]
    epoch = [path for path in sent if "epoch-000" in path]
    assert epoch[-1] == "/ckpt/epoch-000.metadata.json"
    assert sent.index("/train.jsonl") < sent.index(epoch[-1])


def test_a_store_that_refuses_a_snapshot_stops_nothing_and_is_named(
    s3: LoopbackS3, finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with machine(tmp_path / "one") as training:
        stopped_at_24(finished, training)
        s3.refused = lambda method, path: method == "PUT"
        with SharedSnapshots(finished.run, training) as shared:
            shared.look()
        assert shared.ready() == []
        said = capsys.readouterr().err
        assert "warning: snapshot epoch-000 could not be sent for other machines: " in said
        # It is back before training ends: what is owed is sent.
        shared = SharedSnapshots(finished.run, training)
        s3.clear()
        with shared:
            pass
        assert [each.name for each in shared.ready()] == ["epoch-000"]


def test_a_snapshot_is_fetched_while_its_training_goes_on_and_after(
    s3: LoopbackS3, finished: Finished, tmp_path: Path
) -> None:
    with machine(tmp_path / "one") as training:
        stopped_at_24(finished, training)
        (training / "settings.json").write_text("{}")
        with SharedSnapshots(finished.run, training):
            pass
        share_run(finished.run)
    with machine(tmp_path / "two"):
        run = find_shared_run(finished.run.name)
        found = fetch_snapshot(run, "epoch-000")
        assert found is not None
        assert found.require_whole()["epoch"] == 0
        # What says how to read the weights.
        assert (found.directory.parent / "settings.json").read_text() == "{}"
    with machine(tmp_path / "one"):
        forget_unfinished(finished.run)
        assert not any(TRAINING in key for key in keys())
        # As the stage does when it ends.
        store, ref = open_store(), finished.refs.training
        shutil.copytree(finished.training.directory, store.directory(ref))
        store.send(f"training/{ref.digest[:2]}/{ref.digest}", "index.json")
    with machine(tmp_path / "three"):
        run = find_shared_run(finished.run.name)
        assert fetch_snapshot(run, "epoch-009") is None
        found = fetch_snapshot(run, "epoch-001")
        assert found is not None
        assert found.require_whole()["epoch"] == 1


def test_an_unfinished_training_is_kept_for_who_goes_on(
    s3: LoopbackS3, finished: Finished, tmp_path: Path
) -> None:
    with machine(tmp_path / "one") as training:
        stopped_at_24(finished, training)
        with SharedSnapshots(finished.run, training):
            pass
        unfinished = tmp_path / "evidence" / finished.run.name
        unfinished.mkdir(parents=True)
        forget_unfinished(Run(unfinished))
    assert any(TRAINING in key for key in keys())


def test_a_damaged_copy_is_not_gone_on_from(
    s3: LoopbackS3, finished: Finished, tmp_path: Path
) -> None:
    with machine(tmp_path / "one") as training:
        stopped_at_24(finished, training)
        with SharedSnapshots(finished.run, training):
            pass
    (key,) = [each for each in keys() if each.endswith("epoch-000.apr")]
    client, file = boto3.client("s3"), tmp_path / "object"
    client.download_file(BUCKET, key, str(file))
    flip(file)
    client.upload_file(str(file), BUCKET, key)
    with machine(tmp_path / "two") as training:
        with pytest.raises(SnapshotDamagedError):
            fetch_unfinished(training)
        assert complete_snapshots(training) == []


def test_the_records_of_a_run_are_found_elsewhere_apart_from_what_was_run_there(
    s3: LoopbackS3, finished: Finished, tmp_path: Path
) -> None:
    with machine(tmp_path / "one"):
        share_run(finished.run)
    with machine(tmp_path / "two"):
        run = find_shared_run(finished.run.name)
        assert run.record() == finished.run.record()
        assert run.plan() == finished.run.plan()
        assert not (tmp_path / "two" / "evidence").exists()
        # Not another whose name only begins so.
        longer = tmp_path / "two" / "evidence" / f"{finished.run.name}-epoch-000"
        shutil.copytree(finished.run.directory, longer)
        assert find_shared_run(finished.run.name).directory == run.directory
        with pytest.raises(NotFoundError, match="no run nobody"):
            find_shared_run("nobody")


def test_records_that_cannot_be_sent_are_said_and_no_more(
    s3: LoopbackS3, finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    s3.refused = lambda method, path: True
    with machine(tmp_path / "one"):
        share_run(finished.run)
    said = capsys.readouterr().err
    assert f"warning: the records of {finished.run.name} could not be sent" in said


def test_on_one_machine_nothing_is_shared(finished: Finished, home: Path) -> None:
    share_run(finished.run)
    with SharedSnapshots(finished.run, finished.training.directory) as shared:
        assert len(shared.ready()) == 3
    assert fetch_snapshot(finished.run, "epoch-000") is None
    forget_unfinished(finished.run)
    fetch_unfinished(home)
