"""An S3 server of this process that can be told to refuse and to stall, and notes all requests."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

DENIED = "403 Forbidden", "AccessDenied", "Access Denied"
EXPIRED = "400 Bad Request", "ExpiredToken", "The provided token has expired."
"As S3 answers to credentials that were good until a moment ago."


@dataclass
class LoopbackS3:
    url: str
    asked: list[tuple[str, str]] = field(default_factory=list)
    "Method and path of every request."
    refused: Callable[[str, str], bool] = lambda method, path: False
    refusal: tuple[str, str, str] = DENIED
    "Status, code and message of what is refused."
    stalled: Callable[[str, str], bool] = lambda method, path: False
    stalling: threading.Event = field(default_factory=threading.Event)
    "Set when a request is stalled."

    def clear(self) -> None:
        """Answer everything again."""
        self.refused = self.stalled = lambda method, path: False
        self.refusal = DENIED
        self.stalling.clear()
        self.asked.clear()

    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",
        }


@contextmanager
def serve() -> Iterator[LoopbackS3]:
    """Serve until the block ends."""
    application = DomainDispatcherApplication(create_backend_app)

    def answer(environ: dict[str, Any], start_response: Any) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        s3.asked.append((method, path))
        if s3.stalled(method, path):
            s3.stalling.set()
            threading.Event().wait(30)
        if s3.refused(method, path):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            status, code, message = s3.refusal
            error = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
            body = f'<?xml version="1.0"?>{error}'.encode()
            headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
            start_response(status, headers)
            return [] if method == "HEAD" else [body]
        return application(environ, start_response)

    server = make_server("127.0.0.1", 0, answer, threaded=True)
    # A stalled answer must not keep the server from closing.
    vars(server)["daemon_threads"] = True
    s3 = LoopbackS3(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield s3
    finally:
        server.shutdown()
        server.server_close()


def point_to(patch: pytest.MonkeyPatch, s3: LoopbackS3) -> None:
    """Have S3 clients of this process ask the server."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    for name, value in s3.environment().items():
        patch.setenv(name, value)
