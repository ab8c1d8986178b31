"""Blobs as they were downloaded, kept until the unit that needs them is written.

Every process appends to a pack of its own: of each blob its id, the number of its bytes and the
bytes. A process that was killed leaves a pack whose end may be torn; all before that is found
again. Blobs are checked by their digest when they are used, so a damaged pack costs a download.
"""

import shutil
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import IO, Self

RECORD = struct.Struct("<40sq")


@dataclass(frozen=True, slots=True)
class _Place:
    pack: Path
    offset_bytes: int
    num_bytes: int


class FetchCache:
    """The blobs of one unit; safe for threads."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._places = {
            blob_id: place
            for pack in sorted(directory.glob("*.pack"))
            for blob_id, place in _read(pack)
        }
        self._lock = Lock()
        self._pack: IO[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._pack:
            self._pack.close()

    def get(self, blob_id: str) -> bytes | None:
        """Return a blob as it was downloaded, or None."""
        place = self._places.get(blob_id)
        if place is None:
            return None
        try:
            with place.pack.open("rb") as pack:
                pack.seek(place.offset_bytes)
                return pack.read(place.num_bytes)
        except FileNotFoundError:
            return None

    def put(self, blob_id: str, blob: bytes) -> None:
        """Keep a blob; it is in the hands of the operating system on return."""
        with self._lock:
            if self._pack is None:
                self._pack = tempfile.NamedTemporaryFile(  # noqa: SIM115  (closed by the context)
                    dir=self._directory, suffix=".pack", delete=False, buffering=0
                )
            self._pack.write(RECORD.pack(blob_id.encode(), len(blob)) + blob)

    def drop(self) -> None:
        """Forget everything: the unit is written."""
        shutil.rmtree(self._directory, ignore_errors=True)


def _read(pack: Path) -> Iterator[tuple[str, _Place]]:
    size_bytes = pack.stat().st_size
    offset_bytes = 0
    with pack.open("rb") as file:
        while len(header := file.read(RECORD.size)) == RECORD.size:
            name, num_bytes = RECORD.unpack(header)
            offset_bytes += RECORD.size
            if num_bytes < 0 or offset_bytes + num_bytes > size_bytes:
                return
            yield name.decode("ascii", "replace"), _Place(pack, offset_bytes, num_bytes)
            offset_bytes += num_bytes
            file.seek(offset_bytes)
