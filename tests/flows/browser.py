"""Chromium without a screen, driven through its DevTools protocol: what a person would see."""

import base64
import json
import shutil
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import connect
from websockets.sync.connection import Connection

from tests.test_architecture import PROJECT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SCREENSHOTS = PROJECT / "build" / "screenshots"
START_SECONDS = 60.0
LOOK_SECONDS = 0.3
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--window-size=1500,1400",
    "--remote-debugging-port=0",
)


class Page:
    """One tab."""

    def __init__(self, socket: Connection) -> None:
        self._socket, self._number = socket, 0
        self.hosts: set[str] = set()
        "What it asked anything of."
        for domain in ("Page", "Network", "Runtime"):
            self._call(f"{domain}.enable")

    def open(self, url: str, *texts: str, seconds: float = 60.0) -> str:
        """Open a page and wait until it shows all of the texts; return all that it shows."""
        self._call("Page.navigate", url=url)
        end = time.monotonic() + seconds
        while True:
            shown = self.text()
            missing = [text for text in texts if text.lower() not in shown.lower()]
            if not missing:
                return shown
            if time.monotonic() > end:
                self.screenshot("missing")
                raise AssertionError(f"{url} shows no {missing}, but:\n{shown}")
            time.sleep(LOOK_SECONDS)

    def text(self) -> str:
        """Return all that the page shows now."""
        return str(self.evaluate("document.body ? document.body.innerText : ''"))

    def evaluate(self, expression: str) -> Any:
        """Evaluate JavaScript in the page."""
        found = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"].get("value")

    def screenshot(self, name: str) -> Path:
        """Keep what is seen."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))
        return path

    def _call(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            said = json.loads(self._socket.recv(timeout=60))
            if said.get("method") == "Network.requestWillBeSent":
                host = urllib.parse.urlsplit(said["params"]["request"]["url"]).hostname
                self.hosts |= {host} if host else set()
            if said.get("id") == self._number:
                return said["result"]


@contextmanager
def browser(reach: str = "127.0.0.1") -> Iterator[Page]:
    """Start Chromium with one empty tab, as on a machine with a network of one address."""
    assert CHROMIUM is not None
    network = f"--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE {reach}"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [CHROMIUM, *FLAGS, network, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port = _port(Path(profile) / "DevToolsActivePort")
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=20) as reply:
                tabs = json.loads(reply.read())
            address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
            with connect(address, max_size=None) as socket:
                yield Page(socket)
        finally:
            process.terminate()
            process.wait(20)


def _port(file: Path) -> int:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if file.is_file() and (lines := file.read_text().splitlines()):
            return int(lines[0])
        time.sleep(LOOK_SECONDS)
    raise AssertionError("chromium does not start")
