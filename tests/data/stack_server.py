"""A loopback S3 server (moto) whose answers can be made to fail, and that counts its requests."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import get_canned_acl, s3_backends
from moto.server import create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

Fault = Callable[[str, int], str | None]
"""From key and number of the request to the status to answer with, or None to serve it."""
NO_OTHER_CREDENTIALS = {
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nowhere",
    "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
}
PUBLIC = get_canned_acl("public-read")
XML = "<Error><Code>{}</Code><Message>injected</Message></Error>"
CODES = {"503 Slow Down": "SlowDown", "429 Too Many Requests": "TooManyRequests"}


def no_fault(key: str, number: int) -> str | None:
    return None


class Handler(WSGIRequestHandler):
    """Keeps connections, and says nothing."""

    protocol_version = "HTTP/1.1"

    def log_request(self, *_: object) -> None:
        pass


class StackServer:
    """moto behind a thin layer of faults; use as a context."""

    def __init__(self) -> None:
        self._moto = create_backend_app("s3")
        self._server = make_server(
            "127.0.0.1", 0, self._answer, threaded=True, request_handler=Handler
        )
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.port}"
        self.reset()

    def __enter__(self) -> "StackServer":
        # moto keeps its buckets for the whole process.
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].reset()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def reset(self) -> None:
        """Serve everything again, and count from zero."""
        self.requests: Counter[str] = Counter()
        self.fault: Fault = no_fault

    def put(self, bucket: str, objects: Mapping[str, bytes]) -> None:
        backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
        if bucket not in backend.buckets:
            backend.create_bucket(bucket, "us-east-1").set_acl(PUBLIC)
        for key, value in objects.items():
            backend.put_object(bucket, key, value).set_acl(PUBLIC)

    def point_to(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make this the S3 that the environment names, with credentials."""
        monkeypatch.setenv("AWS_ENDPOINT_URL", self.url)
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        no_other_credentials(monkeypatch)

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        key = environ["PATH_INFO"]
        self.requests[key] += 1
        status = self.fault(key, self.requests[key])
        if status is None:
            answer: Iterable[bytes] = self._moto(environ, start)
            return answer
        body = XML.format(CODES.get(status, "AccessDenied")).encode()
        start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]


def no_other_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the credentials of this machine and its role out of it."""
    for name, value in NO_OTHER_CREDENTIALS.items():
        monkeypatch.setenv(name, value)
