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


def test_a_prefect_server_that_is_lost_before_the_flow_begins_is_the_same_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    gone = {PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with (
        temporary_settings(gone),
        get_client(sync_client=True) as client,
        pytest.raises(ServerLostError, match="Failed to reach API"),
        prefect_answering(),
    ):
        client.raise_for_api_version_mismatch()
    with pytest.raises(RuntimeError, match="of ours"), prefect_answering():
        raise RuntimeError("of ours")
