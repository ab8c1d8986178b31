"""`why`, `plan`, `run --plan` and `reconcile` on what anybody has written: no traceback."""

import contextlib
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evidence.canonical import dumps, pretty
from evidence.records import seal
from flows.cli import run
from flows.settings import load_settings
from tasks.run_record import start_run
from tests.tasks.tiny import OVERRIDES, Finished

EXAMPLES = 25
NAMES = ["", "x\x1b]0;owned\x07", "\u202e../../../etc/passwd", "/etc/passwd", "a\nb", "0" * 64]
NUMBERS = [0, -1, 10**400, 2**63, 1e308, -1e-320]
LEAVES = st.sampled_from([None, True, *NAMES, *NUMBERS])
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(NAMES), inner),
    max_leaves=3,
)
FILES = ("plan.json", "metadata.json", "train.metadata.json", "evaluate.metadata.json")

property_test = settings(
    max_examples=EXAMPLES,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Name every place in a JSON document."""
    if path:
        yield path
    is_list = isinstance(value, list)
    items = value.items() if isinstance(value, dict) else enumerate(value) if is_list else ()
    for key, each in items:
        yield from paths_of(each, (*path, key))


def forged(record: dict[str, Any], path: tuple[Any, ...], value: Any) -> bytes:
    """Put a value somewhere in a record, and seal it again."""
    changed = json.loads(json.dumps(record))
    place: Any = changed
    for key in path[:-1]:
        place = place[key]
    if path[-1] == "record_sha256":
        return pretty({**changed, "record_sha256": value})
    place[path[-1]] = value
    del changed["record_sha256"]
    return pretty(seal(changed))


def said(capsys: pytest.CaptureFixture[str], *words: str) -> int:
    """Run a command, hold what it says to the form of a sentence, and return its code."""
    code = run(words)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert all(each.isprintable() for each in (out + err).replace("\n", "")), (out, err)
    assert not code or "error: " in err, err
    return code


@pytest.fixture
def places_known(copied: Finished, monkeypatch: pytest.MonkeyPatch) -> Finished:
    """The finished run as one whose process is gone; Prefect and MLflow have nothing to say."""
    monkeypatch.setattr("flows.embedded.prefect_server", FakeServer)
    monkeypatch.setattr("flows.reconcile.get_client", FakeClient)
    monkeypatch.setattr("flows.reconcile.mirror_now", lambda _: {})
    lock = copied.home / "alive" / f"{copied.run.name}.lock"
    lock.parent.mkdir()
    lock.touch()
    return copied


class FakeServer(contextlib.AbstractContextManager["FakeServer"]):
    """A server that is there."""

    def __exit__(self, *_: object) -> None:
        return None

    def wait(self) -> None:
        """Answer at once."""


class FakeClient(contextlib.AbstractContextManager["FakeClient"]):
    """A server that knows of every flow run that it is open."""

    def __init__(self, *, sync_client: bool) -> None:
        assert sync_client

    def __exit__(self, *_: object) -> None:
        return None

    def read_flow_run(self, flow_run_id: Any) -> Any:
        """Return an open one."""
        return SimpleNamespace(id=flow_run_id, name="flow run", state=None)

    def read_flow_runs(self, **_: Any) -> list[Any]:
        """Say that it has no sub-flows."""
        return []

    def read_task_runs(self, **_: Any) -> list[Any]:
        """Return an open one."""
        return [SimpleNamespace(id=uuid.uuid4(), name="task run", state=None)]

    def set_flow_run_state(self, *_: Any, **__: Any) -> None:
        """Take it."""

    def set_task_run_state(self, *_: Any, **__: Any) -> None:
        """Take it."""


@property_test
@given(data=st.data())
def test_records_of_any_shape_are_explained_closed_or_refused(
    places_known: Finished, capsys: pytest.CaptureFixture[str], data: st.DataObject
) -> None:
    directory = places_known.run.directory
    path = directory / data.draw(st.sampled_from(FILES))
    before = path.read_bytes()
    record = json.loads(before)
    record.get("request", {})["prefect_flow_run_id"] = str(uuid.UUID(int=1))
    keys = data.draw(st.sampled_from(list(paths_of(record))))
    path.write_bytes(forged(record, keys, data.draw(VALUES)))
    try:
        for stage in ("train", "evaluate"):
            assert said(capsys, "why", stage, "--run", places_known.run.name) in (0, 3, 4, 5)
        assert said(capsys, "reconcile") in (0, 4, 5)
    finally:
        path.write_bytes(before)
        if path.name == "metadata.json":
            assert path.is_file()


def test_a_damaged_run_does_not_keep_others_open(
    places_known: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = places_known.run.plan()
    other = start_run("other", plan["settings"], {})
    (places_known.home / "alive" / f"{other.name}.lock").touch()
    (places_known.run.directory / "plan.json").write_text("{}")
    assert run(["reconcile", "--json"]) == 5
    out, err = capsys.readouterr()
    assert [each["run"] for each in json.loads(out) if each["what"] == "evidence"] == [other.name]
    assert "plan.json: its fields have the digest" in err
    # What was closed is a run like others.
    for command in ("status", "export"):
        assert run([command, other.name]) == 0


@property_test
@given(value=VALUES, field=st.sampled_from(["", "ref", "run", "recipe", "stage", "inputs"]))
def test_entries_of_the_store_of_any_shape_are_refused(
    places_known: Finished, capsys: pytest.CaptureFixture[str], value: Any, field: str
) -> None:
    entry = {"ref": f"training:{'0' * 64}", "run": "x", "recipe": {"stage": "train", "inputs": {}}}
    place: Any = entry["recipe"] if field in ("stage", "inputs") else entry
    place[field] = value
    path = places_known.home / "store" / "recipes" / "00" / "x.json"
    path.parent.mkdir(exist_ok=True)
    for content in (dumps(entry if field else value), b"\xff", b"{}"):
        path.write_bytes(content)
        words = [word for each in settings_of(places_known) for word in ("--set", each)]
        changed = ["--set", "train.peak_lr=5e-3"]
        code = said(capsys, "why", "train", "--preset", "smoke", *words, *changed)
        assert code in (0, 4, 5)
        assert code or content == dumps(entry)


def settings_of(finished: Finished) -> list[str]:
    return [*OVERRIDES, f'source.path="{finished.home / "corpus"}"']


@pytest.fixture
def planned(home: Path) -> Path:
    """A registered plan."""
    assert run(["plan", "--preset", "smoke"]) == 0
    (path,) = (home / "evidence" / "plans").iterdir()
    return path


@property_test
@given(data=st.data())
def test_plans_of_any_shape_are_carried_out_or_refused(
    planned: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    data: st.DataObject,
) -> None:
    monkeypatch.setattr(
        "flows.run_commands.run_recorded", lambda *words, **_: load_settings(words[2])
    )
    before = planned.read_bytes()
    record = json.loads(before)
    keys = data.draw(st.sampled_from(list(paths_of(record))))
    planned.write_bytes(forged(record, keys, data.draw(VALUES)))
    try:
        assert said(capsys, "run", "--plan", str(planned)) in (0, 2, 4, 5)
        assert said(capsys, "run", "--plan", planned.name) in (0, 2, 4, 5)
    finally:
        planned.write_bytes(before)


@property_test
@given(name=st.sampled_from(NAMES) | st.text(max_size=8), value=VALUES)
def test_words_of_any_kind_are_registered_or_refused(
    home: Path, capsys: pytest.CaptureFixture[str], name: str, value: Any
) -> None:
    for words in (
        ("--name", name),
        ("--preset", name),
        ("--set", name),
        ("--set", f"train.num_steps={json.dumps(value)}"),
        ("--set", f"source.path={json.dumps(value)}"),
    ):
        assert said(capsys, "plan", "--preset", "smoke", *words) in (0, 2, 3)


@pytest.mark.parametrize("words", [["plan"], ["reconcile"], ["why", "train", "--run", "tiny"]])
@pytest.mark.parametrize("what", ["a file", "a loop", "below a file", "no directory"])
def test_an_evidence_directory_that_cannot_be_read_is_named(
    places_known: Finished,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    words: list[str],
    what: str,
) -> None:
    evidence = tmp_path / "elsewhere"
    if what in ("a file", "below a file"):
        evidence.write_text("")
    if what == "a loop":
        evidence.symlink_to(evidence)
    evidence /= "deeper" if what == "below a file" else ""
    monkeypatch.setenv("ASSAY_EVIDENCE", str(evidence))
    code = said(capsys, *words)
    # Where there is nothing yet, a plan makes it, and nothing is open.
    assert code == {"plan": 0, "reconcile": 0, "why": 3}[words[0]] if what == "no directory" else 7


@pytest.mark.parametrize("content", [b"[]", b"\xff", b"{}", b'{"lease": 5}', b"[" * 100_000])
def test_locks_of_gpus_that_hold_anything_are_passed_over(
    places_known: Finished, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    lock = places_known.home / "gpus" / "GPU-0.lock"
    lock.parent.mkdir()
    lock.write_bytes(content)
    assert said(capsys, "reconcile") == 0
