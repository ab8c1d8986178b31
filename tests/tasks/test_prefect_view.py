import httpx
import pytest
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES

from tasks.prefect_view import SILENT_SECONDS, View


class Server:
    """A server that refuses as long as it is told to, and counts what it was asked."""

    def __init__(self, *refusals: Exception | None) -> None:
        self.refusals, self.retries = list(refusals), list[int]()

    def take(self) -> str:
        self.retries.append(PREFECT_CLIENT_MAX_RETRIES.value())
        if refusal := self.refusals.pop(0):
            raise refusal
        return "made"


def test_what_a_server_takes_is_returned_and_it_is_not_asked_for_minutes() -> None:
    server = Server(None)
    assert View().show(server.take) == "made"
    assert server.retries == [1]


@pytest.mark.parametrize(
    "refusal", [httpx.ConnectError("refused"), ObjectNotFound(KeyError("flow run"))]
)
def test_a_server_that_takes_nothing_is_left_alone_for_a_while_and_stops_nothing(
    refusal: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    server, view = Server(refusal, None), View(lambda: now[0])
    assert view.show(server.take) is None
    assert "warning: Prefect shows less of this run: " in capsys.readouterr().err
    now[0] = SILENT_SECONDS - 1
    assert view.show(server.take) is None
    assert len(server.retries) == 1
    now[0] = SILENT_SECONDS
    assert view.show(server.take) == "made"


def test_an_error_of_our_own_is_raised() -> None:
    with pytest.raises(KeyError):
        View().show(Server(KeyError("ours")).take)
