"""What generated code may try, and that none of it is a pass or does harm."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from model.errors import WrongSettingError
from tasks import sandbox as module
from tasks.errors import IsolationUnavailableError, SandboxError
from tasks.sandbox import Answer, Sandbox, Verdict
from tests.tasks.isolation import SETTINGS, needs_isolation

pytestmark = needs_isolation

PROMPT = 'def helper(x):\n    return x + 1\n\n\ndef double(x):\n    """Double x."""\n'
TEST = "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(helper(2)) == 6\n"


def answer(body: str, *, before: str = "", test: str = TEST) -> Answer:
    """A program whose function has this body, after what stands at the top level."""
    return Answer(
        code=f"{before}\n{PROMPT}    {body}\n", prompt=PROMPT, test=test, entry_point="double"
    )


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox.opened(SETTINGS) as opened:
        yield opened


def test_a_right_answer_passes(sandbox: Sandbox) -> None:
    assert sandbox.judge(answer("return 2 * x")) == Verdict("passed", "")


def test_a_wrong_answer_fails_the_assertion(sandbox: Sandbox) -> None:
    found = sandbox.judge(answer("return x + 2"))

    assert found == Verdict("failed assertion", "")


WRONG = {
    "syntax": (answer("return ("), "exception", "SyntaxError: '(' was never closed"),
    "raises": (answer("return 1 / 0"), "exception", "ZeroDivisionError: division by zero"),
    "asserts itself": (answer("assert False, 'mine'"), "exception", "AssertionError: mine"),
    "no function": (
        replace(answer("pass"), entry_point="triple"),
        "exception",
        "KeyError: 'triple'",
    ),
    "not plain": (answer("return (2 * x for _ in [1])"), "exception", "NotPlainValueError"),
    "nothing": (answer("pass"), "failed assertion", ""),
}


@pytest.mark.parametrize(("wrong", "outcome", "detail"), WRONG.values(), ids=WRONG.keys())
def test_what_goes_wrong_is_named(
    sandbox: Sandbox, wrong: Answer, outcome: str, detail: str
) -> None:
    found = sandbox.judge(wrong)

    assert found.outcome == outcome
    assert found.detail.startswith(detail)


def test_what_python_draws_is_the_same_in_every_sandbox(sandbox: Sandbox) -> None:
    words = "{'one', 'two', 'three', 'four', 'five'}"
    drawing = answer(
        f"raise ValueError(*{words}, random.random(), hash('x'))", before="import random"
    )
    with Sandbox.opened(SETTINGS) as other:
        found = [each.judge(drawing) for each in (sandbox, sandbox, other)]
    assert found[0].detail.startswith("ValueError: (")
    assert found == [found[0]] * 3


ALWAYS_EQUAL = "class Yes({base}):\n    def __eq__(self, other): return True\n    __hash__ = None"
ON_ALL_FILES = (
    "import os\nfor number in range(3, 64):\n    try: os.write(number, {line!r})\n"
    "    except OSError: pass"
)
LIBC = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
VERDICT = b'{"outcome": "passed", "detail": "", "ended": true, "code": 0}\n'
_SET = ["set", [["int", hex(number * (2**61 - 1))] for number in range(20_000)]]
COLLIDING = json.dumps({"value": json.dumps(_SET)}).encode() + b"\n"
"""A set whose numbers all have the same hash: reading it compares each with all others."""

HOSTILE: dict[str, tuple[Answer, str]] = {
    "exits with success": (answer("import os; os._exit(0)"), "no answer"),
    "exits while it is loaded": (answer("pass", before="import os; os._exit(0)"), "no answer"),
    "raises SystemExit": (answer("raise SystemExit(0)"), "exception"),
    "prints success": (answer("print('passed', flush=True)"), "failed assertion"),
    "loops": (answer("while True: pass"), "timeout"),
    "loops while it is loaded": (answer("pass", before="while True: pass"), "timeout"),
    "sleeps": (answer("import time; time.sleep(1000)"), "timeout"),
    "ignores signals and loops": (
        answer(
            "while True: pass",
            before="import signal\nfor n in (14, 15, 24): signal.signal(n, signal.SIG_IGN)",
        ),
        "timeout",
    ),
    "takes all memory": (answer("return [0] * 10**10"), "memory"),
    "takes memory bit by bit": (
        answer("parts = []\n    while True: parts.append(bytearray(10**6))"),
        "memory",
    ),
    "fills the scratch directory": (
        answer("open('big', 'wb').write(bytes(20_000_000))"),
        "exception",
    ),
    "fork bomb": (answer("import os\n    while True: os.fork()"), "exception"),
    "fork bomb in C": (
        answer("return 2 * x if libc.fork() != -1 else None", before=LIBC),
        "failed assertion",
    ),
    "starts a program": (
        answer("import subprocess; subprocess.run(['/bin/true'])"),
        "exception",
    ),
    "thread bomb": (
        answer(
            "import threading, time\n"
            "    while True: threading.Thread(target=time.sleep, args=(99,)).start()"
        ),
        "exception",
    ),
    "kills everyone": (answer("import os; os.kill(-1, 9)"), "exception"),
    "connects": (
        answer("import socket; socket.create_connection(('127.0.0.1', 80), 1)"),
        "exception",
    ),
    "reads secrets": (answer("return open('/etc/passwd').read()"), "exception"),
    "reads the tests": (
        answer("return open('/proc/self/environ').read()"),
        "exception",
    ),
    "writes beside its library": (
        answer("import os; return open(os.__file__ + '.new', 'w')"),
        "exception",
    ),
    "deletes its library": (
        answer("import os, shutil; shutil.rmtree(os.path.dirname(os.__file__))"),
        "exception",
    ),
    "makes itself root": (answer("import os; os.setuid(12345)"), "exception"),
    "makes namespaces": (
        answer("return 2 * x if libc.unshare(0x10000000) == 0 else None", before=LIBC),
        "failed assertion",
    ),
    "mounts": (
        answer(
            "return 2 * x if libc.mount(b'x', b'/scratch', b'tmpfs', 0, None) == 0 else None",
            before=LIBC,
        ),
        "failed assertion",
    ),
    "traces": (
        answer("return 2 * x if libc.ptrace(16, 1, 0, 0) == 0 else None", before=LIBC),
        "failed assertion",
    ),
    "keeps memory without a mapping": (
        answer("return 2 * x if libc.shmget(0, 10**9, 0o1600) != -1 else None", before=LIBC),
        "failed assertion",
    ),
    "outlives its keeper": (
        answer("return 2 * x if libc.prctl(1, 0, 0, 0, 0) == 0 else None", before=LIBC),
        "failed assertion",
    ),
    "equals everything": (
        answer("return Yes()", before=ALWAYS_EQUAL.format(base="")),
        "exception",
    ),
    "is an int that equals everything": (
        answer("return Yes(7)", before=ALWAYS_EQUAL.format(base="int")),
        "failed assertion",
    ),
    "is a list that equals everything": (
        answer("return Yes()", before=ALWAYS_EQUAL.format(base="list")),
        "failed assertion",
    ),
    "patches assertions": (
        answer("pass", before="import builtins\nbuiltins.AssertionError = type('E', (), {})"),
        "failed assertion",
    ),
    "patches what compares": (
        answer("pass", before="import operator, builtins\nbuiltins.check = lambda candidate: None"),
        "failed assertion",
    ),
    "patches how it is judged": (
        answer(
            "pass",
            before="import sys\nfor module in list(sys.modules.values()):\n"
            "    for name in ('_judge', 'encode', '_plain_error'):\n"
            "        if hasattr(module, name): setattr(module, name, lambda *_: 'passed')",
        ),
        "no answer",
    ),
    "writes a verdict to every file": (
        answer("return 0", before=ON_ALL_FILES.format(line=VERDICT)),
        "no answer",
    ),
    "ends the iteration of its tests": (
        answer(
            "raise StopIteration",
            test="def check(candidate):\n    assert all(map(candidate, [1, 2]))\n",
        ),
        "exception",
    ),
    "answers without end": (
        answer("pass", before=ON_ALL_FILES.format(line=b"[" * 3_000_000)),
        "no answer",
    ),
    "answers beyond any stack": (
        answer("pass", before=ON_ALL_FILES.format(line=b'{"value": "' + b"[" * 100_000 + b'"}\n')),
        "no answer",
    ),
    "answers what takes forever to read": (
        answer("pass", before=ON_ALL_FILES.format(line=COLLIDING)),
        "timeout",
    ),
    "answers nonsense and runs on": (
        answer(
            "pass",
            before=ON_ALL_FILES.format(line=b"nonsense\n") + "\nimport time; time.sleep(1000)",
        ),
        "no answer",
    ),
    "hangs up and runs on": (
        answer("pass", before="import os, time; os.closerange(3, 64); time.sleep(1000)"),
        "no answer",
    ),
    "closes every file": (answer("import os; os.closerange(0, 64)"), "no answer"),
    "an endless error message": (
        answer("raise type('E', (Exception,), {'__str__': lambda self: 'x' * 10**7})"),
        "exception",
    ),
    "an error that cannot be asked": (
        answer("raise type('E', (Exception,), {'__str__': lambda self: 1 / 0})"),
        "exception",
    ),
}


@pytest.fixture(scope="module")
def hostile(sandbox: Sandbox) -> dict[str, Verdict]:
    library = Path(os.__file__).parent
    before = sorted(path.name for path in library.iterdir())
    found = sandbox.judge_all([each for each, _ in HOSTILE.values()], num_workers=2)
    assert sorted(path.name for path in library.iterdir()) == before
    return dict(zip(HOSTILE, found, strict=True))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_code_does_not_pass(hostile: dict[str, Verdict], name: str) -> None:
    assert hostile[name].outcome == HOSTILE[name][1], hostile[name]


def test_the_sandbox_works_after_all_of_them(sandbox: Sandbox, hostile: object) -> None:
    assert sandbox.judge(answer("return 2 * x")).outcome == "passed"


def test_processor_time_and_wall_clock_time_are_told_apart(hostile: dict[str, Verdict]) -> None:
    with Sandbox.opened(replace(SETTINGS, wall_seconds=60)) as patient:
        assert patient.judge(answer("while True: pass")).detail == "1 s of processor time"
    assert hostile["sleeps"].detail == "2.5 s of wall-clock time"


def test_tests_that_call_nothing_are_no_pass(sandbox: Sandbox) -> None:
    lenient = answer("return 7", test="def check(candidate):\n    pass\n")

    assert sandbox.judge(lenient) == Verdict("no answer", "the tests called nothing")


def test_tests_may_expect_an_exception(sandbox: Sandbox) -> None:
    test = (
        "def check(candidate):\n"
        "    try: candidate(2)\n"
        "    except KeyError as error: assert str(error) == \"'x'\"\n"
        "    else: assert False\n"
    )

    assert sandbox.judge(answer("raise KeyError('x')", test=test)).outcome == "passed"
    assert sandbox.judge(answer("return 4", test=test)).outcome == "failed assertion"


def test_dying_is_no_exception_that_tests_may_expect(sandbox: Sandbox) -> None:
    test = (
        "def check(candidate):\n    try: candidate(2)\n    except: pass\n    else: assert False\n"
    )

    assert sandbox.judge(answer("raise ValueError", test=test)).outcome == "passed"
    assert sandbox.judge(answer("import os; os._exit(0)", test=test)).outcome == "no answer"


def test_values_of_every_plain_kind_go_there_and_back(sandbox: Sandbox) -> None:
    values = (
        "[None, True, -3, 2**70000, 0.1, float('inf'), 1j, 'a\\ud800', b'\\x00', (1, [2]), set(), "
        "{1, 2}, frozenset({3}), {'a': {(1, 2): None}}]"
    )
    test = (
        f"def check(candidate):\n    for each in {values}:\n"
        "        found = candidate(each, key=each)\n"
        "        assert found == (each, each) and type(found[0]) is type(each)\n"
    )
    code = "def double(x, key): return x, key\n"

    found = sandbox.judge(Answer(code=code, prompt="", test=test, entry_point="double"))

    assert found == Verdict("passed", "")


def test_the_scratch_directory_is_empty_for_everyone(sandbox: Sandbox) -> None:
    body = (
        "import os; was = os.listdir(); open('left', 'w').close(); return 2 * x if not was else 0"
    )
    test = "def check(candidate):\n    assert candidate(2) == 4\n"

    found = [sandbox.judge(answer(body, test=test)).outcome for _ in range(2)]

    assert found == ["passed", "passed"]


def test_nothing_is_left_running(sandbox: Sandbox) -> None:
    for body in ("import time; time.sleep(1000)", "while True: pass"):
        sandbox.judge(answer(body))
    time.sleep(0.2)

    with Sandbox.opened(SETTINGS):
        pass

    line = "import time; time.sleep(1000)"
    running = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not any(line.encode() in each for each in running)


def test_without_isolation_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = (
        "import tasks.confinement\n"
        "def leave(*_): raise OSError(1, 'not here')\n"
        "tasks.confinement.leave = leave\n"
    )
    start = module._START.replace("from tasks", f"exec({refusing!r}); from tasks")
    monkeypatch.setattr(module, "_START", start)

    with pytest.raises(IsolationUnavailableError) as caught, Sandbox.opened(SETTINGS):
        pass

    assert caught.value.reason == "[Errno 1] not here"


def test_code_runs_without_isolation_where_one_says_so() -> None:
    with Sandbox.opened(replace(SETTINGS, isolation="none")) as unprotected:
        verdicts = unprotected.judge_all(
            [answer("return 2 * x"), answer("while True: pass")], num_workers=2
        )

    assert [each.outcome for each in verdicts] == ["passed", "timeout"]


def test_a_server_of_boxes_that_died_is_an_error_not_a_verdict() -> None:
    with Sandbox.opened(SETTINGS) as sandbox:
        sandbox._requests.shutdown(2)
        with pytest.raises(SandboxError):
            sandbox.judge(answer("return 2 * x"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("isolation", "hope"), ("cpu_seconds", 0), ("wall_seconds", 0.5), ("memory_bytes", 1000)],
)
def test_limits_under_which_nothing_runs_are_refused(name: str, value: object) -> None:
    with pytest.raises(WrongSettingError) as caught:
        replace(SETTINGS, **{name: value})  # type: ignore[arg-type]

    assert caught.value.setting == name
