"""Whether a run's model may be shipped: the criteria of SHIP-TWO-001, judged from evidence alone.

A criterion names a measurement of a stage's record and a bound of the run's plan. What nothing has
measured is not measured: no criterion is met by default, and none knows how its value came about.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evidence.canonical import file_sha256
from evidence.errors import EvidenceError
from evidence.gates import Gate, judge
from evidence.records import EPOCH_FIELDS, RUN_RECORD, SEAL, STAGES, flatten, read_record
from tasks.run_record import PLAN, Run, all_runs

SECONDS_A_DAY = 86_400
MET, NOT_MET, NOT_MEASURED = "met", "not met", "not measured"


def _gate(id: str, sentence: str, measured: str, operator: Any, threshold: float | str) -> Gate:  # noqa: A002
    return Gate(id=id, sentence=sentence, measured=measured, operator=operator, threshold=threshold)


CRITERIA = (
    _gate("AC-SHIP2-001", "all sealed files describe one architecture",
          "checkpoint.settings_differ", "==", 0),
    _gate("AC-SHIP2-002", "documents were decoded again",
          "pretokenize.decoded_documents", ">=", "acceptance.min_round_trip_documents"),
    _gate("AC-SHIP2-002", "and every one is, byte for byte, what it was",
          "pretokenize.mismatched_documents", "==", 0),
    _gate("AC-SHIP2-003", "the validation loss is low enough",
          "evaluate.val_loss", "<=", "acceptance.max_val_loss"),
    _gate("AC-SHIP2-004", "training took few enough days",
          "train.days", "<=", "acceptance.max_training_days"),
    _gate("AC-SHIP2-005", "the native checkpoint holds what the others hold",
          "checkpoint.differing_tensors", "==", 0),
    _gate("AC-SHIP2-005", "it has enough parameters",
          "checkpoint.parameters", ">=", "acceptance.min_parameters"),
    _gate("AC-SHIP2-005", "and not too many",
          "checkpoint.parameters", "<=", "acceptance.max_parameters"),
    _gate("AC-SHIP2-006", "every required gate of every stage passes",
          "run.failed_gates", "==", 0),
    _gate("AC-SHIP2-007", "enough completions were parsed",
          "evaluate.syntax_completions", ">=", "acceptance.min_syntax_completions"),
    _gate("AC-SHIP2-007", "and are valid Python",
          "evaluate.syntax_valid_share", ">=", "acceptance.min_syntax_valid_share"),
    _gate("AC-SHIP2-008", "HumanEval was run whole",
          "evaluate.humaneval_problems", ">=", "acceptance.min_humaneval_problems"),
    _gate("AC-SHIP2-008", "its canonical solutions pass",
          "evaluate.canonical_pass_at_1", "==", 1),
    _gate("AC-SHIP2-008", "and so does enough of what the model writes",
          "evaluate.humaneval_pass_at_1", ">=", "acceptance.min_humaneval_pass_at_1"),
    _gate("AC-SHIP2-009", "the GGUF file was asked enough prompts",
          "checkpoint.gguf_prompts", ">=", "acceptance.min_gguf_prompts"),
    _gate("AC-SHIP2-009", "and gives the model's logits",
          "checkpoint.gguf_cosine_distance", "<=", "acceptance.max_gguf_cosine_distance"),
    _gate("AC-SHIP2-010", "decoding is fast enough",
          "evaluate.decode_tokens_per_second", ">=", "acceptance.min_decode_tokens_per_second"),
    _gate("AC-SHIP2-011", "the training was repeated for enough steps",
          "train.repeated_steps", ">=", "acceptance.min_repeated_steps"),
    _gate("AC-SHIP2-011", "with the same losses",
          "train.repeat_difference_nats", "<=", "acceptance.max_repeat_difference_nats"),
    _gate("AC-SHIP2-012", "the bundle says where everything in it is from",
          "checkpoint.publish_faults", "==", 0),
)  # fmt: skip

GATES = (
    _gate("GATE-TRAIN-001", "every step reports everything, and all of it is finite",
          "train.flawed_fields", "==", 0),
    _gate("GATE-TRAIN-002", "every epoch has a record with the nine fields",
          "run.epoch_records", "==", "train.epochs"),
    _gate("INV-TRAIN-003", "the recorded digests are those of the optimizer states",
          "train.wrong_digests", "==", 0),
    _gate("GATE-TRAIN-003", "the validation loss reached the target",
          "train.best_val_loss", "<=", "train.target_val_loss"),
    _gate("GATE-TRAIN-004", "all steps were made, or it stopped early as planned",
          "train.steps", "==", "train.steps_due"),
    _gate("GATE-TRAIN-005", "no epoch diverged",
          "train.val_loss_growth", "<=", "thresholds.max_val_loss_growth"),
    _gate("GATE-TRAIN-006", "the same seed gives the same losses",
          "train.repeat_difference_nats", "<=", "acceptance.max_repeat_difference_nats"),
    _gate("GATE-TRAIN-008", "tokens were read at some speed",
          "train.tokens_per_second", ">", 0),
    _gate("GATE-TRAIN-EXHAUST", "no loss stands still",
          "train.repeated_values", "<=", "thresholds.max_repeated_values"),
    _gate("GATE-GPUTRAIN-003", "the GPU was busy",
          "train.gpu_busy_share", ">=", "thresholds.min_gpu_busy_share"),
    _gate("GATE-ARCH-370M-011", "the tokenizer's vocabulary is the model's",
          "pretokenize.vocab_size", "==", "model.vocab_size"),
    _gate("GATE-BPE-001", "the vocabulary is large enough",
          "pretokenize.vocab_size", ">=", "acceptance.min_vocab_size"),
    _gate("GATE-BPE-001", "and not too large",
          "pretokenize.vocab_size", "<=", "acceptance.max_vocab_size"),
    _gate("INV-DATA-006", "no document is in both splits",
          "shard.shared_documents", "==", 0),
    _gate("GATE-CORPUS-CHINCHILLA", "there were enough tokens for the parameters",
          "train.tokens_per_parameter", ">=", "acceptance.min_tokens_per_parameter"),
)  # fmt: skip

SIZES = (
    *("pretokenize.decoded_documents", "pretokenize.vocab_size"),
    *("train.tokens_per_parameter", "train.repeated_steps", "checkpoint.parameters"),
    *("evaluate.syntax_completions", "evaluate.humaneval_problems", "checkpoint.gguf_prompts"),
)
"What settings and corpus decide, and no training."


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One condition of a criterion, and what the evidence says of it."""

    id: str
    verdict: str
    value: float | None
    operator: str
    threshold: float | None
    sentence: str
    measured: str
    record: str
    "The file that holds the value, and the beginning of its digest; empty where there is none."


def judge_criteria(run: Run, criteria: tuple[Gate, ...]) -> list[Judged]:
    """Judge criteria by a run's records and its plan."""
    stages, settings = run.stage_records(), flatten(run.plan()["settings"])
    known = {**settings, **_measured(stages), **_derived(run, stages)}
    return [_judged(gate, known, stages) for gate in criteria]


def out_of_reach(run: Run, judged: Sequence[Judged]) -> list[str]:
    """Name the criteria that nothing the model learns could meet: too small, or not measured."""
    finished = {stage for stage, record in run.stage_records().items() if record["output"]}
    found = [
        each.id
        for each in judged
        if (each.verdict == NOT_MET and each.measured in SIZES)
        or (each.verdict == NOT_MEASURED and each.measured.partition(".")[0] in finished)
    ]
    return list(dict.fromkeys(found))


def plan_faults(run: Run) -> list[str]:
    """Say whether the bounds are those with which the run ended; it lists the digest of its plan.

    Raises: BrokenSealError, MalformedJsonError.
    """
    record = run.record()
    if record is None:
        return []
    found, listed = file_sha256(run.directory / PLAN), record["files"].get(PLAN, "nothing")
    if found == listed:
        return []
    return [f"{PLAN}: sha256 is {found[:12]}, {RUN_RECORD} says {listed[:12]}: bounds may differ"]


def _judged(gate: Gate, known: Mapping[str, Any], stages: Mapping[str, Any]) -> Judged:
    verdict = judge(gate, known)
    word = MET if verdict.passed else NOT_MET
    if verdict.value is None or verdict.threshold is None:
        word = NOT_MEASURED
    stage = gate.measured.partition(".")[0]
    record = f"{stage} {stages[stage][SEAL][:12]}" if stage in stages else ""
    return Judged(
        id=gate.id,
        verdict=word,
        value=verdict.value,
        operator=gate.operator,
        threshold=verdict.threshold,
        sentence=gate.sentence,
        measured=gate.measured,
        record=record if verdict.value is not None else "",
    )


def _measured(stages: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"{stage}.{name}": value
        for stage, record in stages.items()
        for name, value in record["measurements"].items()
    }


def _derived(run: Run, stages: Mapping[str, Any]) -> dict[str, float]:
    """Compute what follows from several records."""
    found: dict[str, float] = {}
    if set(stages) == set(STAGES):
        required = [gate for gate in run.gates() if gate["required"]]
        found["run.failed_gates"] = sum(gate["verdict"] != "pass" for gate in required)
    train = stages.get("train")
    if train and train["measurements"]:
        measured = train["measurements"]
        seconds = measured["tokens_seen"] / measured["tokens_per_second"]
        found["train.days"] = seconds / SECONDS_A_DAY
        found["run.epoch_records"] = sum(
            set(EPOCH_FIELDS) <= epoch.keys() for epoch in _epochs(run).values()
        )
        found |= _repeated(run, train)
    return found


def _repeated(run: Run, train: Mapping[str, Any]) -> dict[str, float]:
    """Compare the epochs with those of another training by the same recipe, if there is one."""
    ours = _epochs(run)
    for theirs in _repetitions(run, train):
        if common := sorted(ours.keys() & theirs.keys()):
            differences = [
                abs(ours[epoch][name] - theirs[epoch][name])
                for epoch in common
                for name in ("train_loss", "val_loss")
            ]
            return {
                "train.repeated_steps": ours[common[-1]]["step"],
                "train.repeat_difference_nats": max(differences),
            }
    return {}


def _repetitions(run: Run, train: Mapping[str, Any]) -> Iterator[dict[int, Any]]:
    """Yield the epochs of runs that trained by this recipe and did not take over this training."""
    for other in all_runs():
        # What another run's damaged records say counts for nothing, and is its own affair.
        with contextlib.suppress(EvidenceError):
            record = other.stage_records().get("train") if other.name != run.name else None
            if record is None or record["output"] in (None, train["output"]):
                continue
            if record["recipe_sha256"] == train["recipe_sha256"]:
                yield _epochs(other)


def _epochs(run: Run) -> dict[int, Any]:
    records: list[Any] = [read_record(path) for path in run.directory.glob("epoch-*.metadata.json")]
    return {epoch["epoch"]: epoch for epoch in records}
