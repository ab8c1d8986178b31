"""Every rule of the audit: what it must see, and what looks alike and is honest."""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from evidence.audit import RULES, audit
from evidence.audit_evidence import read_evidence
from tests.evidence.told import BESIDE, LOSSES, Told, rows

Edit = Callable[[Told], object]


@dataclass(frozen=True)
class Case:
    rule: str
    field: str
    "Where the finding must be."
    plant: Edit
    honest: Edit
    "The nearest thing that is in order."


def losses(*pairs: tuple[float, float]) -> Edit:
    def edit(told: Told) -> None:
        told.rows = rows(pairs)

    return edit


def row(epoch: int, **fields: object) -> Edit:
    return lambda told: told.set(epoch, **fields)


def beside(**facts: object) -> Edit:
    return lambda told: told.beside.update(facts)


def without(*facts: str) -> Edit:
    def edit(told: Told) -> None:
        for name in facts:
            del told.beside[name]

    return edit


def both(*edits: Edit) -> Edit:
    return lambda told: [edit(told) for edit in edits]


def every_step(**fields: Callable[[int], object]) -> Edit:
    def edit(told: Told) -> None:
        for number, step in enumerate(told.steps):
            step.update({name: value(number) for name, value in fields.items()})

    return edit


def other_run(shift: float, same_hashes: bool = False, **facts: object) -> Edit:
    """Add another training whose losses are apart by something."""

    def edit(told: Told) -> None:
        moved = rows(tuple((t + shift, v + shift) for t, v in LOSSES), "a" if same_hashes else "b")
        told.summaries["other.json"] = {**BESIDE, **facts, "epochs": moved}

    return edit


def sha(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def noise(number: int) -> float:
    return 45.1 + (number * 7 % 24) * 0.4


TABLE = "layer,ffn_up,ffn_out\n0,1.0,0.2\n1,1.1,{}\n2,1.2,0.9\n"
FLAT = ((6.0, 5.3), (5.0, 4.6), (4.4, 4.2), (4.1, 4.25), (3.9, 4.3), (3.7, 4.4), (3.6, 4.5))

CASES = (
    Case("placeholder-loss", "train_loss",
         both(row(3, train_loss=1.0), row(4, train_loss=1.0000001)), row(3, train_loss=4.0000005)),
    Case("constant-norm", "grad_norm_max", row(2, grad_norm_max=1.0), row(2, grad_norm_max=1.0001)),
    Case("quick-epoch", "wall_seconds", row(3, wall_seconds=3.78), row(3, wall_seconds=33.0)),
    # Kernels were compiled in the first epoch.
    Case("quick-epoch", "wall_seconds", row(4, wall_seconds=3.8), row(0, wall_seconds=3300.0)),
    Case("mixture-epoch", "train_loss",
         losses((6.0, 5.3), (5.0, 4.6), (4.4, 4.4), (2.0, 4.41), (1.9, 4.4)),
         losses((6.0, 5.3), (5.0, 4.6), (4.4, 4.4), (3.3, 3.8), (3.2, 3.75))),
    Case("still-validation", "val_loss", row(4, val_loss=4.05), row(4, val_loss=4.0499)),
    Case("repeated-steps", "line 5: train_loss",
         every_step(train_loss=lambda n: 5.5 if n in (2, 3, 4) else 6.0 + n * n / 100),
         every_step(train_loss=lambda n: 5.5 if n in (2, 3, 5) else 6.0 + n * n / 100)),
    Case("drawn-utilisation", "line 1: gpu_util_pct",
         every_step(gpu_util_pct=noise), every_step(gpu_util_pct=lambda n: round(noise(n)))),
    Case("drawn-utilisation", "line 1: gpu_util_pct",
         every_step(gpu_util_pct=noise), every_step(gpu_util_pct=lambda n: 46.1 + n / 5)),
    Case("scripted-losses", "train_loss",
         losses((6.0, 5.5), (5.5, 5.1), (5.0, 4.6), (4.5, 4.3), (4.0, 4.02)),
         losses((6.0, 5.5), (5.5, 5.1), (5.01, 4.6), (4.5, 4.3), (4.0, 4.02))),
    Case("scripted-losses", "line 24: train_loss",
         every_step(train_loss=lambda n: 6 - n / 10),
         every_step(train_loss=lambda n: 6 - n / 10 + 0.01 * (n % 2))),
    Case("derived-hash", "optimizer_state_sha",
         row(2, optimizer_state_sha=sha(b"7:2:307200")),
         row(2, optimizer_state_sha=sha(b"7:2:307201"))),
    Case("derived-hash", "optimizer_state_sha",
         row(2, optimizer_state_sha=sha(b"")), row(2, optimizer_state_sha=sha(b"?"))),
    Case("shared-hash", "optimizer_state_sha",
         other_run(0.5, same_hashes=True), other_run(0.0, same_hashes=True)),
    Case("malformed-hash", "optimizer_state_sha",
         row(1, optimizer_state_sha="51190911836ec431"), row(1, optimizer_state_sha="AB" * 32)),
    Case("copied-epoch", "epoch",
         lambda told: told.rows.append({**told.rows[4], "epoch": 5}),
         lambda told: told.rows.append(
             {**rows(((3.9, 3.95),), "c")[0], "epoch": 5, "tokens_seen": 614_400})),
    Case("validation-below-training", "val_loss", row(4, val_loss=3.5), row(4, val_loss=3.72)),
    Case("validation-below-training", "val_loss",
         row(4, val_loss=3.5, train_loss_at_end=3.9, val_loss_standard_error=0.07),
         row(4, val_loss=3.5, train_loss_at_end=3.9, val_loss_standard_error=0.09)),
    Case("wrapped-corpus", "tokens_seen",
         both(without("shards"), beside(corpus_sha256="00", corpus_tokens=500_000)),
         beside(corpus_sha256="00", corpus_tokens=500_000)),
    Case("growing-gap", "val_loss",
         both(losses(*FLAT), beside(num_steps=700)),
         both(losses(*FLAT), beside(num_steps=700, corpus_tokens=10**9))),
    Case("above-uniform", "train_loss", row(0, train_loss=6.94), row(0, train_loss=6.92)),
    Case("above-uniform", "train_loss",
         both(without("vocab_size"), row(0, train_loss=16.0)),
         both(without("vocab_size"), row(0, train_loss=11.0))),
    Case("above-unigram", "val_loss", beside(unigram_nats=3.9), beside(unigram_nats=4.0)),
    Case("below-text", "val_loss",
         losses((6.0, 5.3), (5.0, 2.6), (1.2, 0.9), (0.7, 0.6), (0.5, 0.2)),
         losses((6.0, 5.3), (5.0, 2.6), (1.2, 0.9), (0.7, 0.6), (0.5, 0.45))),
    Case("same-losses", "train_loss",
         other_run(0.0001, num_steps=2000), other_run(0.0001)),
    Case("same-losses", "train_loss",
         other_run(0.0001, lr_max=6e-4), other_run(0.01, lr_max=6e-4)),
    Case("impossible-speed", "wall_seconds",
         beside(num_parameters=200_000_000), beside(num_parameters=100_000_000)),
    Case("perplexity", "val_ppl", row(1, val_ppl=2.0**4.6), row(1, val_ppl=math.exp(4.60001))),
    Case("gap", "gap", row(3, gap=0.05), row(3, gap=-0.05)),
    Case("speed-unit", "tokens_per_second",
         row(3, tokens_per_second=994_174.0), row(3, tokens_per_second=994.174)),
    Case("uniform-unit", "ln_vocab", beside(ln_vocab=10.0), beside(ln_vocab=6.931)),
    Case("counter", "tokens_seen", row(3, tokens_seen=307_200), row(3, tokens_seen=307_201)),
    Case("counter", "wall_seconds", row(3, wall_seconds=-1.0), row(3, wall_seconds=99.0)),
    Case("over-budget", "tokens_seen", beside(num_steps=450), beside(num_steps=500)),
    Case("summary", "best_val_loss", beside(best_val_loss=3.9), beside(best_val_loss=3.98)),
    Case("false-success", "status", beside(target_val_loss=3.0),
         beside(target_val_loss=3.0, status="BUDGET_EXHAUSTED")),
    Case("missing-field", "grad_norm_max",
         row(2, grad_norm_max=None), row(2, grad_norm_max=0.5)),
    Case("no-provenance", "the run", without("git_commit"),
         both(without("git_commit"), beside(git_sha="0" * 40))),
    Case("layer-ratio", "ffn_out",
         lambda told: told.tables.update({"stds.csv": TABLE.format("0.9")}),
         lambda told: told.tables.update({"stds.csv": TABLE.format("0.5")})),
    Case("layer-ratio", "ffn_out",
         lambda told: told.tables.update({"stds.csv": TABLE.format("0.9")}),
         lambda told: (told.tables.update({"stds.csv": TABLE.format("0.9")}),
                       told.summaries.update({"bisection.json": {"reference": "other"}}))),
)  # fmt: skip


def named(case: Case) -> str:
    return case.rule


@pytest.mark.parametrize("case", CASES, ids=named)
def test_what_is_wrong_is_seen_where_it_is(case: Case, tmp_path: Path) -> None:
    told = Told()
    case.plant(told)
    found = {(finding.rule, finding.field) for finding in told.audit(tmp_path)}
    assert (case.rule, case.field) in found


@pytest.mark.parametrize("case", CASES, ids=named)
def test_what_looks_alike_and_is_honest_is_left_alone(case: Case, tmp_path: Path) -> None:
    told = Told()
    case.honest(told)
    assert case.rule not in {finding.rule for finding in told.audit(tmp_path)}


def test_every_rule_has_a_case() -> None:
    assert {case.rule for case in CASES} == {rule.id for rule in RULES} | {"impossible-speed"}


def test_no_two_rules_have_one_name_and_all_name_a_failure() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES)
    assert all(rule.resembles[0] == "F" and 1 <= int(rule.resembles[1:]) <= 60 for rule in RULES)


def test_honest_evidence_has_nothing(tmp_path: Path) -> None:
    assert Told().audit(tmp_path) == []


def test_a_finding_is_one_line_with_all_that_is_to_know(tmp_path: Path) -> None:
    told = Told()
    told.set(2, grad_norm_max=1.0)
    (finding,) = told.audit(tmp_path)
    assert str(finding) == (
        "constant-norm: run/epoch-002.metadata.json: grad_norm_max is 1, "
        "should be a measured norm, before clipping (F08)"
    )


def test_a_mixture_is_told_by_time_and_loss_together(tmp_path: Path) -> None:
    # The broken run of the reference: 55 of 262 seconds were steps.
    told = Told(rows=rows(((10.111, 9.967), (9.909, 9.909), (2.836, 9.902))))
    for number, wall in enumerate((264.0, 260.0, 55.0)):
        told.set(number, wall_seconds=wall)
    (found,) = (each.found for each in told.audit(tmp_path) if each.rule == "mixture-epoch")
    assert found == (
        "2.836 after 9.909, and validation went from 9.909 to 9.902: "
        "21% of the time, and 21% of the loss above 1.0, is that of real steps"
    )


def test_the_epochs_of_the_broken_run_are_all_seen(tmp_path: Path) -> None:
    told = Told(
        rows=rows(((10.111, 9.967), (9.909, 9.909), (2.836, 9.902), (1.0, 9.902), (1.0, 9.903)))
    )
    for number, wall in enumerate((264.0, 260.0, 55.0, 0.378, 0.387)):
        told.set(number, wall_seconds=wall)
    names = {f"run/epoch-{number:03d}.metadata.json": number for number in range(5)}
    seen = {(each.rule, names.get(each.file)) for each in told.audit(tmp_path)}
    assert seen >= {
        ("mixture-epoch", 2),
        *(("placeholder-loss", 3), ("quick-epoch", 3), ("still-validation", 3)),
        *(("placeholder-loss", 4), ("quick-epoch", 4)),
    }


@pytest.mark.parametrize(
    "content",
    [
        b"42:3:4096",
        b"".join(number.to_bytes(8, "little") for number in (42, 3, 4096)),
        b"".join(number.to_bytes(4, "little") for number in (4096, 3)),
        b"".join(number.to_bytes(8, "big") for number in (3, 4096)),
        b"3",
        b'{"seed": 42, "epoch": 3}',
        b'{"epoch":3,"seed":42,"tokens_seen":4096}',
        b"aprender-train:pretrain:optstate:v1:"
        + b"".join(number.to_bytes(8, "little") for number in (42, 3, 4096)),
    ],
)
def test_a_digest_of_counters_is_found_out(content: bytes, tmp_path: Path) -> None:
    told = Told(
        rows=[{**rows()[0], "epoch": 3, "tokens_seen": 4096, "optimizer_state_sha": sha(content)}]
    )
    found = [each for each in told.audit(tmp_path) if each.rule == "derived-hash"]
    assert len(found) == 1
    assert "epoch 3" in found[0].found


def test_several_devices_are_no_single_peak(tmp_path: Path) -> None:
    told = Told()
    told.beside.update(gpus=[BESIDE["gpu"], "another"], num_parameters=200_000_000)
    assert "impossible-speed" not in {finding.rule for finding in told.audit(tmp_path)}


def test_what_a_rule_says_can_always_be_written(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(
        json.dumps(
            {"target": 1, "target_val_loss": 0.5, "\ud800": "CONVERGED \ud800", "epochs": rows()}
        )
    )
    findings = audit(read_evidence(tmp_path))
    assert "false-success" in {finding.rule for finding in findings}
    "".join(map(str, findings)).encode()
