import hashlib
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data.candidates import Source, SourceFile
from data.errors import ChangedSourceError, EmptySourceError, MissingSourceError
from data.source import open_source
from data.source_errors import (
    BucketRefusedError,
    HubRefusedError,
    MissingDatasetError,
    UnreachableSourceError,
)
from data.source_hub import hub_place
from data.stack_v2 import StackV2Source
from data.units import Unit
from tests.data.hub_server import COMMIT, REPOSITORY, HubServer
from tests.data.sources import (
    fetching_in,
    python_of,
    repositories,
    rows_of,
    settings_of,
    write_file_rows,
)
from tests.data.stack_server import StackServer

REPOS = repositories(100)
LINES = {f"data/Python/{n}.jsonl": b'{"content": "file %d"}\n' % n * 9 for n in range(5)}
SMALL = {"data/Python/5.jsonl": b'{"content": "small"}\n', "data/Go/0.jsonl": b""}
HUB = f"hf://datasets/{REPOSITORY}/data/Python"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("index") / "train.parquet"
    write_file_rows(path, REPOS)
    return path.read_bytes()


@pytest.fixture(scope="module")
def hub_server(index: bytes) -> Iterator[HubServer]:
    with HubServer(LINES | SMALL | {"data/ids/train.parquet": index}) as server:
        yield server


@pytest.fixture
def hub(hub_server: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    hub_server.refusal = None
    hub_server.downloads.clear()
    hub_server.point_to(monkeypatch)
    return hub_server


@pytest.fixture(scope="module")
def bucket_server(index: bytes) -> Iterator[StackServer]:
    with StackServer() as server:
        lines = {f"raw/{name}": content for name, content in (LINES | SMALL).items()}
        server.put("my-corpus", lines | {"ids/train.parquet": index})
        objects = {f"content/{b.blob_id}": b.object or b"" for _, b in python_of(REPOS)}
        server.put("softwareheritage", objects)
        yield server


@pytest.fixture
def bucket(bucket_server: StackServer, monkeypatch: pytest.MonkeyPatch) -> StackServer:
    bucket_server.reset()
    bucket_server.point_to(monkeypatch)
    return bucket_server


def opened(kind: str, path: str, directory: Path, **changes: Any) -> Source:
    changes = ({"revision": COMMIT} if path.startswith("hf://") else {}) | changes
    fetching = fetching_in(directory, max_retries=1, patience_seconds=2.0)
    return open_source(settings_of(kind, path, **changes), fetching=fetching)


def test_a_dataset_is_pinned_by_the_digests_that_the_hub_keeps(
    hub: HubServer, tmp_path: Path
) -> None:
    source = opened("jsonl", HUB, tmp_path)
    files = {name: content for name, content in (LINES | SMALL).items() if "Python" in name}
    assert [file for unit in source.units for file in unit.files] == [
        SourceFile(Path(name).name, len(content), hashlib.sha256(content).hexdigest())
        for name, content in files.items()
    ]
    # All pages of the listing; and only the file without a digest was downloaded.
    assert set(hub.downloads) == {"data/Python/5.jsonl"}
    lines = [f"{u.files[0].sha256}  {u.files[0].path}\n" for u in source.units]
    text = f"revision {COMMIT}\n{''.join(lines)}"
    assert source.sha256 == hashlib.sha256(text.encode()).hexdigest()
    rows = rows_of(pickle.loads(pickle.dumps(source)), tmp_path)
    assert [row["content"] for row in rows[-2:]] == [b"file 4", b"small"]
    assert len(rows) == 5 * 9 + 1


def test_an_index_on_the_hub_is_copied_once_for_all_its_units(
    hub: HubServer, bucket: StackServer, tmp_path: Path
) -> None:
    path = f"hf://datasets/{REPOSITORY}/data/ids"
    source = opened("the-stack-v2", path, tmp_path, unit_bytes=3000)
    assert isinstance(source, StackV2Source)
    fetches = [source.inputs(unit)[0] for unit in source.units]
    assert len(fetches) > 1
    copies = [needed for fetch in fetches for needed in fetch.inputs if isinstance(needed, Unit)]
    recipe = {"kind": "source file", "version": 1, "sha256": source.files[0].sha256}
    assert [copy.recipe for copy in copies] == [recipe] * len(fetches)
    rows = rows_of(source, tmp_path)
    assert [row["content"] for row in rows] == [blob.content for _, blob in python_of(REPOS)]
    made = tmp_path / "0" / "input-0" / "out"
    assert [path.name for path in made.iterdir()] == ["train.parquet"]


@pytest.mark.parametrize(
    ("refusal", "error", "text"),
    [
        ((401, {"X-Error-Code": "GatedRepo"}), HubRefusedError, "Cannot access gated repo"),
        ((403, {"X-Error-Code": "GatedRepo"}), HubRefusedError, "Cannot access gated repo"),
        (
            (401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
            HubRefusedError,
            "401 Unauthorized",
        ),
        ((403, {}), HubRefusedError, "403"),
        ((401, {"X-Error-Code": "RepoNotFound"}), MissingDatasetError, "Repository Not Found"),
        ((404, {"X-Error-Code": "RevisionNotFound"}), MissingDatasetError, "Revision Not Found"),
        ((404, {"X-Error-Code": "EntryNotFound"}), MissingDatasetError, "Entry Not Found"),
        ((418, {}), UnreachableSourceError, "418"),
    ],
)
def test_a_hub_that_refuses_says_what_to_do(
    hub: HubServer, tmp_path: Path, refusal: Any, error: type[Exception], text: str
) -> None:
    hub.refusal = refusal
    with pytest.raises(error, match=text) as caught:
        opened("jsonl", HUB, tmp_path)
    assert str(caught.value).startswith(f"hf://datasets/someone/stack@{COMMIT[:12]}/data/Python: ")
    assert "\n" not in str(caught.value)


def test_a_token_that_is_refused_while_reading_says_so(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = opened("jsonl", HUB, tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(HubRefusedError, match=r"0\.jsonl: refused"):
        next(source.read(source.units[0]))


def test_a_hub_that_is_not_there_is_unreachable(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    with pytest.raises(UnreachableSourceError, match="no answer"):
        opened("jsonl", HUB, tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UnreachableSourceError, match="offline mode"):
        opened("jsonl", HUB, tmp_path)


def test_a_file_on_the_hub_that_is_not_the_pinned_one_is_refused(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = opened("jsonl", HUB, tmp_path)
    monkeypatch.setitem(hub.files, "data/Python/0.jsonl", b'{"content": "file 9"}\n' * 9)
    with pytest.raises(ChangedSourceError, match=r"data/Python/0\.jsonl: sha256 is "):
        next(source.read(source.units[0]))


@pytest.mark.parametrize("anonymous", [True, False])
def test_a_bucket_is_pinned_by_reading_it(
    bucket: StackServer, tmp_path: Path, anonymous: bool
) -> None:
    path = "s3://my-corpus/raw/data"
    source = opened("jsonl", path, tmp_path, anonymous=anonymous, exclude=("Go/*",))
    assert [unit.files[0].path for unit in source.units] == [f"Python/{n}.jsonl" for n in range(6)]
    content = LINES["data/Python/0.jsonl"]
    assert source.units[0].files[0].sha256 == hashlib.sha256(content).hexdigest()
    assert len(rows_of(source, tmp_path)) == 5 * 9 + 1
    bucket.put("my-corpus", {"raw/data/Python/0.jsonl": b'{"content": "other"}\n'})
    with pytest.raises(ChangedSourceError, match=r"s3://my-corpus/raw/data/Python/0\.jsonl: sha"):
        next(source.read(source.units[0]))
    bucket.put("my-corpus", {"raw/data/Python/0.jsonl": content})


def test_an_index_in_a_bucket_is_cut_without_a_copy_of_it(
    bucket: StackServer, tmp_path: Path
) -> None:
    source = opened("the-stack-v2", "s3://my-corpus/ids", tmp_path)
    rows = rows_of(source, tmp_path)
    assert [row["content"] for row in rows] == [blob.content for _, blob in python_of(REPOS)]


def test_an_unwilling_bucket_says_what_to_do(bucket: StackServer, tmp_path: Path) -> None:
    with pytest.raises(MissingSourceError, match="s3://nobodys-bucket: does not exist"):
        opened("jsonl", "s3://nobodys-bucket", tmp_path)
    with pytest.raises(EmptySourceError, match="s3://my-corpus/nothing: no file matches"):
        opened("jsonl", "s3://my-corpus/nothing", tmp_path)
    bucket.fault = lambda *_: "403 Forbidden"
    with pytest.raises(BucketRefusedError, match="403 Forbidden"):
        opened("jsonl", "s3://my-corpus/raw", tmp_path)
    bucket.fault = lambda *_: "503 Slow Down"
    with pytest.raises(UnreachableSourceError, match="503"):
        opened("jsonl", "s3://my-corpus/raw", tmp_path)


@pytest.mark.parametrize(
    ("path", "repository", "folder"),
    [
        ("hf://datasets/a/b", "a/b", ""),
        ("hf://datasets/a/b/", "a/b", ""),
        ("hf://datasets/a/b/data/C++", "a/b", "data/C++"),
    ],
)
def test_a_path_on_the_hub_names_repository_and_folder(
    path: str, repository: str, folder: str
) -> None:
    place = hub_place(path, COMMIT)
    assert place is not None
    assert (place.repository, place.folder) == (repository, folder)


@pytest.mark.parametrize("path", ["hf://datasets/a", "hf://a/b", "hf://datasets/a/b@main/x"])
def test_other_paths_on_the_hub_are_none(path: str) -> None:
    assert hub_place(path, COMMIT) is None
