"""Complete directories: what they hold, byte for byte, and how they come to be all at once."""

import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from evidence.canonical import file_sha256
from tasks.errors import ArtefactDamagedError


def list_files(directory: Path) -> list[str]:
    """List the files below a directory, by their POSIX paths within it, in order."""
    return sorted(
        path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()
    )


def entries(directory: Path) -> list[dict[str, object]]:
    """Describe every file of a directory: path, bytes and sha256."""
    return [
        {"path": name, "bytes": size_bytes, "sha256": sha256}
        for name, (size_bytes, sha256) in digests(directory).items()
    ]


def digests(directory: Path) -> dict[str, tuple[int, str]]:
    """Compute size and sha256 of every file of a directory, once of one that has two names."""
    by_inode: dict[int, tuple[int, str]] = {}
    found = {}
    for name in list_files(directory):
        status = (directory / name).stat()
        if status.st_ino not in by_inode:
            by_inode[status.st_ino] = (status.st_size, file_sha256(directory / name))
        found[name] = by_inode[status.st_ino]
    return found


def listed_files(index: Mapping[str, Any], where: Path) -> list[Mapping[str, Any]]:
    """Return what an index lists.

    Raises: ArtefactDamagedError if that is no list of files.
    """
    files = index.get("files")
    if not isinstance(files, list) or not all(map(_is_entry, files)):
        expected = "a path, bytes and a sha256 for every file"
        raise ArtefactDamagedError(where, "no list of files", expected)
    return files


def _is_entry(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    kinds = {"path": str, "bytes": int, "sha256": str}
    return all(isinstance(value.get(name), kind) for name, kind in kinds.items())


def differences(
    directory: Path, listed: Iterable[Mapping[str, Any]], *, index: str
) -> Iterator[ArtefactDamagedError]:
    """Yield everything by which the files of a directory, but for its index, are not as listed."""
    expected = {str(entry["path"]): entry for entry in listed}
    present = set(list_files(directory)) - {index}
    for name in sorted(present - expected.keys()):
        yield ArtefactDamagedError(directory / name, "a file", "absent: the index does not list it")
    for name, entry in sorted(expected.items()):
        path = directory / name
        if name not in present:
            yield ArtefactDamagedError(path, "no file", f"{entry['bytes']} bytes")
        elif path.stat().st_size != entry["bytes"]:
            yield ArtefactDamagedError(
                path, f"{path.stat().st_size} bytes", f"{entry['bytes']} bytes"
            )
        elif (found := file_sha256(path)) != entry["sha256"]:
            yield ArtefactDamagedError(path, f"sha256 {found[:12]}", f"{entry['sha256'][:12]}")


def require_inside(directory: Path, names: Iterable[str]) -> None:
    """Refuse names of files, told by somebody else, that lead out of a directory.

    Raises: ArtefactDamagedError.
    """
    for name in names:
        if name.startswith("/") or "\0" in name or ".." in name.split("/"):
            raise ArtefactDamagedError(directory, f"a path that leads out, {name!a:.80}", "none")


def move_into_place(directory: Path, final: Path) -> bool:
    """Sync a complete directory and give it its name; return False if the name is taken.

    Names follow from content or from what determines it: what has the name is the same thing.
    """
    sync(directory)
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        directory.rename(final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    sync_directory(final.parent)
    return True


def sync(directory: Path) -> None:
    """Hand every file of a directory, and their names, to the disk."""
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            sync_directory(path)
    sync_directory(directory)


def sync_directory(directory: Path) -> None:
    """Hand the names in a directory to the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
