"""Numbers of documents: which are measured, what backs them, and what is unbacked or stale."""

from pathlib import Path

import pytest

from evidence.claims import Checked, Number, check_document, read_blocks
from evidence.records import write_record
from flows.cli import run as assay
from tasks.claimed_documents import check_documents, documents

MEASURED = {"evaluate": {"val_loss": 3.3214, "busy_share": 0.561}, "train": {"wall_seconds": 245.4}}


@pytest.fixture
def evidence(tmp_path: Path) -> Path:
    (tmp_path / "decisions").mkdir()
    (tmp_path / "decisions" / "0001-note.md").write_text("It took 2.5 s, not 12.75 s.\n")
    write_record(tmp_path / "demo.json", {"run_record_sha256": "a" * 64, "measurements": MEASURED})
    return tmp_path


def check(text: str, evidence: Path) -> list[str]:
    return list(check_document("doc.md", text, evidence).faults)


LOSS = "<!-- claim: demo.json evaluate.val_loss -->\n"


@pytest.mark.parametrize(
    "text",
    [
        LOSS + "The loss is 3.32 nats.",
        LOSS + "\nThe loss is 3.321 nats.",
        "The loss is 3.3 nats <!-- claim: demo.json evaluate.val_loss --> now.",
        "<!-- claim: demo.json evaluate.busy_share -->\nbusy in 56 % of samples",
        "<!-- claim: demo.json train.wall_seconds -->\n| takes | some four minutes |",
        "<!-- claim: demo.json train.wall_seconds -->\nit took 4.09 minutes",
        LOSS + "```\nloss 3.321 of version 1.2.3 at 127.0.0.1:4200 in python3.12\n```",
        "It took 2.5 s ([note](evidence/decisions/0001-note.md)).",
        "<!-- claim: decisions/0001-note.md -->\n- 12.75 s",
        "<!-- no claim: a limit -->\nat most 16 MiB",
        "# Ten minutes on a laptop",
        "`--limit 5 s` and a model of 370 million parameters, 64 layers, step 17",
        "[text](https://example.org/5 s)",
        "no number at all",
    ],
)
def test_a_backed_number_and_what_is_no_measured_number_pass(text: str, evidence: Path) -> None:
    assert check(text, evidence) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("The loss is 3.32 nats.", "doc.md:1: 3.32 nats is backed by no evidence"),
        (
            LOSS + "The loss is 3.33 nats.",
            "doc.md:1: 3.33 nats is backed by no evidence",
        ),
        (LOSS + "\ntext\n\nThe loss is 3.32 nats.", "doc.md:5: 3.32 nats is backed by no evidence"),
        (LOSS + "no number", "doc.md:1: evaluate.val_loss is 3.3214, which is not shown"),
        ("# Heading\nThe loss is 3.32 nats.", "doc.md:1: 3.32 nats is backed by no evidence"),
        ("```\nloss 3.321\n```", "doc.md:1: 3.321 is backed by no evidence"),
        (
            "<!-- claim: demo.json train.wall_seconds -->\nsome three minutes",
            "doc.md:1: three minutes is backed by no evidence",
        ),
        (
            "It took 2.75 s ([note](evidence/decisions/0001-note.md)).",
            "doc.md:1: 2.75 s is backed by no evidence",
        ),
        (
            "It took 2 s ([note](evidence/decisions/0001-note.md)).",
            "doc.md:1: 2 s is backed by no evidence",
        ),
        ("<!-- claim: gone.json a.b -->\n5 s", "doc.md:1: gone.json: no such evidence"),
        ("<!-- claim: ../doc.md -->\n5 s", "doc.md:1: ../doc.md: no such evidence"),
        ("<!-- claim: demo.json a.b -->\n5 s", "doc.md:1: demo.json: no field a.b"),
        (
            "<!-- claim: demo.json -->\n5 s",
            "doc.md:1: demo.json: names no field of the record",
        ),
    ],
)
def test_an_unbacked_or_stale_number_is_named_with_its_line(
    text: str, fault: str, evidence: Path
) -> None:
    assert fault in check(text, evidence)


def test_a_number_of_a_withdrawn_run_is_unbacked(evidence: Path) -> None:
    """E12."""
    text = LOSS + "The loss is 3.32 nats."
    found = check_document("doc.md", text, evidence, {"a" * 64: "other tokens"})
    assert found == Checked(
        num_claims=1,
        faults=(
            "doc.md:1: demo.json: withdrawn: other tokens",
            "doc.md:1: 3.32 nats is backed by no evidence",
        ),
    )


def test_a_record_that_was_edited_backs_nothing(evidence: Path) -> None:
    path = evidence / "demo.json"
    path.write_text(path.read_text().replace("3.3214", "3.1"))
    faults = check(LOSS + "The loss is 3.1 nats.", evidence)
    assert any("its fields have the digest" in fault for fault in faults)


@pytest.mark.parametrize(
    ("text", "value", "shown"),
    [
        ("3.3", 3.349, True),
        ("3.3", 3.351, False),
        ("1.69e-05", 1.6944e-05, True),
        ("1.69e-05", 1.70e-05, False),
        ("4,370,142", 4370142, True),
        ("4,370,142", 4370143, False),
        ("eight", 8.4, True),
        ("Three", 3.6, False),
        ("3", True, False),
        ("3", "3", False),
    ],
)
def test_a_number_is_shown_to_its_last_digit(text: str, value: object, shown: bool) -> None:
    number = Number(text=text, unit="", roughly=False)
    assert number.is_shown_of("field", value) == shown


def test_blocks_know_their_lines() -> None:
    text = "a\n\n5 s\n\n```\n1.5\n```\n6 s\n"
    assert [block.line for block in read_blocks(text)] == [3, 5, 8]


def test_every_measured_number_of_the_projects_documents_is_backed() -> None:
    found = check_documents(documents())
    assert {"README.md", "CONTRIBUTING.md"} <= found.keys()
    assert [fault for each in found.values() for fault in each.faults] == []
    assert found["README.md"].num_claims > 20


def test_a_document_with_an_unbacked_number_fails_the_command(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "doc.md"
    path.write_text("The loss is 3.32 nats.\n")
    assert assay(["claims", str(path)]) == 5
    assert "3.32 nats is backed by no evidence" in capsys.readouterr().err
    path.write_text("The loss is low.\n")
    assert assay(["claims", str(path)]) == 0
    assert "1 documents, 0 measured numbers" in capsys.readouterr().out
    assert assay(["claims", str(tmp_path / "gone.md")]) == 3
