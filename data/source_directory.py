"""Source files of this machine as a source: every file is a candidate."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from data.candidates import BATCH_BYTES, CANDIDATES, SourceFile, SourceUnit
from data.errors import ChangedSourceError
from data.source_packages import PackagesPlace
from data.source_places import LocalPlace, pins_sha256
from data.units import Unit


@dataclass(frozen=True, slots=True)
class DirectorySource:
    """Files in path order, some of them a unit."""

    place: LocalPlace | PackagesPlace
    files: tuple[SourceFile, ...]
    licence: str
    unit_bytes: int

    @property
    def units(self) -> tuple[SourceUnit, ...]:
        """The files, cut where a unit has reached its size."""
        return tuple(SourceUnit(n, group) for n, group in enumerate(self._groups()))

    @property
    def sha256(self) -> str:
        """Digest of paths and contents, as `sha256sum` of `sha256sum`'s own listing."""
        return pins_sha256("", self.files)

    @property
    def bare(self) -> "DirectorySource":
        """The source without its list."""
        return replace(self, files=())

    @property
    def max_missing_share(self) -> float:
        """All: an empty file has content."""
        return 1.0

    def inputs(self, unit: SourceUnit) -> tuple[Unit, ...]:
        """Nothing has to be fetched."""
        del unit
        return ()

    def read(self, unit: SourceUnit, *inputs: Path) -> Iterator[pa.RecordBatch]:
        """Yield the files of a unit in path order.

        Raises: ChangedSourceError.
        """
        del inputs
        row, start, contents, num_bytes = 0, 0, list[bytes](), 0
        for row, file in enumerate(unit.files, 1):
            contents.append(self._content(file))
            num_bytes += file.num_bytes
            if num_bytes >= BATCH_BYTES:
                yield self._batch(start, unit.files[start:row], contents)
                start, contents, num_bytes = row, [], 0
        if contents:
            yield self._batch(start, unit.files[start:row], contents)

    def _groups(self) -> Iterator[tuple[SourceFile, ...]]:
        start, num_bytes = 0, 0
        for stop, file in enumerate(self.files, 1):
            num_bytes += file.num_bytes
            if num_bytes >= self.unit_bytes or stop == len(self.files):
                yield self.files[start:stop]
                start, num_bytes = stop, 0

    def _content(self, file: SourceFile) -> bytes:
        path = self.place.local(file.path, Path())
        content = path.read_bytes() if path.is_file() else b""
        found = hashlib.sha256(content).hexdigest()
        if found != file.sha256:
            raise ChangedSourceError(path, found, file.sha256)
        return content

    def _batch(
        self, start: int, files: tuple[SourceFile, ...], contents: list[bytes]
    ) -> pa.RecordBatch:
        num = len(files)
        origins = [self.place.origin(file.path) for file in files]
        default = (self.licence,) if self.licence else ()
        columns = {
            "row": range(start, start + num),
            "path": [file.path for file in files],
            "repository": [origin.repository for origin in origins],
            "revision": [origin.revision for origin in origins],
            "licences": [origin.licences or default for origin in origins],
            "is_vendored": [False] * num,
            "is_generated": [False] * num,
            "encoding": ["utf-8"] * num,
            "content": contents,
        }
        absent = [""] * num
        arrays = [pa.array(columns.get(field.name, absent), field.type) for field in CANDIDATES]
        return pa.record_batch(arrays, schema=CANDIDATES)
