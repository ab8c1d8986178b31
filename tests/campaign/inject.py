"""Make the n-th write, fsync or rename of this process fail, or end the process there.

Standard library alone: every Python that a disturbed run starts loads this before anything else.
"""

import builtins
import datetime
import errno
import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Operation = Literal["write", "fsync", "rename"]
Deed = Literal["ENOSPC", "EIO", "kill", "torn", "clock", "count"]
BACK_SECONDS = 3600.0
"How far the clock is set back."


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """What goes wrong, and at which operation of one process."""

    operation: Operation
    at: int
    deed: Deed
    in_worker: bool
    "In the process that trains, not in that which runs the stages."
    under: str = ""
    "Operations on other paths do not count."
    told: str = ""
    "A file outside of `under` that says how many operations there were, and whether it happened."

    def encoded(self) -> str:
        """Write it so that an environment can hold it."""
        return json.dumps(asdict(self))


def install(encoded: str) -> None:
    """Have this process misbehave, if it is the one that is meant."""
    injection = Injection(**json.loads(encoded))
    if injection.deed == "clock":
        # Every process of a machine has the same clock.
        _wrap_clock(injection.told)
    _Injector(injection).wrap()


def is_worker() -> bool:
    """Tell whether this process trains."""
    words = [*sys.orig_argv, *sys.argv]
    return any("train_worker" in word for word in words)


class _Injector:
    def __init__(self, injection: Injection) -> None:
        self.injection, self.seen = injection, 0
        self.counts: dict[str, int] = {}
        self.lock = threading.RLock()
        self.write, self.open, self.fsync = os.write, builtins.open, os.fsync

    def happens(self, operation: Operation, path: object) -> bool:
        """Count an operation; tell whether it is to end half-way. Raises or kills if it is due."""
        wanted, name = self.injection, os.fspath(path) if isinstance(path, os.PathLike) else path
        # Asked every time: a worker may be a fork of a process that has this already.
        if not str(name).startswith(wanted.under) or wanted.in_worker != is_worker():
            return False
        if wanted.deed == "count":
            self.count(operation)
        if wanted.deed == "count" or operation != wanted.operation:
            return False
        with self.lock:
            self.seen += 1
            # A full disk stays full; a bad block is passed over.
            full = wanted.deed == "ENOSPC" and self.seen >= wanted.at
            due = full or self.seen == wanted.at
            self.tell(due=due)
        return due and self.do(name)

    def do(self, path: object) -> bool:
        deed = self.injection.deed
        if deed in ("ENOSPC", "EIO"):
            number = getattr(errno, deed)
            raise OSError(number, os.strerror(number), str(path))
        if deed == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return deed == "torn"

    def count(self, operation: Operation) -> None:
        """Count operations of every kind."""
        with self.lock:
            self.counts[operation] = self.counts.get(operation, 0) + 1
            self.say(json.dumps(self.counts))

    def tell(self, *, due: bool) -> None:
        """Say how many there were, and whether it has happened."""
        self.say(f"{self.seen:08d} {int(due or self.seen > self.injection.at)}\n")

    def say(self, text: str) -> None:
        """Leave a word where no file system fails."""
        descriptor = os.open(self.injection.told, os.O_CREAT | os.O_WRONLY)
        self.write(descriptor, text.encode())
        os.close(descriptor)

    def wrap(self) -> None:
        """Take the place of what opens, writes, syncs and renames."""
        builtins.open = io.open = self._opening(builtins.open)
        os.write = self._on_descriptor("write", os.write)
        os.sendfile = self._on_descriptor("write", os.sendfile)
        os.fsync = self._on_descriptor("fsync", os.fsync)
        for name in ("rename", "replace", "link"):
            setattr(os, name, self._onto(getattr(os, name)))

    def _on_descriptor(self, operation: Operation, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(descriptor: Any, *rest: Any, **more: Any) -> Any:
            number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
            is_last = self.happens(operation, _path_of(number))
            done = call(descriptor, *rest, **more)
            if is_last:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        return counted

    def _onto(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(source: Any, target: Any, **more: Any) -> Any:
            if self.happens("rename", target):
                call(source, target, **more)
                os.kill(os.getpid(), signal.SIGKILL)
            return call(source, target, **more)

        return counted

    def _opening(self, call: Callable[..., Any]) -> Callable[..., Any]:
        injector = self

        class CountedFile(io.FileIO):
            def write(self, content: Any) -> int:
                if injector.happens("write", str(self.name)):
                    half = memoryview(content).cast("B")
                    super().write(half[: len(half) // 2])
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().write(content)

        def opened(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **more: Any) -> Any:
            is_path = isinstance(file, str | os.PathLike)
            if not (is_path and set(mode) & set("wax+")) or "opener" in more:
                return call(file, mode, buffering, *rest, **more)
            name = os.path.abspath(file)  # noqa: PTH100  # pathlib itself is disturbed
            if not name.startswith(injector.injection.under):
                return call(file, mode, buffering, *rest, **more)
            raw = CountedFile(name, mode.replace("b", "").replace("t", ""))
            if "b" in mode and buffering == 0:
                return raw
            buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            return buffered if "b" in mode else _as_text(buffered, *rest, **more)

        return opened


def _as_text(
    buffered: Any,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    **_more: Any,
) -> io.TextIOWrapper:
    return io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline)


def _path_of(descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115  # the same
    except OSError:
        return ""


def _wrap_clock(told: str) -> None:
    """Set the clock of this process back once the injection has happened anywhere."""
    state = {"back": False}

    def back() -> float:
        if not state["back"]:
            try:
                descriptor = os.open(told, os.O_RDONLY)
                state["back"] = os.read(descriptor, 10)[9:10] == b"1"
                os.close(descriptor)
            except OSError:
                return 0.0
        return BACK_SECONDS if state["back"] else 0.0

    true_time, true_ns, true_gmtime = time.time, time.time_ns, time.gmtime

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.datetime.fromtimestamp(time.time(), tz)

    time.time = lambda: true_time() - back()
    time.time_ns = lambda: true_ns() - int(back() * 1e9)
    time.gmtime = lambda seconds=None: true_gmtime(time.time() if seconds is None else seconds)
    datetime.datetime = Clock  # type: ignore[misc]
