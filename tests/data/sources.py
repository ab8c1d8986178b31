"""Settings of sources, and The Stack v2 in small: index rows with the real columns, and blobs."""

import gzip
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.candidates import Source
from data.fetch import Fetching, git_sha1
from data.source import SourceSettings

TIME = pa.timestamp("ns")
TEXT = pa.string()
PER_FILE = {
    "blob_id": TEXT,
    "path": TEXT,
    "content_id": TEXT,
    "language": TEXT,
    "length_bytes": pa.int64(),
    "detected_licenses": pa.list_(TEXT),
    "license_type": TEXT,
    "src_encoding": TEXT,
    "is_vendor": pa.bool_(),
    "is_generated": pa.bool_(),
}
PER_REPOSITORY = {
    "repo_name": TEXT,
    "snapshot_id": TEXT,
    "revision_id": TEXT,
    "directory_id": TEXT,
    "branch_name": TEXT,
    "visit_date": TIME,
    "revision_date": TIME,
    "committer_date": TIME,
    "github_id": pa.int64(),
    "star_events_count": pa.int64(),
    "fork_events_count": pa.int64(),
    "gha_license_id": TEXT,
    "gha_created_at": TIME,
    "gha_language": TEXT,
}
FILE_ROWS = pa.schema({**PER_REPOSITORY, **PER_FILE, "extension": TEXT})
STATISTICS = {
    "alphanum_fraction": pa.float32(),
    "alpha_fraction": pa.float32(),
    "num_lines": pa.int32(),
    "avg_line_length": pa.float32(),
    "max_line_length": pa.int32(),
}
REPOSITORY_ROWS = pa.schema(
    {
        **PER_REPOSITORY,
        "repo_url": TEXT,
        "gha_updated_at": TIME,
        "gha_pushed_at": TIME,
        "files": pa.list_(pa.struct({**PER_FILE, **STATISTICS})),
        "num_files": pa.int64(),
    }
)
EMPTY: dict[str, Any] = {
    "path": "",
    "revision": "",
    "anonymous": False,
    "include": ("**/*",),
    "exclude": (),
    "licence": "",
    "language": "",
    "text_column": "",
    "licence_column": "",
    "path_column": "",
    "repository_column": "",
    "unit_bytes": 0,
    "contents": "",
    "max_blob_bytes": 0,
    "max_missing_share": 0.0,
}
BUCKET = "s3://softwareheritage/content"


def settings_of(kind: Any, path: Path | str, **changes: Any) -> SourceSettings:
    needed: dict[str, Any] = {
        "directory": {"unit_bytes": 1000},
        "python-stdlib": {"unit_bytes": 1000},
        "python-packages": {"unit_bytes": 1000},
        "jsonl": {"text_column": "content"},
        "parquet": {"text_column": "content"},
        "the-stack-v2": {
            "language": "Python",
            "unit_bytes": 10**9,
            "contents": BUCKET,
            "max_blob_bytes": 10_000,
            "anonymous": True,
        },
        "the-stack-v3": {"language": "Python"},
    }
    chosen = EMPTY | needed.get(kind, {}) | {"path": str(path)} | changes
    return SourceSettings(kind=kind, **chosen)


def fetching_in(directory: Path, **changes: Any) -> Fetching:
    settings: dict[str, Any] = {
        "cache": str(directory / "cache"),
        "max_in_flight": 8,
        "max_retries": 6,
        "patience_seconds": 20.0,
    }
    return Fetching(**(settings | changes))


def rows_of(source: Source, directory: Path) -> list[dict[str, Any]]:
    """Make the inputs of all units, read all, and return the candidates of all units."""
    return [row for unit in range(len(source.units)) for row in unit_rows(source, unit, directory)]


def unit_rows(source: Source, number: int, directory: Path) -> list[dict[str, Any]]:
    unit = source.units[number]
    inputs = [make(unit, directory / str(number)) for unit in source.inputs(unit)]
    batches = list(source.read(unit, *inputs))
    return [row for batch in batches for row in batch.to_pylist()]


def make(unit: Any, out: Path) -> Path:
    given = [make(needed, out / f"input-{n}") for n, needed in enumerate(unit.inputs)]
    made = out / "out"
    made.mkdir(parents=True)
    unit.make(made, *given)
    return made


@dataclass(frozen=True)
class Blob:
    """A file of the archive: what the index says of it, and what lies in the bucket."""

    content: bytes
    path: str
    language: str = "Python"
    encoding: str = "UTF-8"
    licences: tuple[str, ...] = ("MIT",)
    stored: bytes | None = b""
    """As in the bucket: empty for the gzip of the content, None for nothing."""

    @property
    def blob_id(self) -> str:
        return hashlib.sha1(self.content).hexdigest()

    @property
    def object(self) -> bytes | None:
        return gzip.compress(self.content, 1, mtime=0) if self.stored == b"" else self.stored

    @property
    def row(self) -> dict[str, Any]:
        return {
            "blob_id": self.blob_id,
            "path": self.path,
            "content_id": git_sha1(self.content),
            "language": self.language,
            "length_bytes": len(self.content),
            "detected_licenses": list(self.licences),
            "license_type": "permissive" if self.licences else "no_license",
            "src_encoding": self.encoding,
            "is_vendor": "vendor" in self.path,
            "is_generated": self.path.endswith("_pb2.py"),
        }


def repositories(num_files: int, files_each: int = 5) -> list[list[Blob]]:
    """Return small repositories of Python with a C file here and there, without any damage."""

    def blob(number: int) -> Blob:
        text = f"def f{number}(x):\n    return x + {number}\n" * (1 + number % 7)
        if number % 11 == 3:
            return Blob(text.encode(), f"/src/c{number}.c", language="C")
        if number % 50 == 7:
            latin = f"# caf\xe9 {number}\n".encode("latin-1")
            return Blob(latin, f"/latin{number}.py", encoding="ISO-8859-1")
        licences = ((), ("MIT",), ("Apache-2.0", "MIT"))[number % 3]
        return Blob(text.encode(), f"/vendor/f{number}.py", licences=licences)

    blobs = [blob(number) for number in range(num_files)]
    return [blobs[start : start + files_each] for start in range(0, num_files, files_each)]


def damaged(blobs: Sequence[Blob]) -> tuple[list[Blob], dict[str, str]]:
    """Damage some of the blobs in the bucket; return all, and the reason by blob id."""
    damage: dict[int, tuple[str, bytes | None]] = {
        10: ("missing key", None),
        20: ("bad gzip", gzip.compress(b"x = 1\n" * 50)[:-12]),
        30: ("bad gzip", b"not gzip at all"),
        40: ("sha1 mismatch", gzip.compress(b"other")),
        60: ("missing key", None),
        70: ("too large", gzip.compress(bytes(20_000))),
    }
    found = [replace(b, stored=damage[n][1]) if n in damage else b for n, b in enumerate(blobs)]
    return found, {blobs[n].blob_id: reason for n, (reason, _) in damage.items()}


def write_file_rows(path: Path, repos: Sequence[Sequence[Blob]], row_group_size: int = 300) -> None:
    rows = [
        _repository(n) | b.row | {"extension": "py"} for n, blobs in enumerate(repos) for b in blobs
    ]
    write_table(path, rows, FILE_ROWS, row_group_size)


def write_repository_rows(path: Path, repos: Sequence[Sequence[Blob]]) -> None:
    rows = [
        _repository(n) | {"files": [b.row for b in blobs], "num_files": len(blobs)}
        for n, blobs in enumerate(repos)
    ]
    write_table(path, rows, REPOSITORY_ROWS, 60)


def write_table(
    path: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema, row_group_size: int
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), path, row_group_size=row_group_size)


def python_of(repos: Sequence[Sequence[Blob]]) -> Iterator[tuple[int, Blob]]:
    """Yield the Python files with the number of their repository, in index order."""
    for number, blobs in enumerate(repos):
        yield from ((number, blob) for blob in blobs if blob.language == "Python")


def _repository(number: int) -> dict[str, Any]:
    return {"repo_name": f"someone/repo{number}", "revision_id": f"{number:040x}"}


def candidate_of(repository: int, blob: Blob) -> dict[str, Any]:
    """What every candidate of a blob says of it, whatever became of its content."""
    return {
        "path": blob.path,
        "repository": f"someone/repo{repository}",
        "revision": f"{repository:040x}",
        "blob_id": blob.blob_id,
        "content_id": git_sha1(blob.content),
        "licences": list(blob.licences),
        "is_vendored": "vendor" in blob.path,
        "is_generated": False,
        "encoding": "iso8859-1" if "latin" in blob.path else "utf-8",
    }
