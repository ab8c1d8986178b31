"""A loopback Hugging Face hub with one dataset, as far as listing and downloading go."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import HfFileSystem, constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "someone/stack"
TOKEN = "hf_right"
PAGE = 2
LARGE_BYTES = 100


class HubServer:
    """Serves `files` of the dataset; use as a context."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.refusal: tuple[int, dict[str, str]] | None = None
        self.downloads: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def point_to(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make this the hub; huggingface_hub has read HF_ENDPOINT when it was imported."""
        monkeypatch.setattr(constants, "ENDPOINT", self.url)
        template = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        HfFileSystem.clear_instance_cache()

    def answer(self, path: str, query: str, token: str) -> tuple[int, dict[str, str], bytes]:
        if self.refusal:
            return *self.refusal, b"{}"
        if token != f"Bearer {TOKEN}":
            return 401, {"X-Error-Message": "Invalid credentials in Authorization header"}, b"{}"
        tree = f"/api/datasets/{REPOSITORY}/tree/{COMMIT}/"
        if path.startswith(tree):
            return self._tree(path.removeprefix(tree), query)
        resolve = f"/datasets/{REPOSITORY}/resolve/{COMMIT}/"
        if path.startswith(resolve) and path.removeprefix(resolve) in self.files:
            name = path.removeprefix(resolve)
            self.downloads.append(name)
            etag = hashlib.sha256(self.files[name]).hexdigest()
            return 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'}, self.files[name]
        if path == f"/api/datasets/{REPOSITORY}/paths-info/{COMMIT}":
            return 200, {}, json.dumps([self._entry(name) for name in self.files]).encode()
        if path == f"/api/datasets/{REPOSITORY}/revision/{COMMIT}":
            return 200, {}, json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": []}).encode()
        if path.startswith(f"/api/datasets/{REPOSITORY}"):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"

    def _tree(self, folder: str, query: str) -> tuple[int, dict[str, str], bytes]:
        names = [name for name in self.files if name.startswith(f"{folder}/")]
        if not names:
            return 404, {"X-Error-Code": "EntryNotFound"}, b"{}"
        start = int(query.rpartition("cursor=")[2]) if "cursor=" in query else 0
        rows = [self._entry(name) for name in names[start : start + PAGE]]
        more = f"{self.url}/api/datasets/{REPOSITORY}/tree/{COMMIT}/{folder}?cursor={start + PAGE}"
        headers = {"Link": f'<{more}>; rel="next"'} if start + PAGE < len(names) else {}
        return 200, headers, json.dumps(rows).encode()

    def _entry(self, name: str) -> dict[str, Any]:
        content = self.files[name]
        entry = {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
        if len(content) < LARGE_BYTES:
            return entry
        digest = hashlib.sha256(content).hexdigest()
        return entry | {"lfs": {"oid": digest, "size": len(content), "pointerSize": 130}}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                url = urlsplit(self.path)
                token = self.headers.get("Authorization") or ""
                status, headers, body = hub.answer(unquote(url.path), url.query, token)
                wanted = self.headers.get("Range")
                if wanted and status == 200:
                    first, _, last = wanted.removeprefix("bytes=").partition("-")
                    end = min(int(last or len(body)), len(body) - 1)
                    span = f"bytes {first}-{end}/{len(body)}"
                    status, headers = 206, headers | {"Content-Range": span}
                    body = body[int(first) : end + 1]
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_POST = do_GET

            def log_message(self, *_: object) -> None:
                pass

        return Handler
