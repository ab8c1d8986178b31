"""A proxy on loopback in front of a server, which can be told to hang up, to stall and to fail."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

Mode = Literal["serve", "killed", "slow", "500"]
SLOW_SECONDS = 8.0
REFUSAL = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Proxy:
    """Hands on what comes, unless it is told otherwise."""

    def __init__(self, upstream: int) -> None:
        self.upstream, self.mode, self.num_disturbed = upstream, "serve", 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        self.open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def set(self, mode: Mode) -> None:
        """Behave otherwise from now on; whoever is connected is cut off."""
        self.mode = mode
        for each in list(self.open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        mode = self.mode
        self.num_disturbed += mode != "serve"
        with client, suppress(OSError):
            if mode == "killed":
                return
            if mode == "slow":
                time.sleep(SLOW_SECONDS)
            if mode == "500":
                client.recv(1 << 16)
                client.sendall(REFUSAL)
                return
            with socket.create_connection(("127.0.0.1", self.upstream)) as server:
                self.open |= {client, server}
                back = threading.Thread(target=_pump, args=(server, client), daemon=True)
                back.start()
                _pump(client, server)
                back.join()
                self.open -= {client, server}


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while content := source.recv(1 << 16):
            target.sendall(content)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextmanager
def in_front_of(port: int) -> Iterator[Proxy]:
    """Run a proxy as long as the block."""
    proxy = Proxy(port)
    try:
        yield proxy
    finally:
        proxy.set("killed")
        proxy.listener.close()
