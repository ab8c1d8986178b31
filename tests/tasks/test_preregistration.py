"""Plans that are written before a run, and what shows when the run was another one."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from evidence.chain import read_chain
from evidence.errors import BrokenSealError
from evidence.records import read_record
from flows.cli import run as assay
from flows.errors import WrongValueError
from flows.report import departure_rows
from flows.settings import PipelineSettings, load_settings
from tasks.errors import NotFoundError
from tasks.ledger_errors import OtherVersionError
from tasks.preregistration import (
    departures,
    find_plan,
    order_faults,
    read_plan,
    registered,
    write_plan,
)
from tasks.run_record import Run, finish_run, start_run
from tasks.verify import verify_run
from tests.tasks.tampering import reseal, set_at
from tests.tasks.tiny import tiny_settings

VERSIONS = {"train": 3}


def planned(settings: PipelineSettings, name: str = "tiny") -> Path:
    request = {"preset": "smoke", "overrides": [], "runtime": asdict(settings.runtime)}
    return write_plan(name, settings.as_record(), request, VERSIONS)


def carried_out(path: Path, settings: PipelineSettings) -> Run:
    run = start_run("tiny", settings.as_record(), {"preset": str(path)}, path)
    finish_run(run, "completed", None)
    return run


def test_a_plan_is_sealed_and_in_the_chain_before_the_run(home: Path) -> None:
    settings = tiny_settings(home)
    path = planned(settings)
    plan = read_record(path)
    assert path == home / "evidence" / "plans" / f"tiny-{str(plan['record_sha256'])[:12]}.plan.json"
    assert plan["settings"] == json.loads(json.dumps(settings.as_record()))
    run = carried_out(path, settings)
    chain = read_chain(home / "evidence")
    assert [line.event for line in chain.lines] == ["planned", "recorded"]
    assert chain.lines[0].record_sha256 == plan["record_sha256"]
    assert run.plan()["preregistration"] == plan["record_sha256"]
    record = run.record()
    assert record is not None
    assert record["parent"] is None  # of records; a plan is none
    assert registered(run) == plan
    assert (departures(plan, run), order_faults(run)) == ([], [])
    assert verify_run(run).failures == []


def test_a_plan_is_read_back_as_the_settings_that_it_was_made_of(home: Path) -> None:
    settings = tiny_settings(home)
    assert load_settings(str(planned(settings))) == settings


def test_a_plan_cannot_be_changed_on_the_way(home: Path) -> None:
    with pytest.raises(WrongValueError, match="a plan is carried out as it is"):
        load_settings(str(planned(tiny_settings(home))), ["train.seed=9"])


def test_an_edited_plan_is_refused(home: Path) -> None:
    path = planned(tiny_settings(home))
    path.write_text(path.read_text().replace('"max_val_loss_growth": ', '"max_val_loss_growth": 9'))
    with pytest.raises(BrokenSealError):
        load_settings(str(path))


def test_a_plan_for_another_version_of_a_stage_is_refused(home: Path) -> None:
    path = planned(tiny_settings(home))
    assert read_plan(path, {"train": 3})["stage_versions"] == VERSIONS
    with pytest.raises(OtherVersionError) as caught:
        read_plan(path, {"train": 4})
    assert str(caught.value) == f"{path}: train has version 3, should have 4"


def test_a_plan_is_found_by_path_by_name_and_by_digest(home: Path) -> None:
    path = planned(tiny_settings(home))
    sha256 = str(read_record(path)["record_sha256"])
    for text in (str(path), path.name, path.name.removesuffix(".plan.json"), sha256, sha256[:6]):
        assert find_plan(text) == path
    for text in ("tiny", "000000", "nowhere.plan.json"):
        with pytest.raises(NotFoundError):
            find_plan(text)


def test_a_threshold_that_moved_after_the_plan_is_shown(home: Path) -> None:
    path = planned(tiny_settings(home))
    looser = tiny_settings(home, ["thresholds.max_val_loss_growth=9.0"])
    run = carried_out(path, looser)
    rows, faults = departure_rows(run, None)
    assert [(row["setting"], row["run"]) for row in rows] == [
        ("thresholds.max_val_loss_growth", 9.0)
    ]
    assert faults == []
    assert any(
        failure.startswith("plan.json: thresholds.max_val_loss_growth is 9.0, was registered as ")
        for failure in verify_run(run).failures
    )


def test_a_run_without_a_plan_can_be_held_to_one(home: Path) -> None:
    run = start_run("tiny", tiny_settings(home).as_record(), {})
    assert departure_rows(run, None) == ([], [])
    path = planned(tiny_settings(home, ["train.seed=7"]))
    rows, _ = departure_rows(run, str(path))
    assert [row["setting"] for row in rows] == ["train.seed"]


def test_a_plan_that_was_written_after_the_run_is_named(home: Path) -> None:
    settings = tiny_settings(home)
    run = start_run("tiny", settings.as_record(), {})
    path = planned(settings)
    (run.directory / "preregistration.json").write_bytes(path.read_bytes())
    plan = run.plan()
    del plan["record_sha256"]
    from evidence.records import write_record

    sha256 = read_record(path)["record_sha256"]
    write_record(run.directory / "plan.json", {**plan, "preregistration": sha256})
    finish_run(run, "completed", None)
    expected = "preregistration.json: in line 1 of the chain, after the run had begun"
    assert order_faults(run) == [expected]
    assert expected in verify_run(run).failures


def test_a_plan_that_was_exchanged_or_taken_away_is_named(home: Path) -> None:
    settings = tiny_settings(home)
    run = carried_out(planned(settings), settings)
    copy = run.directory / "preregistration.json"
    reseal(copy, set_at("name", to="other"))
    assert order_faults(run) == ["preregistration.json: not the plan that the run was made by"]
    copy.unlink()
    assert order_faults(run) == ["preregistration.json: not the plan that the run was made by"]


def test_plan_and_status_from_the_command_line(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert assay(["plan", "--preset", "smoke", "--set", "train.seed=5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    settings = load_settings(found["plan"])
    assert settings.train.seed == 5
    path = Path(found["plan"])
    honest = carried_out(path, settings)
    assert assay(["status", honest.name]) == 0
    capsys.readouterr()
    run = carried_out(path, replace(settings, train=replace(settings.train, target_val_loss=99.0)))
    assert assay(["status", run.name, "--json"]) == 5
    captured = capsys.readouterr()
    assert json.loads(captured.out)["departures"][0]["setting"] == "train.target_val_loss"
    assert "train.target_val_loss is 99.0, the plan says" in captured.err


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("run --plan nowhere", 3, "no plan nowhere"),
        ("run --plan x --preset smoke", 2, "--plan without --preset and --set"),
        ("run --plan x --set train.seed=1", 2, "--plan without --preset and --set"),
        ("plan --preset nope", 2, "preset nope does not exist"),
        ("plan --preset smoke --name a/b", 2, "run name is 'a/b'"),
    ],
)
def test_a_mistake_with_a_plan_is_a_sentence(
    home: Path, line: str, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert assay(line.split()) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""
