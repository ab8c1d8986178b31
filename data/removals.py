"""Opting out: a list of what must not be in the corpus, one name a line.

A name is a repository (`owner/name`, or its address on GitHub), the sha1 of a content (`blob_id`),
a Software Heritage identifier (`swh:1:cnt:...`, qualifiers do not count), or the sha256 of a
document, in whatever case. Lines that start with `#` are comments.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from data.errors import MissingFileError, WrongSettingError

_DECORATION = re.compile(r"^swh:1:cnt:|^(?:https?://)?(?:www\.)?github\.com/|(?:\.git)?/*$|;.*$")
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
            is_named = pc.is_in(pc.utf8_lower(column), names)
            for place in pc.indices_nonzero(is_named).to_pylist():
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
    return Removals(tuple(sorted({_name(line) for line in lines if line and line[0] != "#"})))


def _name(line: str) -> str:
    """Leave of a line what a document is called, in small letters.

    Raises: WrongSettingError.
    """
    name = _DECORATION.sub("", line.lower())
    if not name or ":" in name:
        expected = "lines of owner/name, swh:1:cnt:<40 digits>, a sha1 or a sha256"
        raise WrongSettingError("pretokenize.removal_list", line, expected)
    return name
