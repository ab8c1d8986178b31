"""Opting out: a list of what must not be in the corpus, one name a line.

A name is a repository, the sha1 of a content (`blob_id`), a Software Heritage identifier
(`swh:1:cnt:...`), or the sha256 of a document. Lines that start with `#` are comments.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from data.errors import MissingFileError, WrongSettingError

SWHID = "swh:1:cnt:"
FIELDS = ("repository", "blob_id", "content_id", "sha256")


@dataclass(frozen=True, slots=True)
class Removals:
    """Names of what was removed, in any of the fields by which a document can be named."""

    names: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Digest of the names."""
        return hashlib.sha256("\n".join(self.names).encode()).hexdigest()

    def details(self, documents: pa.RecordBatch) -> list[str]:
        """Say for each document by which name it was removed; empty where it was not."""
        found = [""] * documents.num_rows
        if not self.names:
            return found
        names = pa.array(self.names, pa.string())
        for field in FIELDS:
            column = documents[field]
            for place in pc.indices_nonzero(pc.is_in(column, names)).to_pylist():
                found[place] = found[place] or f"{field} {column[place]} is on the removal list"
        return found


def read_removals(path: str) -> Removals:
    """Read a removal list; no path is an empty list.

    Raises: MissingFileError, WrongSettingError.
    """
    if not path:
        return Removals(())
    if not Path(path).is_file():
        raise MissingFileError("pretokenize.removal_list", Path(path))
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise WrongSettingError("pretokenize.removal_list", path, "a text in UTF-8") from None
    lines = (line.strip() for line in text.splitlines())
    names = {line.removeprefix(SWHID) for line in lines if line and not line.startswith("#")}
    return Removals(tuple(sorted(names)))
