"""Take garbage out of a store.

Here a directory is renamed into `tmp/` before anything of it is removed: it is there whole, or it
is not there. Elsewhere its index goes first: without one, a directory does not exist. A kill leaves
what the next collection finds as a leftover.
"""

import contextlib
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tasks.errors import BusyError
from tasks.garbage import Garbage
from tasks.in_use import alone
from tasks.leftovers import TRASH
from tasks.remote import Entry, Remote
from tasks.store import INDEX, Store, locked
from tasks.unit_cache import UNIT

TOGETHER = 500
"So many are renamed in one go; whoever wants to use something waits that long."
INDEXES = {"artefact": INDEX, "unit": UNIT}


@dataclass(frozen=True, slots=True)
class Weight:
    """What goes, or what went: a file of which another name stays frees nothing."""

    num_here: int
    num_there: int
    num_bytes_here: int
    num_bytes_there: int


def weigh(store: Store, garbage: Sequence[Garbage]) -> Weight:
    """Count what removing would free."""
    here = [each.name for each in garbage if each.is_here]
    there = [each.name for each in garbage if not each.is_here]
    listing = store.remote.listing("") if store.remote and there else {}
    files = _grouped(listing, there).values()
    num_bytes = sum(entry.num_bytes for each in files for entry in each.values())
    return Weight(
        len(here), len(there), _freed_bytes(store.root / name for name in here), num_bytes
    )


def remove(store: Store, garbage: Sequence[Garbage], cutoff: float) -> Weight:
    """Remove what nobody has used since it was found; return what was removed.

    Raises: OSError, StoreRefusedError, StoreUnreachableError.
    """
    here = [each for each in garbage if each.is_here]
    there = [each for each in garbage if not each.is_here]
    left = (
        _remove_there(store.remote, there, cutoff) if store.remote and there else Weight(0, 0, 0, 0)
    )
    # What is gone elsewhere but here can be sent again; the other way round it would be fetched.
    num_here, num_bytes = _remove_here(store, here, cutoff)
    return Weight(num_here, left.num_there, num_bytes, left.num_bytes_there)


def _remove_here(store: Store, garbage: Sequence[Garbage], cutoff: float) -> tuple[int, int]:
    """Take everything away, then remove it; return how much that was and what it freed."""
    trash = store.root / "tmp" / f"{TRASH}{uuid.uuid4().hex}"
    if garbage:
        trash.mkdir(parents=True)
    kept: set[str] = set()
    numbers = iter(range(len(garbage)))
    # Artefacts first: a recipe stays with what it made.
    for batch in _batches(sorted(garbage, key=lambda each: each.what != "artefact")):
        with alone(store.root):
            for each in batch:
                if not _take(
                    store.root / each.name, trash / str(next(numbers)), each, kept, cutoff
                ):
                    kept.add(each.name)
    num = len(list(trash.iterdir())) if garbage else 0
    num_bytes = _freed_bytes([trash])
    shutil.rmtree(trash, ignore_errors=True)
    return num, num_bytes


def _take(path: Path, target: Path, each: Garbage, kept: set[str], cutoff: float) -> bool:
    """Rename one piece of garbage away, unless it is used by now."""
    lock = path.with_name(f"{path.name}.lock")
    hold = locked(lock, what="a training") if each.what == "training" else contextlib.nullcontext()
    try:
        with hold:
            is_used = each.what in (*INDEXES, "recipe") and path.stat().st_mtime > cutoff
            if is_used or each.artefact in kept:
                return False
            path.rename(target)
    except (FileNotFoundError, BusyError):
        return False
    return True


def _freed_bytes(paths: Iterable[Path]) -> int:
    """Sum the sizes of the files of which all names are among these."""
    found: dict[tuple[int, int], tuple[int, int]] = {}
    names: dict[tuple[int, int], int] = {}
    for path in paths:
        for each in (path, *path.rglob("*")) if path.is_dir() else (path,):
            with contextlib.suppress(FileNotFoundError):
                status = each.lstat()
                if not each.is_dir() or each.is_symlink():
                    inode = status.st_dev, status.st_ino
                    found[inode] = status.st_size, status.st_nlink
                    names[inode] = names.get(inode, 0) + 1
    return sum(size for inode, (size, links) in found.items() if names[inode] >= links)


def _remove_there(remote: Remote, garbage: Sequence[Garbage], cutoff: float) -> Weight:
    """Remove indexes first, then the rest, in batches; what was used since it was found stays."""
    files = _grouped(remote.listing(""), (each.name for each in garbage))
    kept: set[str] = set()
    num, num_bytes = 0, 0
    for batch in _batches(sorted(garbage, key=lambda each: each.what != "artefact")):
        going: dict[str, Entry] = {}
        for each in batch:
            if each.artefact in kept or _last_used(remote, each) > cutoff:
                kept.add(each.name)
                continue
            going |= files.get(each.name, {})
            num += 1
        indexes = [name for name in going if name.rpartition("/")[2] in INDEXES.values()]
        remote.remove_all(indexes)
        remote.remove_all(sorted(going.keys() - set(indexes)))
        num_bytes += sum(entry.num_bytes for entry in going.values())
    return Weight(0, num, 0, num_bytes)


def _last_used(remote: Remote, each: Garbage) -> float:
    """Return when something was last used by now; what is no use as it is has no such time."""
    if each.what == "recipe":
        return remote.written(each.name)
    index = INDEXES.get(each.what)
    return remote.written(f"{each.name}/{index}") if index else 0.0


def _grouped(listing: Mapping[str, Entry], names: Iterable[str]) -> dict[str, dict[str, Entry]]:
    """Sort files under the names that they have, or whose directories they are in."""
    found: dict[str, dict[str, Entry]] = {name: {} for name in names}
    for name, entry in listing.items():
        parts = name.split("/")
        for depth in range(1, len(parts) + 1):
            if (directory := "/".join(parts[:depth])) in found:
                found[directory][name] = entry
    return found


def _batches(garbage: Iterable[Garbage]) -> Iterator[list[Garbage]]:
    rest = iter(garbage)
    while batch := list(islice(rest, TOGETHER)):
        yield batch
