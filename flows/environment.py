"""Settings of Prefect and MLflow for this process, made before either is imported.

What the user has set in the environment wins. Without a server, Prefect runs on the embedded
database under `ASSAY_HOME`; with `assay up` running, on its server, which uses the same database.
"""

import base64
import json
import os
import urllib.error
import urllib.request
from pathlib import Path

from flows.errors import ServerRefusedError
from tasks import places
from tasks.errors import StorageError
from tasks.logins import without_login

UP_FILE = "up.json"
HEALTH_SECONDS = 1.0
LOGIN_SECONDS = 10.0
LOGIN_REFUSED = (401, 403)

QUIET = {
    # Both tools report home unless told otherwise; MLflow wants the word `true`.
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    # The newer UI asks an analytics host for its configuration, whatever is set.
    "PREFECT_SERVER_UI_V2_ENABLED": "false",
    "MLFLOW_DISABLE_AGENT_HINT": "true",
    # A third of the silence after which `assay up` takes a flow for dead.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_CLI_COLORS": "false",
    "TOKENIZERS_PARALLELISM": "true",
}
CONSOLE = {
    # The terminal shows assay's own progress; Prefect's log goes to its server and UI.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
}


def prepare() -> None:
    """Fill in the environment; must run before Prefect or MLflow is imported.

    Raises: StorageError if `ASSAY_HOME` cannot be made.
    """
    try:
        places.home().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(str(places.home()), os.strerror(error.errno or 0)) from None
    defaults = {**QUIET, **CONSOLE}
    defaults["PREFECT_HOME"] = str(places.home() / "prefect")
    defaults["MLFLOW_TRACKING_URI"] = places.mlflow_uri()
    if url := running_server():
        defaults["PREFECT_API_URL"] = url
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def running_server() -> str | None:
    """Return the API URL of this machine's `assay up`, if one answers."""
    url = service_addresses().get("prefect_api")
    if url is None:
        return None
    return url if answers(f"{url}/health") else None


def answers(url: str) -> bool:
    """Return whether a loopback service answers."""
    try:
        with urllib.request.urlopen(url, timeout=HEALTH_SECONDS) as reply:  # noqa: S310  # loopback
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def require_login() -> None:
    """Ask the Prefect server that is set whether it lets us in; one that is silent is not judged.

    Raises: ServerRefusedError.
    """
    url, login = os.environ.get("PREFECT_API_URL"), os.environ.get("PREFECT_API_AUTH_STRING", "")
    if not url:
        return
    word = base64.b64encode(login.encode()).decode()
    request = urllib.request.Request(  # noqa: S310  # the user's own
        f"{url.rstrip('/')}/admin/version", headers={"Authorization": f"Basic {word}"}
    )
    try:
        urllib.request.urlopen(request, timeout=LOGIN_SECONDS).close()  # noqa: S310  # the same
    except urllib.error.HTTPError as error:
        if error.code in LOGIN_REFUSED:
            raise ServerRefusedError(without_login(url), error.code) from None
    except (OSError, ValueError):
        return


def service_addresses() -> dict[str, str]:
    """Return the addresses of this machine's `assay up`, as it wrote them; empty without one."""
    path: Path = places.home() / UP_FILE
    addresses: dict[str, str] = json.loads(path.read_text()) if path.is_file() else {}
    return addresses
