"""What runs inside the sandbox: a candidate that answers calls, or the judge who makes them.

Candidate and judge are processes in sandboxes of their own. The candidate has the generated code
and one channel: it is told arguments and answers with plain values. The judge has the tests, which
the candidate never sees, and alone can report. So generated code can answer wrongly or not at all,
but nothing that it does to itself (exits, patches, prints, closed files, odd `__eq__`) is a pass.

Nothing but the standard library: `tasks.sandbox` starts a process that has this module alone, and
asks it for boxes.
"""

import builtins
import contextlib
import json
import os
import random
import select
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks import confinement
from tasks.plain_values import MAX_BYTES, NotPlainValueError, decode, encode

MAX_DETAIL = 200
"""Characters of a message that are kept."""


class CandidateError(Exception):
    """What a candidate raised, where it is no built-in exception."""


class NoAnswerError(BaseException):
    """A candidate that is gone, or says what is no answer; tests that expect errors let it by."""


def serve(requests: int) -> None:
    """Fork a keeper for every pair of files that comes: its orders, and a channel for its box."""
    confinement.die_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # What Python was started with is no business of what runs in a box.
    os.environ.clear()
    with socket.socket(fileno=requests) as requested:
        while True:
            _, files, _, _ = socket.recv_fds(requested, 1, 2)
            if not files:
                return
            if os.fork() == 0:
                try:
                    requested.close()
                    _keep(*files)
                finally:
                    os._exit(0)
            for file in files:
                os.close(file)


def _keep(control: int, channel: int) -> None:
    """Be the keeper of a box: build its walls, have its role played, say how that ended.

    Orders come as a line of JSON, and the answer goes back as another. Whoever gave them ends the
    box by hanging up.
    """
    confinement.die_with_parent()
    with socket.socket(fileno=control) as line, line.makefile("rb") as orders:
        order = json.loads(orders.readline())
        try:
            report = _kept(order, control, channel)
        except OSError as error:
            report = {"refused": str(error)}
        with contextlib.suppress(ConnectionError):
            line.sendall(json.dumps(report).encode())


def _kept(order: Mapping[str, Any], control: int, channel: int) -> dict[str, Any]:
    """Fork the box and wait for its end; the deadline and a hung-up line are its end too."""
    awoken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    if order["root"] is not None:
        confinement.leave(Path(order["root"]), order["file_bytes"])
    leash, held = os.pipe()
    said, saying = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(held)
        _play(order, leash, channel, saying)
    for file in (leash, channel, saying):
        os.close(file)
    ended = awoken in select.select([control, awoken], [], [], order["wall_seconds"])[0]
    if not ended:
        os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    with os.fdopen(said, "rb") as report:
        return {
            "ended": ended,
            "code": os.waitstatus_to_exitcode(status),
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            **json.loads(report.read(MAX_BYTES) or b"{}"),
        }


def _play(order: Mapping[str, Any], leash: int, channel: int, saying: int) -> None:
    """Be the first process of the box, as candidate or judge; never returns."""
    try:
        confinement.keep_only((leash, channel, saying))
        confinement.die_with_parent()
        if select.select([leash], [], [], 0)[0]:
            # The keeper had died before.
            os._exit(1)
        confinement.confine(
            cpu_seconds=order["cpu_seconds"],
            memory_bytes=order["memory_bytes"],
            file_bytes=order["file_bytes"],
            is_isolated=order["root"] is not None,
        )
        # A verdict that hangs on a draw is the same each time.
        random.seed(0)
        if "code" in order:
            os.close(saying)
            _answer(order, channel)
        else:
            os.write(saying, json.dumps(_judge(order, channel)).encode())
    except OSError as error:
        os.write(saying, json.dumps({"refused": str(error)}).encode())
    finally:
        os._exit(0)


def _answer(order: Mapping[str, Any], channel: int) -> None:
    """Be the candidate: run the generated code, then answer calls until nobody makes any."""
    calls, answers = os.fdopen(channel, "r"), os.fdopen(os.dup(channel), "w")
    failure: BaseException | None = None
    space: dict[str, Any] = {"__name__": "candidate"}
    try:
        exec(compile(order["code"], "<completion>", "exec"), space)  # noqa: S102  # what this is for
    except BaseException as error:  # noqa: BLE001  # generated code raises anything
        failure = error
    for line in calls:
        try:
            if failure:
                raise failure
            arguments, named = decode(line)
            reply = {"value": encode(space[order["entry_point"]](*arguments, **named))}
        except BaseException as error:  # noqa: BLE001
            name, message = _plain_error(error).args
            reply = {"raised": name, "message": message, "arguments": _plain_arguments(error)}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()


def _plain_error(error: BaseException) -> Exception:
    """Keep an exception's name and message; asking it for them may raise again."""
    if isinstance(error, CandidateError):
        return error
    try:
        return CandidateError(type(error).__name__, str(error)[:MAX_DETAIL])
    except BaseException:  # noqa: BLE001
        return CandidateError("Exception", "")


def _plain_arguments(error: BaseException) -> str:
    """Write what an exception was made with, or that nothing plain was."""
    try:
        return encode(error.args)
    except BaseException:  # noqa: BLE001
        return encode(())


def _judge(order: Mapping[str, Any], channel: int) -> dict[str, Any]:
    """Be the judge: run the tests, return what came out."""
    candidate = _Candidate(channel)
    try:
        space: dict[str, Any] = {"__name__": "tests"}
        exec(compile(order["prompt"], "<prompt>", "exec"), space)  # noqa: S102  # in its box
        space[order["entry_point"]] = candidate
        exec(compile(order["test"], "<test>", "exec"), space)  # noqa: S102  # in its box
        space["check"](candidate)
    except NoAnswerError:
        pass
    except BaseException as error:  # noqa: BLE001
        name, detail = _plain_error(error).args
        if isinstance(error, AssertionError) and error is not candidate.raised:
            return {"outcome": "failed assertion", "detail": detail}
        return {"outcome": "exception", "detail": f"{name}: {detail}"}
    if candidate.silence is not None:
        return {"outcome": "no answer", "detail": candidate.silence[:MAX_DETAIL], "is_gone": True}
    if not candidate.num_calls:
        return {"outcome": "no answer", "detail": "the tests called nothing"}
    return {"outcome": "passed", "detail": ""}


class _Candidate:
    """The function under test, as the judge sees it: it asks the other process."""

    def __init__(self, channel: int) -> None:
        self.num_calls = 0
        self.raised: BaseException | None = None
        self.silence: str | None = None
        """Why there was no answer, once there was none."""
        self._calls, self._answers = os.fdopen(channel, "w"), os.fdopen(os.dup(channel), "r")

    def __call__(self, *arguments: object, **named: object) -> Any:
        self.num_calls += 1
        try:
            return self._answer(arguments, named)
        except NoAnswerError as error:
            self.silence = str(error)
            raise

    def _answer(self, arguments: tuple[object, ...], named: Mapping[str, object]) -> Any:
        try:
            self._calls.write(encode((arguments, named)) + "\n")
            self._calls.flush()
            line = self._answers.readline(MAX_BYTES)
        except (OSError, NotPlainValueError, UnicodeDecodeError) as error:
            raise NoAnswerError(str(error)) from None
        if not line.endswith("\n"):
            raise NoAnswerError("the answer is too long" if line else "the candidate is gone")
        try:
            reply = json.loads(line)
            if "raised" not in reply:
                return decode(reply["value"])
            self.raised = _as_raised(
                str(reply["raised"]), str(reply["message"]), decode(reply["arguments"])
            )
        except (
            ValueError,
            TypeError,
            LookupError,
            AttributeError,
            ArithmeticError,
            RecursionError,
        ) as error:
            raise NoAnswerError(f"the answer cannot be read: {error}") from None
        raise self.raised


def _as_raised(name: str, message: str, arguments: tuple[object, ...]) -> Exception:
    """Make the exception that a candidate raised, for tests that expect one."""
    kind = getattr(builtins, name, None)
    # A StopIteration would quietly end the loop of tests that map the candidate.
    if isinstance(kind, type) and issubclass(kind, Exception) and kind is not StopIteration:
        try:
            return kind(*arguments)
        except TypeError:
            pass
    return CandidateError(name[:MAX_DETAIL], message[:MAX_DETAIL])
