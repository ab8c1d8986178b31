"""Snapshots of a training under way, where the store is a URL: other machines go on from them.

A finished training is an artefact like any other. Until then each snapshot is copied beside the
artefacts, with the logs up to there and its record last: it exists there if its record does.
"""

import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from evidence.refs import parse_ref
from tasks import places
from tasks.remote import Remote
from tasks.run_record import Run
from tasks.saying import say
from tasks.shared_runs import UNFINISHED, excused, read_place, share_place
from tasks.snapshots import (
    FILES,
    SNAPSHOTS,
    Snapshot,
    complete_snapshots,
    latest_snapshot,
    stopped_snapshots,
)
from tasks.store import open_store

RECORD = ".metadata.json"


class SharedSnapshots:
    """Copies the snapshots of a training, in a thread: training is not held up."""

    def __init__(self, run: Run, training: Path) -> None:
        self._training = training
        self._remote = open_store().remote
        self._tried: set[str] = set()
        self._sent: set[str] = set()
        self._thread = ThreadPoolExecutor(1)
        if self._remote:
            with excused("the place of the training"):
                share_place(self._remote, run, training)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait until all is sent, with the snapshot of where training was stopped."""
        self.look()
        self._thread.shutdown(wait=True)
        if self._remote:
            for snapshot in self._here():
                if snapshot.name not in self._sent:
                    self._send(self._remote, snapshot)

    def look(self) -> None:
        """Begin to copy what is new."""
        if self._remote is None:
            return
        for snapshot in self._here():
            if snapshot.name not in self._tried:
                self._tried.add(snapshot.name)
                self._thread.submit(self._send, self._remote, snapshot)

    def ready(self) -> list[Snapshot]:
        """List the complete epochs that every machine can read."""
        found = complete_snapshots(self._training)
        return [each for each in found if self._remote is None or each.name in self._sent]

    def _here(self) -> list[Snapshot]:
        return [*complete_snapshots(self._training), *stopped_snapshots(self._training)]

    def _send(self, remote: Remote, snapshot: Snapshot) -> None:
        # A snapshot within an epoch goes when the epoch is complete.
        with excused(f"snapshot {snapshot.name}"), suppress(FileNotFoundError):
            name = f"{UNFINISHED}/{self._training.name}"
            names = [*snapshot.read()[FILES], snapshot.record.name]
            if not remote.has(f"{name}/{SNAPSHOTS}/{snapshot.record.name}"):
                for path in _beside(self._training):
                    # As it is now: logs go on growing.
                    remote.write(f"{name}/{path.name}", path.read_bytes())
                paths = {f"{name}/{SNAPSHOTS}/{each}": snapshot.directory / each for each in names}
                remote.put(paths)
            self._sent.add(snapshot.name)


def fetch_unfinished(training: Path) -> None:
    """Take over a training that came farther on another machine.

    Raises: SnapshotDamagedError, StoreRefusedError, StoreUnreachableError.
    """
    remote = open_store().remote
    if remote is None or not (names := _shared(remote, training.name)):
        return
    work = training.with_name(f"{training.name}.fetched")
    shutil.rmtree(work, ignore_errors=True)
    for name in names:
        _fetch_record(remote, training.name, name, work)
    theirs, ours = latest_snapshot(work), latest_snapshot(training)
    if theirs and (ours is None or theirs.read()["cursor_rows"] > ours.read()["cursor_rows"]):
        for name in names:
            _fetch_files(remote, training.name, Snapshot(work / SNAPSHOTS, name))
        _fetch_beside(remote, training.name, work)
        for path in (work / SNAPSHOTS, *_beside(work)):
            _replace(path, training / path.name)
        say(f"going on from {theirs.name}, which another machine has made")
    shutil.rmtree(work)


def forget_unfinished(run: Run) -> None:
    """Remove the copies of a training that is finished, and hence an artefact."""
    record = run.stage_records().get("train")
    if (remote := open_store().remote) is None or record is None or not record["output"]:
        return
    with excused("that the training is finished"):
        if name := read_place(remote, run):
            remote.remove_tree(f"{UNFINISHED}/{name}")


def fetch_snapshot(run: Run, name: str) -> Snapshot | None:
    """Return a snapshot of a run of another machine, fetched; None if it is nowhere.

    Raises: SnapshotDamagedError, StoreRefusedError, StoreUnreachableError, ArtefactDamagedError.
    """
    if (remote := open_store().remote) is None:
        return None
    training = read_place(remote, run)
    if training and name in _shared(remote, training):
        work = places.home() / "snapshots" / training
        _fetch_beside(remote, training, work)
        return _fetch_files(remote, training, _fetch_record(remote, training, name, work))
    record = run.stage_records().get("train")
    if record is None or not record["output"]:
        return None
    artefact = open_store().open(parse_ref(record["output"]))
    found = Snapshot(artefact.directory / SNAPSHOTS, name)
    return found if found.record.is_file() else None


def _shared(remote: Remote, training: str) -> list[str]:
    names = remote.names(f"{UNFINISHED}/{training}/{SNAPSHOTS}")
    return [name.removesuffix(RECORD) for name in names if name.endswith(RECORD)]


def _fetch_record(remote: Remote, training: str, name: str, work: Path) -> Snapshot:
    where = f"{UNFINISHED}/{training}/{SNAPSHOTS}"
    remote.download(where, [f"{name}{RECORD}"], work / SNAPSHOTS)
    return Snapshot(work / SNAPSHOTS, name)


def _fetch_files(remote: Remote, training: str, snapshot: Snapshot) -> Snapshot:
    """Fetch what a record lists, and hold it to the record.

    Raises: SnapshotDamagedError.
    """
    names = [*snapshot.read()[FILES]]
    remote.download(f"{UNFINISHED}/{training}/{SNAPSHOTS}", names, snapshot.directory)
    snapshot.require_whole()
    return snapshot


def _beside(training: Path) -> list[Path]:
    """List what lies beside the snapshots: settings and logs."""
    return [path for path in training.iterdir() if path.is_file()]


def _fetch_beside(remote: Remote, training: str, work: Path) -> None:
    where = f"{UNFINISHED}/{training}"
    names = [name for name in remote.names(where) if name != SNAPSHOTS]
    remote.download(where, names, work)


def _replace(new: Path, old: Path) -> None:
    if old.is_dir():
        shutil.rmtree(old)
    new.replace(old)
