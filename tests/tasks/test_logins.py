"""A login in a URL connects, and stands in no message, record or command line."""

import json
import sys
from pathlib import Path

import pytest

from flows.cli import run
from flows.errors import WrongValueError
from flows.run import mlflow_address
from flows.settings import load_settings
from flows.up import Services
from tasks.errors import MirrorError, UnsupportedStoreError
from tasks.logins import has_login, without_login
from tasks.mirror_state import Sent
from tasks.mirroring import mirror_now
from tasks.run_record import Run, finish_run
from tasks.store import open_store
from tests.tasks.tiny import Finished, begin

SECRET = "canary-3f8a"
URLS = {
    "https": (f"https://me:{SECRET}@host/a?b=c", "https://***@host/a?b=c"),
    "a token alone": (f"https://{SECRET}@host/a", "https://***@host/a"),
    "of a database": (f"postgresql+psycopg2://me:{SECRET}@h:1/db", "postgresql+psycopg2://***@h:1/db"),
    "of a bucket": (f"s3://AKIA:{SECRET}@bucket/a", "s3://***@bucket/a"),
    "a slash and a hash": (f"http://me:{SECRET}%2F%23@host", "http://***@host"),
    "an argument": (f"https://h/a?page=1&access_token={SECRET}#x", "https://h/a?page=1&access_token=***#x"),
    "a signed address": (f"https://h/a?X-Amz-Signature={SECRET}&y=1", "https://h/a?X-Amz-Signature=***&y=1"),
    "two in a text": (f"a http://x:{SECRET}@h b ftp://y:{SECRET}@i", "a http://***@h b ftp://***@i"),
}  # fmt: skip
HARMLESS = [
    "hf://datasets/someone/stack@main/data",
    "s3://softwareheritage/content",
    "me@example.org",
    "https://github.com/you/caf\u00e9.git",
    "token=5, should be 6",
    "def f(x): return x@y",
]


@pytest.mark.parametrize(("text", "shown"), URLS.values(), ids=URLS)
def test_a_login_is_hidden_and_the_rest_is_not(text: str, shown: str) -> None:
    assert without_login(text) == shown
    assert has_login(text)
    assert not has_login(shown.replace("***@", "").replace("=***", "="))


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_login_stays(text: str) -> None:
    assert without_login(text) == text
    assert not has_login(text)


@pytest.mark.parametrize("key", ["source.path", "source.contents", "checkpoint.data_source"])
def test_settings_take_no_login_and_the_refusal_does_not_repeat_it(
    key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = f"{key}=s3://AKIA:{SECRET}@bucket/x"
    with pytest.raises(WrongValueError) as caught:
        load_settings("smoke", [given])

    assert caught.value.key == key
    assert run(["plan", "--preset", "smoke", "--set", given]) == 2
    said = capsys.readouterr()
    assert f"{key} is s3://***@bucket/x, should be a URL without a login" in said.err
    assert SECRET not in said.err + said.out


def test_a_store_takes_no_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_STORE", f"s3://AKIA:{SECRET}@bucket/x")
    with pytest.raises(UnsupportedStoreError) as caught:
        open_store()

    assert "s3://***@bucket/x" in str(caught.value)
    assert SECRET not in str(vars(caught.value))


def test_an_error_is_recorded_without_the_login_in_it(finished: Finished, home: Path) -> None:
    own = begin(finished.settings, "unlucky")

    record = finish_run(own, "failed", f"cannot reach https://me:{SECRET}@host/api")

    assert record["error"] == "cannot reach https://***@host/api"
    assert SECRET not in "".join(path.read_text() for path in own.directory.iterdir())
    assert list(home.rglob("metadata.json"))


def test_mlflow_is_told_of_without_its_login(
    copied: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"http://me:{SECRET}@127.0.0.1:9"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    Sent(copied.run.name, "http://***@127.0.0.1:9", run_id="1", experiment_id="2").save()

    page = "http://***@127.0.0.1:9/#/experiments/2/runs/1?workflowType=machine_learning"
    assert mlflow_address(copied.run) == page
    sent = Sent.load(Run(Path("other")), uri)
    sent.save()
    assert sent.uri == "http://***@127.0.0.1:9"
    assert SECRET not in (copied.home / "mirror" / "other.json").read_text()


def test_a_mirror_that_fails_says_why_without_the_login(
    copied: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@127.0.0.1:9")
    refuse = f"import sys; sys.exit('cannot reach http://me:{SECRET}@127.0.0.1:9/api')"
    monkeypatch.setattr("tasks.mirroring._COMMAND", (sys.executable, "-c", refuse))
    with pytest.raises(MirrorError) as caught:
        mirror_now(copied.run)

    assert caught.value.reason == "cannot reach http://***@127.0.0.1:9/api"
    assert SECRET not in json.dumps(vars(caught.value))


def test_the_database_of_mlflow_is_on_no_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://me:{SECRET}@host/db")
    services = Services(prefect_port=1, mlflow_port=2, cron="0 0 * * *", preset="demo")

    assert SECRET not in " ".join(services._mlflow_command())
