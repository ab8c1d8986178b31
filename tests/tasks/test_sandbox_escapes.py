"""Ways out of the sandbox, each with the words by which it ends."""

import platform
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.sandbox import Answer, Sandbox, Verdict
from tests.tasks.isolation import SETTINGS, needs_isolation
from tests.tasks.test_sandbox import LIBC, answer

pytestmark = needs_isolation

CANARY = "canary-5b1f"
REFUSED = "PermissionError: [Errno 1] Operation not permitted"
ABSENT = "FileNotFoundError: [Errno 2] No such file or directory"
FULL = "OSError: [Errno 28] No space left on device"
KILLED_BY_THE_FILTER = "the candidate is gone; it ended with code -31"


def shows(expression: str) -> Answer:
    """An answer that says what it saw."""
    return answer(f"import os; raise ValueError(repr({expression}))")


def calls(call: str) -> Answer:
    """An answer that makes a call of C and says how it was refused, or that it was not."""
    return answer(
        f"import os\n    code = {call}\n"
        "    if code == -1: raise ValueError(os.strerror(ctypes.get_errno()))\n"
        "    return 2 * x",
        before=LIBC,
    )


FILES = {
    "its parent's environment": (shows("open(f'/proc/{os.getppid()}/environ').read()"), ABSENT),
    "its own environment": (shows("sorted(set(os.environ) - {'LC_CTYPE'})"), "ValueError: []"),
    "other processes": (shows("os.listdir('/proc')"), ABSENT),
    "above the root": (shows("'etc' in os.listdir('/../../..')"), "ValueError: False"),
    "a link that leads out": (
        answer("import os; os.symlink('/proc/1/root', 'out'); os.listdir('out')"),
        ABSENT,
    ),
    "links that change while they are followed": (
        answer(
            "import os, threading\n    found = []\n"
            "    def swap():\n"
            "        for target in ('/etc', '/..', '/proc/1/root') * 300:\n"
            "            os.symlink(target, 'new'); os.replace('new', 'out')\n"
            "    swapping = threading.Thread(target=swap); swapping.start()\n"
            "    while swapping.is_alive():\n"
            "        found.append(os.path.exists('out/passwd') or os.path.exists('out/etc'))\n"
            "    raise ValueError(repr((len(found) > 0, any(found))))"
        ),
        "ValueError: (True, False)",
    ),
    "a device": (answer("import os; os.mknod('memory', 0o20600, os.makedev(1, 1))"), REFUSED),
    "its library by another name": (
        answer("import os; os.link(os.__file__, 'library')"),
        "OSError: [Errno 18] Invalid cross-device link",
    ),
    "its library's rights": (
        answer("import os; os.chmod(os.__file__, 0o777)"),
        "OSError: [Errno 30] Read-only file system",
    ),
    "machine code in a file": (
        answer(
            "import mmap\n    file = open('code', 'w+b'); file.write(bytes(4096)); file.flush()\n"
            "    mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)"
        ),
        REFUSED,
    ),
    "more than the scratch directory holds": (
        answer("n = 0\n    while True: open(str(n), 'wb').write(bytes(10**6)); n += 1"),
        FULL,
    ),
    "more files than it holds": (
        answer("n = 0\n    while True: open(str(n), 'w').close(); n += 1"),
        FULL,
    ),
    "more open files than it may have": (
        answer("import os\n    while True: os.pipe()"),
        "OSError: [Errno 24] Too many open files",
    ),
}
KERNEL = {
    "a signal to its parent": (answer("import os; os.kill(os.getppid(), 9)"), REFUSED),
    "a signal to its group": (answer("import os; os.killpg(0, 9)"), REFUSED),
    "a signal to a thread": (calls("libc.tgkill(1, 1, 9)"), "Operation not permitted"),
    "datagrams": (answer("import socket; socket.socket(type=socket.SOCK_DGRAM)"), REFUSED),
    "a socket of this machine": (
        answer("import socket; socket.socket(socket.AF_UNIX).bind(chr(0) + 'x')"),
        REFUSED,
    ),
    "a user namespace": (calls("libc.unshare(0x10000000)"), "Operation not permitted"),
    "a process in a user namespace": (
        calls("libc.syscall(number['clone'], 0x10000000 | 17, 0, 0, 0, 0)"),
        "Operation not permitted",
    ),
    "a process by the newer call": (
        calls("libc.syscall(435, ctypes.create_string_buffer(64), 64)"),
        "Function not implemented",
    ),
    "another's namespace": (calls("libc.setns(0, 0)"), "Operation not permitted"),
    "another root": (calls("libc.chroot(b'/scratch')"), "Operation not permitted"),
    "queues of the kernel": (calls("libc.syscall(425, 8, 0)"), "Operation not permitted"),
    "keys of the kernel": (
        calls("libc.syscall(number['keyctl'], 0, -3, 1)"),
        "Operation not permitted",
    ),
    "tracing": (calls("libc.ptrace(16, 1, 0, 0)"), "Operation not permitted"),
    "another's memory": (
        calls("libc.process_vm_readv(1, None, 0, None, 0, 0)"),
        "Operation not permitted",
    ),
    "a file without a name": (calls("libc.memfd_create(b'x', 0)"), "Operation not permitted"),
    "another program": (answer("import os; os.execv('/usr/bin/env', ['env'])"), REFUSED),
    "a higher limit": (
        answer("import resource; resource.setrlimit(resource.RLIMIT_CPU, (100, 100))"),
        "ValueError: not allowed to raise maximum limit",
    ),
    "a real-time place": (
        answer("import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))"),
        REFUSED,
    ),
}
NUMBERS = {"x86_64": {"clone": 56, "keyctl": 250}, "aarch64": {"clone": 220, "keyctl": 219}}
OLD_CALL = """
import mmap
memory = mmap.mmap(-1, 4096, prot=7)
memory.write(bytes([0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3]))  # eax = 20: getpid; int 0x80; ret
call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
"""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox.opened(SETTINGS) as opened:
        yield opened


@pytest.mark.parametrize("name", FILES)
def test_files_beyond_the_scratch_directory_are_out_of_reach(sandbox: Sandbox, name: str) -> None:
    tried, said = FILES[name]

    assert sandbox.judge(tried) == Verdict("exception", said)


@pytest.mark.parametrize("name", KERNEL)
def test_the_kernel_is_out_of_reach(sandbox: Sandbox, name: str) -> None:
    tried, said = KERNEL[name]
    numbered = tried.code.replace("number[", f"{NUMBERS[platform.machine()]}[")
    found = sandbox.judge(replace(tried, code=numbered))

    assert found.outcome == "exception"
    assert found.detail.removeprefix("ValueError: ") == said.removeprefix("ValueError: ")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x86-64 has calls of older machines")
@pytest.mark.parametrize("body", ["return call()", "return libc.syscall(0x40000000 + 39)"])
def test_calls_by_the_numbers_of_another_machine_end_the_process(
    sandbox: Sandbox, body: str
) -> None:
    found = sandbox.judge(answer(body, before=LIBC + OLD_CALL))

    assert found == Verdict("no answer", KILLED_BY_THE_FILTER)


def test_secrets_home_and_store_of_this_machine_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_text(CANARY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    monkeypatch.setenv("ASSAY_STORE", str(tmp_path))
    looked = [str(secret), str(tmp_path), str(Path.home() / ".ssh"), "/etc/passwd", str(Path.cwd())]
    seeing = shows(f"([os.path.exists(each) for each in {looked}], 'AWS' in str(os.environ))")

    with Sandbox.opened(SETTINGS) as opened:
        found = opened.judge(seeing)

    assert found.detail == f"ValueError: ({[False] * 5}, False)"
