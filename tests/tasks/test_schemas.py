"""The published schemas are those of the code, and real records have their shape."""

import json
from typing import Any

import jsonschema
import pytest

from evidence.canonical import dumps
from evidence.statement import statement
from tasks.schemas import SCHEMAS, TYPES, schema_fault, schema_of, schema_path
from tasks.verify import verify_run
from tests.tasks.tampering import reseal, reseal_run
from tests.tasks.tiny import Finished


@pytest.mark.parametrize("name", TYPES)
def test_the_published_schema_is_that_of_the_code(name: str) -> None:
    """If this is red: python -m tasks.schemas."""
    assert schema_path(name).read_bytes() == schema_of(name)
    jsonschema.Draft202012Validator.check_schema(json.loads(schema_of(name)))


def test_nothing_else_is_published() -> None:
    assert {path.name for path in SCHEMAS.iterdir()} == {schema_path(name).name for name in TYPES}


def records(finished: Finished) -> list[tuple[str, Any]]:
    directory = finished.run.directory
    lines = (directory / "run.intoto.jsonl").read_text().splitlines()
    chain = (directory.parent / "CHAIN.jsonl").read_text().splitlines()
    return [
        ("plan", finished.run.plan()),
        ("run", finished.run.record()),
        *(("stage", record) for record in finished.run.stage_records().values()),
        *(("epoch", json.loads(path.read_text())) for path in directory.glob("epoch-*.json")),
        *(("statement", json.loads(line)) for line in lines),
        *(("chain-line", json.loads(line)) for line in chain),
    ]


def test_a_stranger_can_validate_every_record_with_the_published_schema(
    reading: Finished,
) -> None:
    found = records(reading)
    assert {name for name, _ in found} == set(TYPES) - {"preregistration"}
    assert len(found) == 2 + 6 + 3 + 6 + 1
    for name, record in found:
        schema = json.loads(schema_path(name).read_text())
        jsonschema.Draft202012Validator(schema).validate(record)
        assert schema_fault(name, record) is None


def test_a_record_without_what_it_owes_is_named(reading: Finished) -> None:
    for name, record in records(reading):
        schema = json.loads(schema_path(name).read_text())
        for key in schema["required"]:
            broken = {each: value for each, value in record.items() if each != key}
            fault = schema_fault(name, broken)
            assert fault is not None, (name, key)
            assert fault.startswith(key)
            assert not jsonschema.Draft202012Validator(schema).is_valid(broken)


def test_a_value_of_another_type_fails_verification(copied: Finished) -> None:
    path = copied.run.directory / "shard.metadata.json"
    reseal(path, lambda record: record.update(wall_seconds="fast"))
    reseal_run(copied.run)
    expected = "shard.metadata.json: wall_seconds is not as the schema says: Input should be a"
    assert any(failure.startswith(expected) for failure in verify_run(copied.run).failures)


def test_a_statement_has_the_artefact_as_subject_and_a_scope_for_its_numbers(
    reading: Finished,
) -> None:
    stages = reading.run.stage_records()
    found = statement(reading.run.name, stages["evaluate"])
    assert found["_type"] == "https://in-toto.io/Statement/v1"
    assert found["subject"] == [
        {"name": "evaluation", "digest": {"sha256": reading.refs.evaluation.digest}}
    ]
    predicate = found["predicate"]
    measured = stages["evaluate"]["measurements"]
    assert predicate["measurements"] == measured
    assert predicate["scope"] == {
        "n": measured["val_documents"],
        "counted": "validation documents",
        "tokens": measured["val_tokens"],
        "dtype": "float32",
        "data": measured["validation_sha256"],
    }
    assert predicate["verdict"] == "pass"
    dependencies = predicate["buildDefinition"]["resolvedDependencies"]
    assert {"name": "shards", "digest": {"sha256": reading.refs.shards.digest}} in dependencies


def test_every_stage_that_measures_says_of_what(reading: Finished) -> None:
    for name, record in reading.run.stage_records().items():
        found = statement(reading.run.name, record)["predicate"]["scope"]
        assert {"n", "counted", "data"} <= found.keys(), name


def test_statements_are_canonical_and_verified(copied: Finished) -> None:
    path = copied.run.directory / "run.intoto.jsonl"
    lines = path.read_bytes().splitlines()
    assert [dumps(json.loads(line)) for line in lines] == lines
    changed = [line.replace(b'"verdict":"pass"', b'"verdict":"fail"') for line in lines]
    path.write_bytes(b"\n".join(changed) + b"\n")
    found = verify_run(copied.run).failures
    assert "run.intoto.jsonl: not what the records of the stages say" in found


def test_a_failure_is_stated_as_one(reading: Finished) -> None:
    record = {
        **reading.run.stage_records()["shard"],
        "outcome": "failed",
        "output": None,
        "measurements": {},
        "gates": [],
        "error": {"type": "LeakError", "message": "shared"},
    }
    found = statement("run", record)
    assert found["subject"][0]["name"] == "shard.metadata.json"
    assert found["predicate"]["verdict"] == "inconclusive"
    assert set(found["predicate"]["scope"]) == {"data"}
