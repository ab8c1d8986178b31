"""Statements: what a run's records say, in the form that other tools read.

One in-toto Statement (v1) a stage, a line each in `run.intoto.jsonl`: its subject is the artefact
by its digest, its predicate has SLSA's shape (what was asked, on what, by what, when) and has the
measurements with their scope and the gates with their verdicts. They are computed from the records
of the stages, so `assay verify` computes them again.
"""

from collections.abc import Mapping
from typing import Any

from evidence.canonical import dumps
from evidence.records import SEAL, stage_file

STATEMENTS = "run.intoto.jsonl"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:assay:measured-provenance:v1"

SCOPES: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "pretokenize": {
        "n": ("measurements", "documents"),
        "tokens": ("measurements", "tokens"),
        "data": ("inputs", "source"),
    },
    "shard": {
        "n": ("measurements", "train_rows"),
        "tokens": ("measurements", "train_tokens"),
        "data": ("inputs", "tokens"),
    },
    "train": {
        "n": ("measurements", "steps"),
        "tokens": ("measurements", "tokens_seen"),
        "dtype": ("settings", "train.precision"),
        "data": ("inputs", "shards"),
    },
    "evaluate": {
        "n": ("measurements", "val_documents"),
        "tokens": ("measurements", "val_tokens"),
        "dtype": ("measurements", "precision"),
        "data": ("measurements", "validation_sha256"),
    },
    "checkpoint": {
        "n": ("measurements", "parameters"),
        "dtype": ("settings", "checkpoint.safetensors_dtype"),
        "data": ("inputs", "evaluation"),
    },
    "bisect": {
        "n": ("measurements", "sites"),
        "tokens": ("measurements", "tokens"),
        "data": ("inputs", "checkpoint"),
    },
}
"Where a stage's record says of how many things and tokens, in which format, on which data."
COUNTED = {
    "pretokenize": "documents",
    "shard": "training rows",
    "train": "steps",
    "evaluate": "validation documents",
    "checkpoint": "parameters",
    "bisect": "sites",
}
"What `n` counts."


def statements(run: str, stages: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Write the statements of a run's stages, a line each in canonical JSON."""
    return b"".join(dumps(statement(run, record)) + b"\n" for record in stages.values())


def statement(run: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a stage's record into a statement about its artefact, or about its failure."""
    recipe, provenance = record["recipe"], record["provenance"]
    return {
        "_type": STATEMENT_TYPE,
        "subject": [_subject(record)],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": f"urn:assay:stage:{recipe['stage']}:v{recipe['version']}",
                "externalParameters": recipe["settings"],
                "internalParameters": {"thresholds": record["thresholds"]},
                "resolvedDependencies": [
                    *(_resource(name, ref) for name, ref in recipe["inputs"].items()),
                    *_code(provenance),
                ],
            },
            "runDetails": {
                "builder": {"id": "urn:assay", "version": _versions(provenance)},
                "metadata": {
                    "invocationId": run,
                    "startedOn": record["started"],
                    "wallSeconds": record["wall_seconds"],
                },
                "byproducts": [
                    {"name": stage_file(record["stage"]), "digest": {"sha256": record[SEAL]}}
                ],
            },
            "outcome": record["outcome"],
            "verdict": verdict(record),
            "scope": scope(record),
            "measurements": record["measurements"],
            "claims": [
                {
                    "id": gate["id"],
                    "sentence": gate["sentence"],
                    "measured": gate["value"],
                    "operator": gate["operator"],
                    "bar": gate["threshold_value"],
                    "verdict": gate["verdict"],
                }
                for gate in record["gates"]
            ],
        },
    }


def verdict(record: Mapping[str, Any]) -> str:
    """Sum up a stage: pass, fail, or inconclusive where it ended before it was judged."""
    if record["outcome"] == "failed":
        return "inconclusive"
    return "fail" if any(gate["verdict"] == "FAIL" for gate in record["gates"]) else "pass"


def scope(record: Mapping[str, Any]) -> dict[str, Any]:
    """Say of what a stage's numbers are: how many, tokens, format, digest of the data."""
    settings, stage = record["recipe"]["settings"], record["stage"]
    places = {
        "measurements": record["measurements"],
        "inputs": record["recipe"]["inputs"],
        "settings": {
            f"{section}.{key}": value
            for section, values in settings.items()
            if isinstance(values, Mapping)
            for key, value in values.items()
        },
    }
    found = {
        name: places[where][key]
        for name, (where, key) in SCOPES[stage].items()
        if key in places[where]
    }
    return {**found, "counted": COUNTED[stage]} if "n" in found else found


def _subject(record: Mapping[str, Any]) -> dict[str, Any]:
    """Name the artefact; of a failure the record itself, which is all that it left."""
    if record["output"] is None:
        return {"name": stage_file(record["stage"]), "digest": {"sha256": record[SEAL]}}
    kind, _, sha256 = record["output"].partition(":")
    return {"name": kind, "digest": {"sha256": sha256}}


def _resource(name: str, ref: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": ref.partition(":")[2]}}


def _code(provenance: Mapping[str, Any]) -> list[dict[str, Any]]:
    known = (
        ("code", "gitCommit", "git_commit"),
        ("git_dirty", "sha256", "git_dirty_sha256"),
        ("lock", "sha256", "lock_sha256"),
    )
    return [
        {"name": name, "digest": {kind: provenance[key]}}
        for name, kind, key in known
        if provenance.get(key)
    ]


def _versions(provenance: Mapping[str, Any]) -> dict[str, Any]:
    return {"python": provenance.get("python", "unknown"), **provenance.get("packages", {})}
