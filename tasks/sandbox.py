"""Run generated code against tests without believing or fearing it.

Every answer is judged by two processes in sandboxes of their own (`tasks.box`). A sandbox has no
network, no file of this machine but Python's library, one scratch directory in memory, no way to
start or signal processes, and limits on processor time, wall-clock time, memory and output.

What it does not hide: the library itself, the machine's name for its processor, and time. What it
does not stop: a fault of the kernel.
"""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from model.errors import WrongSettingError
from tasks.errors import IsolationUnavailableError, SandboxError

Isolation = Literal["namespaces", "none"]
Outcome = Literal[
    "passed",
    "failed assertion",
    "exception",
    "timeout",
    "memory",
    "no answer",
    "inference failure",
]

_START = (
    "import sys; sys.path.insert(0, sys.argv[1]); from tasks.box import serve; del sys.path[0]; "
    "serve(int(sys.argv[2]))"
)
_ROOT = Path(__file__).parent.parent
_FILE_BYTES = 16_000_000
_LEAST_MEMORY = 128_000_000
_GRACE_SECONDS = 5.0
"""For what has been told to die, or has nothing left to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSettings:
    """Limits of a sandbox."""

    isolation: Isolation
    "`none` runs generated code as a plain process of this user, limits its only walls."
    cpu_seconds: int
    wall_seconds: float
    memory_bytes: int

    def __post_init__(self) -> None:
        """Refuse limits under which nothing runs.

        Raises: WrongSettingError.
        """
        if self.isolation not in get_args(Isolation):
            expected = " or ".join(get_args(Isolation))
            raise WrongSettingError("isolation", self.isolation, expected)
        least = {"cpu_seconds": 1, "wall_seconds": 1, "memory_bytes": _LEAST_MEMORY}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise WrongSettingError(name, getattr(self, name), f"at least {bound}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A program that should pass tests."""

    code: str
    prompt: str
    "Runs beside the tests, which may use what it defines."
    test: str
    entry_point: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """How an answer did."""

    outcome: Outcome
    detail: str


class Sandbox:
    """A place where answers are judged."""

    def __init__(self, settings: SandboxSettings, root: Path, requests: socket.socket) -> None:
        self.settings = settings
        self._root = root
        self._requests = requests

    @classmethod
    @contextlib.contextmanager
    def opened(cls, settings: SandboxSettings) -> Iterator["Sandbox"]:
        """Yield a sandbox that was seen to work; when it closes, everything in it dies.

        Raises: IsolationUnavailableError.
        """
        ours, theirs = socket.socketpair()
        with ours, theirs, tempfile.TemporaryDirectory(prefix="assay-sandbox-") as root:
            server = _serve(theirs.fileno(), root)
            theirs.close()
            try:
                sandbox = cls(settings, Path(root), ours)
                sandbox.judge(_PROBE)
                yield sandbox
            finally:
                server.kill()
                server.wait()

    def judge_all(self, answers: Sequence[Answer], num_workers: int) -> list[Verdict]:
        """Judge answers, so many at a time; verdicts come in the order of the answers."""
        with ThreadPoolExecutor(num_workers) as pool:
            return list(pool.map(self.judge, answers))

    def judge(self, answer: Answer) -> Verdict:
        """Judge one answer; whatever it does, a verdict comes within the limits.

        Raises: IsolationUnavailableError, SandboxError.
        """
        tests = {"prompt": answer.prompt, "test": answer.test}
        judges, candidates = socket.socketpair()
        with judges, candidates:
            wall = self.settings.wall_seconds
            judge = self._box(judges, wall, entry_point=answer.entry_point, **tests)
            # The candidate is hung up on: a judge who sees it die at the deadline would blame it.
            later = wall + 2 * _GRACE_SECONDS
            try:
                candidate = self._box(
                    candidates, later, entry_point=answer.entry_point, code=answer.code
                )
            except SandboxError:
                judge.close()
                raise
        with judge, candidate:
            judged = _report(judge, wall + _GRACE_SECONDS)
            verdict = self._verdict(judged)
            if "is_gone" not in judged:
                return verdict
            # A candidate that no longer answers may run on; its keeper ends it and says how it was.
            candidate.shutdown(socket.SHUT_WR)
            return self._why(verdict, _report(candidate, _GRACE_SECONDS))

    def _box(self, channel: socket.socket, wall_seconds: float, **role: str) -> socket.socket:
        """Order a box; hanging up ends it."""
        is_isolated = self.settings.isolation != "none"
        order = {
            **role,
            "root": str(self._root) if is_isolated else None,
            "cpu_seconds": self.settings.cpu_seconds,
            "wall_seconds": wall_seconds,
            "memory_bytes": self.settings.memory_bytes,
            "file_bytes": _FILE_BYTES,
        }
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._requests, [b"."], [theirs.fileno(), channel.fileno()])
                ours.sendall(json.dumps(order).encode() + b"\n")
            except OSError as error:
                ours.close()
                raise SandboxError("the server of boxes", f"is gone ({error})") from None
        return ours

    def _verdict(self, judged: Mapping[str, Any]) -> Verdict:
        if not judged["ended"]:
            return Verdict("timeout", f"{self.settings.wall_seconds:g} s of wall-clock time")
        if "outcome" not in judged and judged["code"] >= 0:
            raise SandboxError("the judge", f"ended with code {judged['code']} and no verdict")
        if "outcome" not in judged:
            # It read an answer that costs more to look at than it may use.
            return self._why(Verdict("no answer", "the judge was killed"), judged)
        verdict = Verdict(judged["outcome"], judged["detail"])
        if verdict.outcome == "exception" and verdict.detail.startswith("MemoryError"):
            return Verdict("memory", f"{self.settings.memory_bytes:,} bytes")
        return verdict

    def _why(self, verdict: Verdict, answered: Mapping[str, Any]) -> Verdict:
        """Say why there is no answer, as far as the end of a box tells."""
        was_killed = answered["code"] in (-signal.SIGKILL, -signal.SIGXCPU)
        # The limit counts ticks, the usage what was truly had: on a machine that others use, less.
        if was_killed and answered["cpu_seconds"] > self.settings.cpu_seconds / 2:
            return Verdict("timeout", f"{self.settings.cpu_seconds} s of processor time")
        return Verdict("no answer", f"{verdict.detail}; it ended with code {answered['code']}")


def _serve(requests: int, root: str) -> "subprocess.Popen[bytes]":
    """Start the process that boxes are forked from: a Python that has nothing of ours but them."""
    return subprocess.Popen(
        [sys.executable, "-P", "-s", "-S", "-c", _START, str(_ROOT), str(requests)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(requests,),
        cwd=root,
        # Sets of texts then have one order, and an answer one verdict. `-I` would ignore it.
        env={"PYTHONHASHSEED": "0"},
        start_new_session=True,
    )


def _report(box: socket.socket, seconds: float) -> dict[str, Any]:
    """Return what a box's keeper says of its end.

    Raises: IsolationUnavailableError, SandboxError.
    """
    box.settimeout(seconds)
    said = b""
    # A keeper that is gone or does not end its box in time has said nothing.
    with contextlib.suppress(ConnectionError, TimeoutError):
        while piece := box.recv(1 << 16):
            said += piece
    if not said:
        raise SandboxError("a box", "was not kept")
    report: dict[str, Any] = json.loads(said)
    if "refused" in report:
        raise IsolationUnavailableError(report["refused"])
    return report


_PROBE = Answer(
    code="def probe(number):\n    return number + 1\n",
    prompt="",
    test="def check(candidate):\n    assert candidate(1) == 2\n",
    entry_point="probe",
)
