import hashlib
import os
import time
from pathlib import Path

import pytest

from evidence.canonical import digest
from evidence.chain import read_chain
from evidence.records import read_record, write_record
from tasks.errors import NotFoundError, StorageError, WrongNameError
from tasks.run_record import all_runs, find_run, finish_run, now, start_run

SETTINGS = {"train": {"seed": 1}, "thresholds": {"max_unk_ratio": 0.0}}


def today() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime())


def test_the_plan_is_written_before_any_work(home: Path) -> None:
    run = start_run("demo", SETTINGS, {"flow": "pipeline"})
    assert run.directory == home / "evidence" / f"demo-{today()}"
    assert [path.name for path in run.directory.iterdir()] == ["plan.json"]
    plan = run.plan()
    assert plan["schema"] == "assay.plan/1"
    assert plan["run"] == run.name
    assert plan["request"] == {"flow": "pipeline"}
    assert plan["settings"] == SETTINGS
    assert plan["settings_sha256"] == digest(SETTINGS)
    assert plan["process"] == os.getpid()
    assert run.record() is None
    assert run.stage_records() == {}


def test_the_record_comes_last_and_lists_every_other_file(home: Path) -> None:
    run = start_run("demo", SETTINGS, {})
    gate = {
        "id": "shard.known",
        "sentence": "known",
        "value": 0,
        "operator": "==",
        "threshold_value": 0,
        "verdict": "pass",
    }
    recipe = {"stage": "shard", "version": 1, "settings": {}, "inputs": {}}
    stage = {
        "stage": "shard",
        "recipe": recipe,
        "recipe_sha256": "ab",
        "output": "shards:cd",
        "provenance": {},
        "thresholds": {},
        "started": "then",
        "wall_seconds": 1.0,
        "outcome": "produced",
        "measurements": {},
        "gates": [gate],
    }
    write_record(run.directory / "shard.metadata.json", stage)
    (run.directory / "trace.txt").write_bytes(b"hello")
    (run.directory / ".x.partial").write_bytes(b"left over")
    record = finish_run(run, "failed", "the reason")
    assert record == run.record()
    assert list(record) == [
        "schema",
        "run",
        "outcome",
        "error",
        "started",
        "finished",
        "settings_sha256",
        "recipes",
        "refs",
        "gates",
        "provenance",
        "files",
        "parent",
        "record_sha256",
    ]
    assert (record["schema"], record["run"]) == ("assay.run/1", run.name)
    assert (record["outcome"], record["error"]) == ("failed", "the reason")
    assert record["recipes"] == {"shard": "ab"}
    assert record["refs"] == {"shard": "shards:cd"}
    assert record["gates"] == [{"stage": "shard", **gate}]
    assert sorted(record["files"]) == [
        "plan.json",
        "run.intoto.jsonl",
        "shard.metadata.json",
        "trace.txt",
    ]
    assert record["files"]["trace.txt"] == hashlib.sha256(b"hello").hexdigest()
    assert record["started"] == run.plan()["started"] <= record["finished"]


def test_stage_records_come_in_pipeline_order(home: Path) -> None:
    run = start_run("demo", SETTINGS, {})
    for stage in ("bisect", "train", "pretokenize"):
        write_record(run.directory / f"{stage}.metadata.json", {"stage": stage})
    assert list(run.stage_records()) == ["pretokenize", "train", "bisect"]


def test_every_record_names_the_one_before(home: Path) -> None:
    runs = [start_run("demo", SETTINGS, {}) for _ in range(3)]
    records = [finish_run(run, "completed", None) for run in runs]
    assert [record["parent"] for record in records] == [
        None,
        records[0]["record_sha256"],
        records[1]["record_sha256"],
    ]
    chain = read_chain(home / "evidence")
    assert [(line.run, line.record_sha256, line.time) for line in chain.lines] == [
        (record["run"], record["record_sha256"], record["finished"]) for record in records
    ]
    assert (chain.faults, chain.unfinished) == ((), ())


def test_a_plan_names_the_head_of_the_chain_when_it_was_made(home: Path) -> None:
    first = start_run("demo", SETTINGS, {})
    assert first.plan()["chain_head"] is None
    finish_run(first, "completed", None)
    head = read_chain(home / "evidence").head
    assert start_run("demo", SETTINGS, {}).plan()["chain_head"] == str(head)


def test_the_same_name_on_the_same_day_gets_a_number(home: Path) -> None:
    names = [start_run("demo", SETTINGS, {}).name for _ in range(3)]
    assert names == [f"demo-{today()}", f"demo-{today()}-2", f"demo-{today()}-3"]


def test_runs_are_listed_oldest_first(home: Path) -> None:
    runs = [start_run(name, SETTINGS, {}) for name in ("zebra", "ant")]
    os.utime(runs[0].directory / "plan.json", (1, 1))
    assert all_runs() == runs


def test_a_run_is_found_by_directory_by_name_and_by_a_unique_beginning(home: Path) -> None:
    run, other = start_run("demo", SETTINGS, {}), start_run("smoke", SETTINGS, {})
    for text in (str(run.directory), run.name, "d", "demo"):
        assert find_run(text) == run
    assert find_run("smo") == other


def test_the_whole_name_wins_over_a_longer_one(home: Path) -> None:
    first, second = start_run("demo", SETTINGS, {}), start_run("demo", SETTINGS, {})
    assert find_run(first.name) == first
    assert find_run(second.name) == second


def test_a_beginning_that_fits_two_runs_means_the_last(home: Path) -> None:
    names = [start_run("demo", SETTINGS, {}).name for _ in range(2)]
    assert find_run("demo").name == names[1]
    assert find_run(names[0]).name == names[0]


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".hidden", "a b", "x" * 101])
def test_a_name_that_cannot_name_a_directory_is_refused(name: str, home: Path) -> None:
    with pytest.raises(WrongNameError) as caught:
        start_run(name, SETTINGS, {})
    assert caught.value.name == name
    assert all_runs() == []


@pytest.mark.parametrize("text", ["nowhere", "/nowhere", "emo"])
def test_an_unknown_run_is_not_found(home: Path, text: str) -> None:
    start_run("demo", SETTINGS, {})
    with pytest.raises(NotFoundError) as caught:
        find_run(text)
    assert (caught.value.what, caught.value.where) == (f"run {text}", str(home / "evidence"))


def test_evidence_that_cannot_be_written_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_EVIDENCE", "/proc/assay-evidence")
    with pytest.raises(StorageError) as caught:
        start_run("demo", SETTINGS, {})
    assert caught.value.path == f"/proc/assay-evidence/demo-{today()}"


def test_a_plan_that_was_edited_is_refused(home: Path) -> None:
    run = start_run("demo", SETTINGS, {})
    path = run.directory / "plan.json"
    path.write_text(path.read_text().replace('"seed": 1', '"seed": 2'))
    with pytest.raises(Exception, match="its fields have the digest"):
        read_record(path)


def test_the_time_is_in_utc_with_milliseconds() -> None:
    assert len(now()) == len("2026-01-02T03:04:05.678+00:00")
    assert now().endswith("+00:00")
