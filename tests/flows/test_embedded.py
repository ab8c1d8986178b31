import httpx
import pytest

from flows.embedded import prefect_answering
from flows.errors import ServerLostError
from flows.exit_codes import NETWORK, exit_code


def test_a_prefect_server_that_is_lost_under_a_run_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(ServerLostError) as caught, prefect_answering():
        raise httpx.ReadError("")
    assert exit_code(caught.value) == NETWORK
    assert str(caught.value) == (
        "PREFECT_API_URL: http://127.0.0.1:9/api: ReadError, should answer until the run has ended"
    )
    assert "run the same command" in caught.value.hint
