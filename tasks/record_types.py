"""The shapes of what is written under `evidence/`, from which the published schemas are made.

Records may grow: a key that is not named here is no fault, one that is named must be there.
"""

from typing import Any, Literal

from pydantic import Field
from typing_extensions import Annotated, NotRequired, TypedDict  # noqa: UP035  # before 3.12

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Ref = Annotated[str, Field(pattern="^[a-z0-9]+:[0-9a-f]{64}$")]
Time = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00$")]
Head = Annotated[str, Field(pattern="^[1-9][0-9]*:[0-9a-f]{64}$")]
Number = int | float | str | None
Verdict = Literal["pass", "FAIL", "missed aim"]


class Provenance(TypedDict):
    """Code, packages and machine; null where one is not to be had."""

    git_commit: str | None
    git_dirty_sha256: Sha256 | None
    lock_sha256: Sha256 | None
    python: str
    packages: dict[str, str]
    platform: str
    cpu: str
    num_cpus: int
    memory_bytes: int
    gpus: list[str]


class Gate(TypedDict):
    """A gate with the two numbers that it compared."""

    id: str
    sentence: str
    measured: str
    value: float | None
    operator: Literal["<", "<=", "==", ">=", ">"]
    threshold: float | str
    threshold_value: float | None
    required: bool
    if_measured: bool
    verdict: Verdict


class StageGate(Gate):
    """A gate with its stage."""

    stage: str


class Recipe(TypedDict):
    """All that determines a stage's result."""

    stage: str
    version: int
    settings: dict[str, Any]
    inputs: dict[str, Ref]


class Error(TypedDict):
    """Why a stage failed."""

    type: str
    message: str


class Decoding(TypedDict):
    """How long tokens took that were drawn one after the other, each time."""

    tokens: int
    seconds: list[float]
    device: str


class Observed(TypedDict, total=False):
    """What was seen of the machine and the moment while a stage made its output."""

    decoding: Decoding
    chain_head: Head


class StageRecord(TypedDict):
    """`<stage>.metadata.json`."""

    schema: Literal["assay.stage/1"]
    stage: str
    recipe: Recipe
    recipe_sha256: Sha256
    thresholds: dict[str, float]
    tracking: NotRequired[dict[str, str | None]]
    provenance: Provenance
    started: Time
    outcome: Literal["produced", "reused", "failed"]
    reused_from: NotRequired[str | None]
    error: NotRequired[Error]
    output: Ref | None
    observed: NotRequired[Observed]
    measurements: dict[str, Number]
    gates: list[Gate]
    wall_seconds: float
    record_sha256: Sha256


class EpochRecord(TypedDict):
    """`epoch-NNN.metadata.json`: the reference's nine fields first."""

    epoch: int
    train_loss: float
    val_loss: float
    train_ppl: float
    val_ppl: float
    optimizer_state_sha: Sha256
    wall_seconds: float
    tokens_seen: int
    grad_norm_max: float
    step: int
    val_loss_standard_error: float | None
    val_tokens: int
    val_documents: int
    val_bits_per_byte: float
    learning_rate: float
    tokens_per_second: float
    files: dict[str, Sha256]
    shards: Ref
    cursor_rows: int
    corpus_passes: float
    record_sha256: Sha256


class PlanRecord(TypedDict):
    """`plan.json`, written before the first stage."""

    schema: Literal["assay.plan/1"]
    run: str
    request: dict[str, Any]
    settings: dict[str, Any]
    settings_sha256: Sha256
    started: Time
    process: int
    chain_head: Head | None
    provenance: Provenance
    preregistration: NotRequired[Sha256]
    record_sha256: Sha256


class RunRecord(TypedDict):
    """`metadata.json`, written last."""

    schema: Literal["assay.run/1"]
    run: str
    outcome: Literal["completed", "failed", "interrupted", "crashed"]
    error: str | None
    started: Time
    finished: Time
    settings_sha256: Sha256
    recipes: dict[str, Sha256]
    refs: dict[str, Ref | None]
    gates: list[StageGate]
    provenance: Provenance
    files: dict[str, Sha256]
    parent: Sha256 | None
    record_sha256: Sha256


class RegisteredPlan(TypedDict):
    """`plans/<name>-<digest>.plan.json`, written and chained before a run."""

    schema: Literal["assay.preregistration/1"]
    name: str
    request: dict[str, Any]
    settings: dict[str, Any]
    settings_sha256: Sha256
    stage_versions: dict[str, int]
    written: Time
    provenance: Provenance
    record_sha256: Sha256


class ChainLine(TypedDict):
    """A line of `CHAIN.jsonl`."""

    seq: int
    event: Literal["planned", "recorded", "withdrawn"]
    run: str
    record_sha256: Sha256
    time: Time
    prev: Sha256 | None
    reason: NotRequired[str]


class Subject(TypedDict):
    """What a statement is about."""

    name: str
    digest: dict[str, str]


class Scope(TypedDict):
    """Of what numbers are; an outcome without numbers has none."""

    n: NotRequired[int]
    counted: NotRequired[str]
    tokens: NotRequired[int]
    dtype: NotRequired[str]
    data: NotRequired[str]


class BuildDefinition(TypedDict):
    """What was asked, on what: SLSA's shape."""

    buildType: str
    externalParameters: dict[str, Any]
    internalParameters: dict[str, Any]
    resolvedDependencies: list[Subject]


class RunDetails(TypedDict):
    """By what, when, and what was left beside: SLSA's shape."""

    builder: dict[str, Any]
    metadata: dict[str, Any]
    byproducts: list[Subject]


class Claim(TypedDict):
    """A gate as a claim."""

    id: str
    sentence: str
    measured: float | None
    operator: str
    bar: float | None
    verdict: Verdict


class Predicate(TypedDict):
    """What is stated."""

    buildDefinition: BuildDefinition
    runDetails: RunDetails
    outcome: Literal["produced", "reused", "failed"]
    verdict: Literal["pass", "fail", "inconclusive"]
    scope: Scope
    measurements: dict[str, Number]
    claims: list[Claim]


class Statement(TypedDict):
    """A line of `run.intoto.jsonl`."""

    _type: Literal["https://in-toto.io/Statement/v1"]
    subject: list[Subject]
    predicateType: Literal["urn:assay:measured-provenance:v1"]
    predicate: Predicate
