"""What processes left in a store's `tmp/`: builds of the dead, what was taken away, old locks."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

TRASH = "gc-"
"How the directories begin in which garbage is taken away."
TRAINING = "train-"
"How the directories begin that a later process goes on with."
LOCKS = (".lock", ".new")


def leftovers(directory: Path, cutoff: float) -> Iterator[tuple[str, bool]]:
    """Yield names on which nobody works and nobody has since a time; and whether it can go on."""
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        is_training = path.name.startswith(TRAINING)
        if path.name.startswith(TRASH):
            yield path.name, False
        elif path.suffix in LOCKS and (is_training or path.with_suffix("").exists()):
            # Whoever goes on with a training must meet the lock that others met.
            continue
        elif _last_written(path) <= cutoff and not _is_held(path):
            yield path.name, is_training


def _is_held(path: Path) -> bool:
    """Tell whether a process holds the lock of a directory, or the lock itself."""
    lock = path if path.suffix in LOCKS else path.with_name(f"{path.name}.lock")
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _last_written(path: Path) -> float:
    """Return when anything of a directory was written last; endless if it is going just now."""
    written = [float("inf")]
    with contextlib.suppress(FileNotFoundError):
        inside = path.rglob("*") if path.is_dir() and not path.is_symlink() else ()
        written = [each.lstat().st_mtime for each in (path, *inside)]
    return max(written)
