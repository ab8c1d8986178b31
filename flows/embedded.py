"""A Prefect server of this process, where there is no other."""

import atexit
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from flows.children import Children
from flows.environment import LOGIN_REFUSED, answers, require_login
from flows.errors import PrefectUnreachableError, ServerLostError
from flows.exposure import LOOPBACK, own_login
from flows.up import server_command
from tasks.logins import without_login

NAME = "prefect-embedded"
ANSWER_SECONDS = 20.0
"A server that serves others may take its time."
# Nobody looks at this server; `assay up` shows what it wrote.
ENVIRONMENT = {"PREFECT_SERVER_UI_ENABLED": "false", "PREFECT_UI_ENABLED": "false"}


@dataclass(slots=True)
class EmbeddedServer:
    """A server that is starting, or nothing where another is set."""

    url: str | None = None
    used: bool = False
    children: Children = field(default_factory=Children)

    def wait(self) -> None:
        """Return when the server answers.

        Raises: ServiceFailedError.
        """
        self.used = True
        require_login()
        if self.url:
            self.children.wait_until(NAME, lambda: answers(f"{self.url}/health"))


@contextmanager
def prefect_server() -> Iterator[EmbeddedServer]:
    """Start a server unless one is set or running.

    Raises: PrefectUnreachableError if one is set that does not answer.

    Its address is in the environment at once, so that Prefect can be imported while it starts.
    """
    server = EmbeddedServer()
    if not os.environ.get("PREFECT_API_URL"):
        port = _free_port()
        server.url = f"http://{LOOPBACK}:{port}/api"
        os.environ["PREFECT_API_URL"] = server.url
        os.environ.update(own_login(os.environ))
        server.children.start(NAME, server_command(port), ENVIRONMENT)
        # Registered before Prefect is imported, so run after Prefect has said its last word:
        # without a server it would try to say it for minutes.
        atexit.register(server.children.stop)
    else:
        require_server(os.environ["PREFECT_API_URL"])
    try:
        yield server
    finally:
        if not server.used:
            server.children.stop()


@contextmanager
def prefect_answering() -> Iterator[None]:
    """Say it in a sentence where Prefect's client gives up on its server.

    Raises: ServerLostError.
    """
    import httpx

    try:
        yield
    except (httpx.HTTPError, RuntimeError) as error:
        # What Prefect makes of it before a flow begins.
        if isinstance(error, RuntimeError) and not str(error).startswith("Failed to reach API"):
            raise
        said = " ".join(str(error).split()) or type(error).__name__
        raise ServerLostError(os.environ["PREFECT_API_URL"], said) from error


def require_server(url: str) -> None:
    """Refuse a server that does not answer: Prefect would try for minutes, and then not say where.

    Raises: PrefectUnreachableError.
    """
    try:
        health = f"{url.rstrip('/')}/health"
        with urllib.request.urlopen(health, timeout=ANSWER_SECONDS):  # noqa: S310  # the user's own
            return
    except urllib.error.HTTPError as error:
        if error.code in LOGIN_REFUSED:
            return  # it is there; `require_login` asks it with our login
        why = f"answers with status {error.code}"
        raise PrefectUnreachableError(without_login(url), why) from None
    except (OSError, ValueError) as error:
        raise PrefectUnreachableError(
            without_login(url), str(getattr(error, "reason", error))
        ) from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
