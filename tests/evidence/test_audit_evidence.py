"""What is read as evidence, and what is refused."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence.audit import audit
from evidence.audit_evidence import read_evidence, walk
from evidence.errors import NoEvidenceError
from tests.evidence.told import Told, rows
from tests.test_architecture import PROJECT

REFERENCE = PROJECT / "tests" / "reference"
FIRST = REFERENCE / "model-2-first-training-2026-04-26"


def test_all_twelve_digests_of_the_references_first_training_follow_from_counters() -> None:
    evidence = read_evidence(FIRST)
    found = {each.file: each for each in audit(evidence) if each.rule == "derived-hash"}
    assert {run.name: len(run.epochs) for run in evidence.runs} == {
        "epoch-*": 7,
        "wrapped-epoch-*": 5,
    }
    assert len(found) == 12
    assert str(found["epoch-006.metadata.json"]) == (
        "derived-hash: epoch-006.metadata.json: optimizer_state_sha is c31b1aade336... = "
        'sha256("aprender-train:pretrain:optstate:v1:" + u64le of seed 42, epoch 6, '
        "tokens_seen 114688000), should be the sha256 of the optimizer's state (F07)"
    )


def test_the_references_two_budgets_are_seen_to_be_one_training() -> None:
    found = audit(read_evidence(REFERENCE / "model-2-corpus-4x-2026-04-27"))
    assert sorted(each.rule for each in found) == [
        *["derived-hash"] * 21,
        "false-success",
        *["no-provenance"] * 2,
        "same-losses",
        *["shared-hash"] * 10,
        *["wrapped-corpus"] * 2,
    ]
    (same,) = (each for each in found if each.rule == "same-losses")
    assert same.found == "within 0.00011 nats of training-summary-80k.json in every epoch"


def test_digests_shared_by_runs_on_other_data_are_seen() -> None:
    found = [each for each in audit(read_evidence(REFERENCE)) if each.rule == "shared-hash"]
    assert sum(each.file.startswith("model-2-first") for each in found) == 7


def test_a_document_behind_the_lines_of_a_log_is_read(tmp_path: Path) -> None:
    steps = [{"step": number, "train_loss": 6.0 - number / 9} for number in range(3)]
    text = "  GPU: some\n" + json.dumps({"per_step_metrics": steps}, indent=2)
    (tmp_path / "run.json").write_text(text)
    (run,) = read_evidence(tmp_path).runs
    assert [entry.place for entry in run.steps] == [f"per_step_metrics[{n}]." for n in range(3)]


def test_a_list_of_epochs_is_a_run(tmp_path: Path) -> None:
    (tmp_path / "all-epochs.json").write_text(json.dumps(rows()))
    (run,) = read_evidence(tmp_path).runs
    assert (len(run.epochs), run.epochs[2].place) == (5, "[2].")


def test_steps_belong_to_the_only_run_beside_them_and_else_stand_alone(tmp_path: Path) -> None:
    told = Told()
    told.audit(tmp_path)
    (run,) = read_evidence(tmp_path).runs
    assert len(run.steps) == 24
    other = tmp_path / "run" / "other-000.metadata.json"
    other.write_text(json.dumps(told.rows[0]))
    assert [(run.name, len(run.steps)) for run in read_evidence(tmp_path).runs] == [
        ("run/epoch-*", 0),
        ("run/other-*", 0),
        ("run/train.jsonl", 24),
    ]


def test_hidden_folders_and_links_are_left_out(tmp_path: Path) -> None:
    Told().audit(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "run")
    (tmp_path / "run").joinpath("epoch-009.metadata.json").symlink_to("epoch-000.metadata.json")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "epoch-000.metadata.json").write_text("{")
    evidence = read_evidence(tmp_path)
    assert (len(evidence.runs), evidence.num_files, evidence.malformed) == (1, 7, ())


@pytest.mark.parametrize("make", ["nothing", "file", "empty", "others"])
def test_a_place_without_evidence_is_refused(make: str, tmp_path: Path) -> None:
    place = tmp_path / "place"
    if make == "file":
        place.write_text("{}")
    elif make != "nothing":
        place.mkdir()
    if make == "others":
        (place / "config.json").write_text('{"a": 1}')
        (place / "table.csv").write_text("name,value\na,1\n")
        (place / "notes.txt").write_text("{")
    with pytest.raises(NoEvidenceError, match="should be a directory with evidence of a training"):
        read_evidence(place)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("epoch-000.metadata.json", '{"epoch": 0, "train_loss": NaN}', "holds NaN"),
        ("epoch-000.metadata.json", '{"epoch": 0, "epoch": 1}', "holds a duplicate key"),
        ("epoch-000.metadata.json", '{"epoch": 0', "cannot be read"),
        ("epoch-000.metadata.json", "\xff", "cannot be read"),
        (
            "epoch-000.metadata.json",
            '{"epoch": 0, "train_loss": "9.9"}',
            'train_loss is "9.9", not a number',
        ),
        (
            "all.json",
            '{"epochs": [{"train_loss": true}]}',
            r"epochs\[0\].train_loss is true, not a number",
        ),
        ("epoch-000.metadata.json", '{"epoch": 0, "val_loss": 1e31}', "1e\\+31, not a number"),
        ("train.jsonl", '{"step": 0, "train_loss": 1}\n[]\n', "line 2 is no object"),
        ("train.jsonl", '{"step": 0, "train_loss": 1}\n{\n', "cannot be read"),
        ("stds.csv", "layer,a\n0,x\n", "a cell is no number, or a row is short"),
        ("stds.csv", "layer,a\n0,1\n1\n", "a cell is no number, or a row is short"),
        ("deep.json", "[" * 200_000, "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_named_and_the_rest_is_judged(
    name: str, text: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "other-000.json").write_text(json.dumps({**rows()[0], "train_loss": 1.0}))
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    evidence = read_evidence(tmp_path)
    (error,) = evidence.malformed
    with pytest.raises(type(error), match=f"^{name}: .*{reason}.*, should be a record"):
        raise error
    assert "placeholder-loss" in {finding.rule for finding in audit(evidence)}


def test_a_document_is_walked_however_deep_it_is() -> None:
    value: object = {"bottom": 1}
    for _ in range(sys.getrecursionlimit() * 2):
        value = {"a": [value]}
    assert list(walk(value))[-1] == ("bottom", 1)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
KEYS = st.sampled_from(
    [
        *rows()[0],
        "epochs",
        "seed",
        "vocab_size",
        "corpus_tokens",
        "gap",
        "num_steps",
        "target_val_loss",
    ]
)


def test_whatever_a_document_holds_is_judged_or_refused(tmp_path: Path) -> None:
    @settings(max_examples=50, derandomize=True)
    @given(st.lists(st.dictionaries(KEYS, PLAIN), max_size=4), st.dictionaries(KEYS, PLAIN))
    def judge(epochs: list[dict[str, object]], beside: dict[str, object]) -> None:
        told = {**beside, "epochs": [{"train_loss": 2.5, **row} for row in epochs]}
        (tmp_path / "summary.json").write_text(json.dumps(told))
        (tmp_path / "plan.json").write_text(json.dumps(beside))
        try:
            evidence = read_evidence(tmp_path)
        except NoEvidenceError:
            return
        "".join(map(str, audit(evidence, {"": 1.0}))).encode()

    judge()
