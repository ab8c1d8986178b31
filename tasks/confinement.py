"""Walls around a process: namespaces, a root of its own, no privileges, limits.

Nothing but the standard library, so that it works inside a sandbox.

Source: Linux's user_namespaces(7), pid_namespaces(7), pivot_root(2), mount_setattr(2).
"""

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from tasks.system_calls import refuse_calls

SCRATCH = "/scratch"
"""The one directory inside that can be written."""

_NEW_NAMESPACES = 0x10000000 | 0x00020000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000
"""Of users, mounts, processes, networks, System V objects and host names."""
_BIND, _RECURSIVE, _PRIVATE = 0x1000, 0x4000, 0x40000
_NOSUID, _NODEV, _NOEXEC = 0x2, 0x4, 0x8
_DETACH = 2
_AT_RECURSIVE, _ATTRIBUTE_READ_ONLY, _ATTRIBUTE_NOSUID = 0x8000, 0x1, 0x2
_SYSCALLS = {"x86_64": (155, 442), "aarch64": (41, 442)}
"""pivot_root and mount_setattr."""
_CAPABILITIES_3 = 0x20080522
_PR_SET_PDEATHSIG = 1
_LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64")


def leave(root: Path, scratch_bytes: int) -> None:
    """Enter new namespaces with a read-only root that holds Python's library alone.

    The next child is the first process of the new process namespace.

    Raises: OSError where the machine does not allow it.
    """
    if sys.platform != "linux" or platform.machine() not in _SYSCALLS:
        raise OSError(errno.ENOSYS, f"no namespaces on {sys.platform}, {platform.machine()}")
    uid, gid = os.getuid(), os.getgid()
    _check("namespaces", _libc().unshare(_NEW_NAMESPACES))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    _mount(None, Path("/"), None, _RECURSIVE | _PRIVATE)
    _mount("tmpfs", root, "tmpfs", _NOSUID | _NODEV, "size=1m,mode=755")
    for library in _libraries():
        inside = root / library.relative_to("/")
        inside.parent.mkdir(parents=True, exist_ok=True)
        if library.is_symlink():
            inside.symlink_to(library.readlink())
        elif not inside.exists():
            inside.mkdir()
            _mount(str(library), inside, None, _BIND | _RECURSIVE)
    (root / SCRATCH[1:]).mkdir()
    _enter(root)
    options = f"size={scratch_bytes},nr_inodes=1024,mode=700"
    _mount("tmpfs", Path(SCRATCH), "tmpfs", _NOSUID | _NODEV | _NOEXEC, options)
    os.chdir(SCRATCH)


def _libraries() -> Iterator[Path]:
    """Name Python's own library and the directories of what it links to."""
    standard = Path(os.__file__).parent.parent
    yield from (path for path in map(Path, _LIBRARIES) if path.is_dir())
    if not any(standard.is_relative_to(each) for each in _LIBRARIES):
        yield standard


def _enter(root: Path) -> None:
    """Make a directory the root, read-only, and forget the old one."""
    pivot_root, mount_setattr = _SYSCALLS[platform.machine()]
    os.chdir(root)
    _check("a root of its own", _libc().syscall(pivot_root, b".", b"."))
    _check("a root of its own", _libc().umount2(b".", _DETACH))
    os.chdir("/")
    attributes = struct.pack("=QQQQ", _ATTRIBUTE_READ_ONLY | _ATTRIBUTE_NOSUID, 0, 0, 0)
    code = _libc().syscall(mount_setattr, -1, b"/", _AT_RECURSIVE, attributes, len(attributes))
    _check("a read-only root", code)


def confine(*, cpu_seconds: int, memory_bytes: int, file_bytes: int, is_isolated: bool) -> None:
    """Give up every privilege, and take limits; files that are open stay open.

    Raises: OSError.
    """
    limits = {
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    if is_isolated:
        # Outside a user namespace this counts all that the user runs.
        limits[resource.RLIMIT_NPROC] = 32
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))
    if is_isolated:
        header = struct.pack("=Ii", _CAPABILITIES_3, 0)
        _check("no capabilities", _libc().capset(header, bytes(24)))
        refuse_calls()


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends."""
    if sys.platform == "linux":
        _check("a leash", _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))


def keep_only(descriptors: Iterable[int]) -> None:
    """Close every file but the standard ones and these."""
    first = 3
    for kept in sorted(descriptors):
        os.closerange(first, kept)
        first = kept + 1
    os.closerange(first, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _mount(
    source: str | None, target: Path, kind: str | None, flags: int, options: str | None = None
) -> None:
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    data = None if options is None else options.encode()
    code = _libc().mount(*texts, ctypes.c_ulong(flags), data)
    _check(f"a mount on {target}", code)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(what: str, code: int) -> None:
    if code:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
