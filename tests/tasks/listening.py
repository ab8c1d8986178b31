"""Which addresses processes listen at, looked at all the while."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address

import psutil

LOOK_SECONDS = 0.02


@contextmanager
def listening(parent: psutil.Process) -> Iterator[set[str]]:
    """Collect the addresses of all sockets of a process and those below it that wait for others."""
    found: set[str] = set()
    is_over = threading.Event()

    def look() -> None:
        while not is_over.is_set():
            for process in (parent, *parent.children(recursive=True)):
                found.update(_addresses(process))
            time.sleep(LOOK_SECONDS)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield found
    finally:
        is_over.set()
        watcher.join()


def beyond_this_machine(addresses: set[str]) -> set[str]:
    """Return those that others can reach."""
    return {each for each in addresses if not ip_address(each).is_loopback}


def _addresses(process: psutil.Process) -> set[str]:
    # A process may end while it is looked at.
    with suppress(psutil.Error):
        return {
            each.laddr.ip
            # Not UDP: who asks for a name has such a socket for a moment, and it looks the same.
            for each in process.net_connections("tcp")
            if each.status == psutil.CONN_LISTEN and each.laddr
        }
    return set()
