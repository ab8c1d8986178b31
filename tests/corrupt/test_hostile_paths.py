"""Names that come from a file, a record, a listing or an event, and would lead elsewhere."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution
from pathlib import Path
from typing import IO, Any

import pytest

from data.errors import CorruptShardError, CorruptTokensError, UnnameableFileError
from data.pretokenize import TokensIndex
from data.shard import ShardsIndex
from data.source_packages import _files
from data.source_places import Listed, Origin, pin
from evidence.errors import WrongRefError
from evidence.refs import TokensRef, parse_ref
from tasks.errors import ArtefactDamagedError, NotFoundError, StorageError, WrongNameError
from tasks.remote import Remote
from tasks.run_record import Run, check_name
from tasks.shared_runs import find_shared_run, read_place
from tasks.store import INDEX, Artefact, open_store
from tests.tasks.tiny import Finished

SOME = TokensRef("0" * 64)
CLIMBING = {
    "up": "../x",
    "far up": "../../../../etc/passwd",
    "up inside": "a/../../x",
    "up at the end": "a/..",
    "absolute": "/etc/passwd",
    "up after a null": "a\x00/../x",
}
NO_NAME = {
    **CLIMBING,
    "here": ".",
    "above": "..",
    "nothing": "",
    "deeper": "a/b",
    "a null": "a\x00b",
    "a line": "a\nb",
    "an escape": "\x1b[2J",
    "very long": "a" * 5000,
    "a slash of another script": "..\u2215x",
    "turned round": "\u202ex",
    "half a pair": "\udc80",
    "a full-width dot": "\uff0e\uff0e/x",
}
climbing = pytest.mark.parametrize("name", CLIMBING.values(), ids=CLIMBING)
no_name = pytest.mark.parametrize("name", NO_NAME.values(), ids=NO_NAME)


@climbing
def test_nothing_is_downloaded_to_elsewhere(name: str, tmp_path: Path) -> None:
    far, near = tmp_path / "far" / "deep", tmp_path / "near" / "deep"
    far.mkdir(parents=True)
    (tmp_path / "far" / "x").write_text("hostile")

    with pytest.raises(ArtefactDamagedError):
        Remote(f"file://{tmp_path}/far").download("deep", ["y", name], near)

    assert not near.parent.exists()


@dataclass(frozen=True)
class Saying:
    """A place whose server lists what it likes."""

    path: str
    name = "hf://datasets/somebody/something"
    is_local = False

    def where(self, path: str) -> str:
        return path

    def listed(self, exclude: tuple[str, ...]) -> Iterable[Listed]:
        return [Listed("good.py", 1, "00" * 32), Listed(self.path, 1, "00" * 32)]

    def open(self, path: str) -> IO[bytes]:
        raise AssertionError(path)

    def local(self, path: str, directory: Path) -> Path:
        raise AssertionError(path)

    def origin(self, path: str) -> Origin:
        raise AssertionError(path)


@climbing
def test_a_listing_names_no_file_elsewhere(name: str) -> None:
    with pytest.raises(UnnameableFileError) as caught:
        pin(Saying(name), ("**",), ())

    assert caught.value.path == name


@climbing
def test_a_package_owns_no_file_elsewhere(name: str, tmp_path: Path) -> None:
    found = tmp_path / "evil-1.0.dist-info"
    found.mkdir()
    (found / "RECORD").write_bytes(f"evil/a.py,,\n{name},,\n".encode())

    owned = list(_files(Distribution.at(found)))

    assert not any(each.startswith("/") or ".." in each.split("/") for each in owned)


def indexed(finished: Finished, stage: str) -> dict[str, Any]:
    """Read what the index of a stage's artefact says."""
    ref = parse_ref(finished.run.stage_records()[stage]["output"])
    content: dict[str, Any] = json.loads((open_store().directory(ref) / INDEX).read_text())[
        "content"
    ]
    return content


@no_name
def test_an_index_names_no_shard_elsewhere(name: str, reading: Finished) -> None:
    content = indexed(reading, "shard")
    content["train"]["shards"][0]["name"] = name

    with pytest.raises(CorruptShardError):
        Artefact(SOME, Path(), {"content": content}).read_index(ShardsIndex)


@no_name
def test_an_index_names_no_tokens_elsewhere(name: str, reading: Finished) -> None:
    content = indexed(reading, "pretokenize") | {"token_files": [[name, 1]]}

    with pytest.raises(CorruptTokensError):
        Artefact(SOME, Path(), {"content": content}).read_index(TokensIndex)


@pytest.mark.parametrize("content", [None, [], {}, {"train": 1}, "x"])
def test_an_index_of_another_shape_is_damaged(content: object) -> None:
    artefact = Artefact(SOME, Path("there"), {"content": content})

    with pytest.raises(ArtefactDamagedError) as caught:
        artefact.read_index(ShardsIndex)

    assert caught.value.path == Path("there") / INDEX


@no_name
def test_a_run_has_no_such_name(name: str) -> None:
    with pytest.raises(WrongNameError):
        check_name(name)


@no_name
def test_a_ref_is_no_path(name: str) -> None:
    with pytest.raises(WrongRefError):
        parse_ref(f"tokens:{name}")


@no_name
def test_the_place_of_a_training_is_no_path(name: str, tmp_path: Path) -> None:
    remote = Remote(f"file://{tmp_path}")
    remote.write("runs/mine/training", name.encode(errors="surrogatepass"))

    if name:
        with pytest.raises(ArtefactDamagedError):
            read_place(remote, Run(Path("mine")))
    else:
        assert read_place(remote, Run(Path("mine"))) is None


@no_name
def test_a_run_that_an_event_names_is_looked_for_nowhere_else(
    name: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = tmp_path / "far"
    (far / "runs").mkdir(parents=True)
    (far / "x").mkdir()
    for directory in (far / "x", far / "runs"):
        (directory / "plan.json").write_text(json.dumps({}))
    monkeypatch.setenv("ASSAY_STORE", f"file://{far}")

    with pytest.raises((NotFoundError, OSError)):
        find_shared_run(name)

    assert not list(home.rglob("plan.json"))


@no_name
def test_a_snapshot_that_an_event_names_is_no_path(name: str, finished: Finished) -> None:
    from flows.snapshots import _find

    with pytest.raises(NotFoundError):
        _find(finished.run, name)


def test_a_name_that_no_disk_takes_is_a_refusal() -> None:
    from tasks.errors import storage_error

    with pytest.raises(OSError, match="too long") as caught:
        Path("a" * 5000).stat()

    assert isinstance(storage_error(caught.value), StorageError)
