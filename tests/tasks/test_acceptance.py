"""The table of acceptance: from records and the plan alone, nothing met by default."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evidence.errors import BrokenSealError
from flows.settings import load_settings
from model.errors import WrongSettingError
from tasks.acceptance import CRITERIA, GATES, Judged, judge_criteria, out_of_reach, plan_faults
from tasks.run_record import Run
from tests.tasks.tampering import reseal, set_at
from tests.tasks.tiny import STEPS, Finished


def judged(run: Run) -> dict[tuple[str, str], Judged]:
    found = judge_criteria(run, (*CRITERIA, *GATES))
    return {(each.id, each.measured): each for each in found}


def verdict(run: Run, criterion: str, measured: str) -> str:
    return judged(run)[criterion, measured].verdict


def measure_too(run: Run, stage: str, **measured: float) -> None:
    """Add measurements to a stage's record, as a stage that measures more would."""

    def edit(record: dict[str, Any]) -> None:
        record["measurements"] |= measured

    reseal(run.directory / f"{stage}.metadata.json", edit)


def test_all_twelve_criteria_are_listed_and_what_nobody_measured_is_not_met(
    reading: Finished,
) -> None:
    found = judge_criteria(reading.run, CRITERIA)
    assert sorted({each.id for each in found}) == [f"AC-SHIP2-{n:03d}" for n in range(1, 13)]
    unmeasured = {each.id for each in found if each.verdict == "not measured"}
    assert {"AC-SHIP2-007", "AC-SHIP2-008", "AC-SHIP2-009", "AC-SHIP2-010", "AC-SHIP2-011"} <= (
        unmeasured
    )
    assert all(each.value is None and not each.record for each in found if each.id in unmeasured
               and each.verdict == "not measured")  # fmt: skip


def test_a_criterion_shows_the_value_the_bound_and_the_record(reading: Finished) -> None:
    found = judged(reading.run)["AC-SHIP2-003", "evaluate.val_loss"]
    record = reading.run.stage_records()["evaluate"]
    assert (found.verdict, found.operator, found.threshold) == ("met", "<=", 2.2)
    assert found.value == record["measurements"]["val_loss"]
    assert found.record == f"evaluate {record['record_sha256'][:12]}"


def test_a_small_model_misses_the_band_of_parameters(reading: Finished) -> None:
    assert verdict(reading.run, "AC-SHIP2-005", "checkpoint.parameters") == "met"
    found = [
        each for each in judge_criteria(reading.run, CRITERIA) if each.threshold == 366_000_000
    ]
    assert [each.verdict for each in found] == ["not met"]


def test_what_a_run_is_too_small_for_or_does_not_measure_is_out_of_reach(
    copied: Finished,
) -> None:
    def missed() -> list[str]:
        return out_of_reach(copied.run, judge_criteria(copied.run, CRITERIA))

    measure_too(copied.run, "evaluate", val_loss=9.0)
    assert missed() == [f"AC-SHIP2-{n:03d}" for n in (2, 5, 7, 8, 9, 10, 11)]
    # What a stage has yet to measure may still come.
    (copied.run.directory / "evaluate.metadata.json").unlink()
    assert missed() == [f"AC-SHIP2-{n:03d}" for n in (2, 5, 9, 11)]
    measure_too(copied.run, "checkpoint", parameters=370_000_000)
    assert missed() == [f"AC-SHIP2-{n:03d}" for n in (2, 9, 11)]


def test_a_field_counts_as_soon_as_a_record_has_it(copied: Finished) -> None:
    criterion, name = "AC-SHIP2-008", "evaluate.humaneval_pass_at_1"
    assert verdict(copied.run, criterion, name) == "not measured"
    measure_too(copied.run, "evaluate", humaneval_pass_at_1=0.29)
    assert verdict(copied.run, criterion, name) == "not met"
    measure_too(copied.run, "evaluate", humaneval_pass_at_1=0.3)
    assert verdict(copied.run, criterion, name) == "met"


def test_bounds_are_those_of_the_plan(copied: Finished) -> None:
    set_bound = set_at("settings", "acceptance", "max_val_loss", to=0.1)
    assert plan_faults(copied.run) == []
    reseal(copied.run.directory / "plan.json", set_bound)
    assert verdict(copied.run, "AC-SHIP2-003", "evaluate.val_loss") == "not met"
    (fault,) = plan_faults(copied.run)
    assert fault.startswith("plan.json: sha256 is ")
    assert fault.endswith("bounds may differ")


def test_a_plan_that_was_edited_by_hand_is_refused(copied: Finished) -> None:
    path = copied.run.directory / "plan.json"
    path.write_text(path.read_text().replace('"max_val_loss": 2.2', '"max_val_loss": 9.9'))
    with pytest.raises(BrokenSealError):
        judge_criteria(copied.run, CRITERIA)


def test_a_run_without_such_bounds_is_not_judged_by_others(copied: Finished) -> None:
    def drop(plan: dict[str, Any]) -> None:
        del plan["settings"]["acceptance"]

    reseal(copied.run.directory / "plan.json", drop)
    found = judged(copied.run)["AC-SHIP2-003", "evaluate.val_loss"]
    assert (found.verdict, found.threshold) == ("not measured", None)


def repeat(finished: Finished, edit: Any = lambda _: None) -> Run:
    """Another run, whose training of the same recipe came out in other files."""
    directory = finished.run.directory.with_name("again-2026-01-02")
    shutil.copytree(finished.run.directory, directory)
    reseal(directory / "train.metadata.json", set_at("output", to=f"training:{'0' * 64}"))
    reseal(directory / "epoch-001.metadata.json", edit)
    return Run(directory)


def test_a_repeated_training_is_compared_by_its_epochs(copied: Finished) -> None:
    criterion, name = "AC-SHIP2-011", "train.repeat_difference_nats"
    assert verdict(copied.run, criterion, name) == "not measured"
    repeat(copied)
    found = judged(copied.run)
    assert (found[criterion, name].verdict, found[criterion, name].value) == ("met", 0.0)
    assert found[criterion, "train.repeated_steps"].value == STEPS
    assert found[criterion, "train.repeated_steps"].verdict == "not met"


def test_a_training_that_came_out_otherwise_shows(copied: Finished) -> None:
    repeat(copied, set_at("val_loss", to=5.0))
    found = judged(copied.run)["AC-SHIP2-011", "train.repeat_difference_nats"]
    assert found.verdict == "not met"
    assert found.value is not None
    assert found.value > 1


def test_a_damaged_record_of_another_run_hides_nothing(copied: Finished) -> None:
    path = repeat(copied).directory / "train.metadata.json"
    path.write_text(path.read_text().replace('"outcome": "produced"', '"outcome": "reused"'))
    key = ("AC-SHIP2-011", "train.repeat_difference_nats")
    assert judged(copied.run)[key].verdict == "not measured"


def test_an_unfinished_run_has_no_verdict_on_all_its_gates(copied: Finished) -> None:
    key = ("AC-SHIP2-006", "run.failed_gates")
    assert judged(copied.run)[key].verdict == "met"
    Path(copied.run.directory / "bisect.metadata.json").unlink()
    assert judged(copied.run)[key].verdict == "not measured"


def test_bounds_that_nothing_meets_are_refused() -> None:
    acceptance = load_settings("smoke").acceptance
    with pytest.raises(WrongSettingError) as caught:
        replace(acceptance, max_parameters=1)
    assert caught.value.setting == "acceptance.max_parameters"
    with pytest.raises(WrongSettingError):
        replace(acceptance, max_val_loss=float("nan"))
