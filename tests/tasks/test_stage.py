import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evidence.errors import GateFailedError
from evidence.gates import Gate, Measurements
from evidence.records import Recipe, read_record
from evidence.refs import TokensRef
from tasks.errors import ArtefactDamagedError, StorageError
from tasks.run_record import Run, start_run
from tasks.stage import Built, Done, Stage, perform
from tasks.store import Artefact, open_store
from tests.tasks.full_disk import full_disk
from tests.tasks.test_store import flip


def measure(artefact: Artefact) -> Measurements:
    return {"length": len((artefact.directory / "text").read_text())}


STAGE = Stage(
    name="pretokenize",
    version=1,
    ref_type=TokensRef,
    measure=measure,
    summary=lambda measured: f"{measured['length']} characters",
    gates=(
        Gate(
            id="pretokenize.short",
            sentence="the text is short",
            measured="length",
            operator="<=",
            threshold="thresholds.max_length",
        ),
        Gate(
            id="pretokenize.shorter",
            sentence="the text is very short",
            measured="length",
            operator="<=",
            threshold=1,
            required=False,
        ),
    ),
)


class Builder:
    """Writes a text, and counts how often it is asked to."""

    def __init__(self, text: str = "hello") -> None:
        self.text, self.calls = text, 0

    def __call__(self, directory: Path) -> Mapping[str, Any]:
        self.calls += 1
        (directory / "text").write_text(self.text)
        return {"written": len(self.text)}


def run_of(name: str) -> Run:
    return start_run(name, {"thresholds": {"max_length": 10.0}}, {})


def carry_out(
    run: Run, builder: Any, *, max_length: float = 10.0, stage: Stage = STAGE, **changes: Any
) -> Done:
    arguments: dict[str, Any] = {"settings": {"seed": 1}, "inputs": {"source": "sha256:0"}}
    arguments |= changes
    return perform(
        run,
        stage,
        Recipe(stage=STAGE.name, version=STAGE.version, **arguments),
        builder,
        thresholds={"max_length": max_length},
        tracking={"prefect_flow_run_id": None},
    )


def record_of(run: Run) -> dict[str, Any]:
    return read_record(run.directory / "pretokenize.metadata.json")


def test_what_was_observed_is_in_the_record_and_decides_no_ref(home: Path) -> None:
    def timed(seconds: float) -> Any:
        return lambda directory: Built(Builder()(directory), {"seconds": seconds})

    stage = replace(STAGE, measure_observed=lambda seen: {"rate": 5 / seen["seconds"]})
    runs = [run_of(name) for name in ("first", "reusing", "again")]
    first = carry_out(runs[0], timed(2.0), stage=stage)
    carry_out(runs[1], timed(8.0), stage=stage)
    shutil.rmtree(first.artefact.directory)
    again = carry_out(runs[2], timed(4.0), stage=stage)

    assert again.ref == first.ref
    assert again.artefact.index["content"] == {"written": 5}
    records = [record_of(run) for run in runs]
    assert [each["outcome"] for each in records] == ["produced", "reused", "produced"]
    assert [each["observed"]["seconds"] for each in records] == [2.0, 2.0, 4.0]
    assert [each["measurements"]["rate"] for each in records] == [2.5, 2.5, 1.25]
    assert open_store().observed(first.ref) == {"seconds": 4.0}


def test_a_stage_is_built_measured_judged_and_recorded(home: Path) -> None:
    run, builder = run_of("first"), Builder()
    done = carry_out(run, builder)
    assert builder.calls == 1
    record = record_of(run)
    assert record == done.record
    assert list(record) == [
        "schema",
        "stage",
        "recipe",
        "recipe_sha256",
        "thresholds",
        "tracking",
        "provenance",
        "started",
        "outcome",
        "reused_from",
        "output",
        "measurements",
        "gates",
        "wall_seconds",
        "record_sha256",
    ]
    assert record["schema"] == "assay.stage/1"
    assert record["recipe"] == {
        "stage": "pretokenize",
        "version": 1,
        "settings": {"seed": 1},
        "inputs": {"source": "sha256:0"},
    }
    assert (record["outcome"], record["reused_from"]) == ("produced", None)
    assert record["output"] == str(done.ref)
    assert record["measurements"] == {"length": 5}
    assert record["thresholds"] == {"max_length": 10.0}
    assert [gate["verdict"] for gate in record["gates"]] == ["pass", "missed aim"]
    assert done.artefact.index["content"] == {"written": 5}


def test_the_same_recipe_is_reused_and_names_the_run_that_made_it(home: Path) -> None:
    first, second, builder = run_of("first"), run_of("second"), Builder()
    made = carry_out(first, builder)
    again = carry_out(second, builder)
    assert builder.calls == 1
    assert again.ref == made.ref
    record = record_of(second)
    assert (record["outcome"], record["reused_from"]) == ("reused", first.name)
    assert record["measurements"] == {"length": 5}


@pytest.mark.parametrize("changes", [{"settings": {"seed": 2}}, {"inputs": {"source": "sha256:1"}}])
def test_another_setting_or_input_is_built_anew(home: Path, changes: dict[str, Any]) -> None:
    run, builder = run_of("first"), Builder()
    carry_out(run, builder)
    carry_out(run_of("second"), builder, **changes)
    assert builder.calls == 2


def test_a_deleted_artefact_is_built_anew(home: Path) -> None:
    builder = Builder()
    done = carry_out(run_of("first"), builder)
    shutil.rmtree(done.artefact.directory)
    again = carry_out(run_of("second"), builder)
    assert (builder.calls, again.record["outcome"]) == (2, "produced")


def test_a_damaged_artefact_is_not_reused(home: Path) -> None:
    done = carry_out(run_of("first"), Builder())
    flip(done.artefact.directory / "text")
    run = run_of("second")
    with pytest.raises(ArtefactDamagedError) as caught:
        carry_out(run, Builder())
    assert caught.value.path == done.artefact.directory / "text"
    assert record_of(run)["outcome"] == "failed"


def test_nothing_is_reused_that_was_made_of_a_damaged_input(home: Path) -> None:
    made = carry_out(run_of("first"), Builder("an input")).artefact
    inputs = {"tokens": str(made.ref)}
    carry_out(run_of("second"), Builder(), settings={"seed": 2}, inputs=inputs)
    (made.directory / "text").write_text("an inpuT")
    with pytest.raises(ArtefactDamagedError) as caught:
        carry_out(run_of("third"), Builder(), settings={"seed": 2}, inputs=inputs)
    assert caught.value.path == made.directory / "text"


def test_what_was_made_of_an_input_outlives_its_removal(home: Path) -> None:
    made = carry_out(run_of("first"), Builder("an input")).artefact
    inputs = {"tokens": str(made.ref)}
    kept = carry_out(run_of("second"), Builder(), settings={"seed": 2}, inputs=inputs)
    shutil.rmtree(made.directory)
    again = carry_out(run_of("third"), Builder(), settings={"seed": 2}, inputs=inputs)
    assert again.ref == kept.ref


def test_a_failed_gate_is_recorded_before_it_is_raised(home: Path) -> None:
    run = run_of("first")
    with pytest.raises(GateFailedError) as caught:
        carry_out(run, Builder("a long text"))
    assert vars(caught.value) == {
        "gate": "pretokenize.short",
        "sentence": "the text is short",
        "value": 11.0,
        "operator": "<=",
        "threshold": 10.0,
        "where": "",
        "hint": "`assay status` lists every gate of a run with its threshold",
    }
    record = record_of(run)
    assert record["outcome"] == "produced"
    assert [gate["verdict"] for gate in record["gates"]] == ["FAIL", "missed aim"]


def test_a_failed_gate_fails_again_at_once_from_the_store(home: Path) -> None:
    first, second, builder = run_of("first"), run_of("second"), Builder("a long text")
    for run in (first, second):
        with pytest.raises(GateFailedError):
            carry_out(run, builder)
    assert builder.calls == 1
    record = record_of(second)
    assert (record["outcome"], record["reused_from"]) == ("reused", first.name)
    assert record["gates"][0]["verdict"] == "FAIL"


def test_another_threshold_judges_the_same_artefact_anew(home: Path) -> None:
    builder = Builder("a long text")
    with pytest.raises(GateFailedError):
        carry_out(run_of("first"), builder)
    done = carry_out(run_of("second"), builder, max_length=11.0)
    assert builder.calls == 1
    assert done.record["gates"][0]["verdict"] == "pass"


def broken(directory: Path) -> object:
    (directory / "text").write_text("half")
    raise ValueError("the source is gone")


def test_a_build_error_is_recorded_and_leaves_nothing_in_the_store(home: Path) -> None:
    run = run_of("first")
    with pytest.raises(ValueError, match="the source is gone"):
        carry_out(run, broken)
    record = record_of(run)
    assert (record["outcome"], record["output"]) == ("failed", None)
    assert record["error"] == {"type": "ValueError", "message": "the source is gone"}
    assert (record["measurements"], record["gates"]) == ({}, [])
    assert not (home / "store" / "tokens").exists()
    assert list((home / "store" / "tmp").iterdir()) == []
    assert carry_out(run, Builder()).record["outcome"] == "produced"


def test_a_full_disk_while_building_is_a_storage_error(home: Path) -> None:
    run = run_of("first")
    with full_disk(6000), pytest.raises(StorageError) as caught:
        carry_out(run, Builder("x" * 9000))
    assert caught.value.reason == "File too large"
    assert record_of(run)["error"]["type"] == "StorageError"
    assert not (home / "store" / "tokens").exists()
    assert list((home / "store" / "tmp").iterdir()) == []


def test_a_disk_too_full_for_the_failure_lets_the_error_speak(home: Path) -> None:
    run = run_of("first")
    with full_disk(100), pytest.raises(StorageError) as caught:
        carry_out(run, Builder("x" * 9000))
    assert caught.value.reason == "File too large"
    assert "could not be recorded" in caught.value.__notes__[0]
    assert not (run.directory / "pretokenize.metadata.json").exists()


def test_a_disk_too_full_for_the_record_is_a_storage_error(home: Path) -> None:
    carry_out(run_of("first"), Builder())
    run = run_of("second")
    with full_disk(100), pytest.raises(StorageError) as caught:
        carry_out(run, Builder())
    assert caught.value.reason == "File too large"
    assert not (run.directory / "pretokenize.metadata.json").exists()


def test_a_measurement_that_is_not_finite_is_recorded_as_a_failure(home: Path) -> None:
    run = run_of("first")
    endless = Stage(
        name="pretokenize",
        version=1,
        ref_type=TokensRef,
        measure=lambda _: {"length": float("inf")},
        summary=str,
        gates=(),
    )
    recipe = Recipe(stage="pretokenize", version=1, settings={}, inputs={})
    with pytest.raises(Exception, match="length is inf"):
        perform(run, endless, recipe, Builder(), thresholds={}, tracking={})
    assert record_of(run)["error"]["type"] == "NotPlainError"


def test_a_record_is_plain_json(home: Path) -> None:
    run = run_of("first")
    carry_out(run, Builder())
    json.loads((run.directory / "pretokenize.metadata.json").read_text())
