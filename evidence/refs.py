"""Refs: the only thing that passes between tasks.

A ref is `(kind, sha256 of the artefact's canonical index)`. Equal refs are equal bytes; one type
per kind, so that a type checker refuses shards where a checkpoint is due.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from evidence.errors import WrongRefError

DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Ref:
    """A name for one artefact's content.

    Raises: WrongRefError if the digest is not 64 lower-case hex digits.
    """

    kind: ClassVar[str]
    digest: str

    def __post_init__(self) -> None:
        if not DIGEST.fullmatch(self.digest):
            raise WrongRefError(self.digest, "64 lower-case hex digits")

    def __str__(self) -> str:
        return f"{self.kind}:{self.digest}"

    @property
    def short(self) -> str:
        """The ref as people write it: enough digits to be unique in a store."""
        return f"{self.kind}:{self.digest[:12]}"


class TokensRef(Ref):
    """Token files of a corpus, with its tokenizer and its documents."""

    __slots__ = ()
    kind = "tokens"


class ShardsRef(Ref):
    """Shuffled training and validation rows."""

    __slots__ = ()
    kind = "shards"


class TrainingRef(Ref):
    """A finished training: its step log and its snapshots."""

    __slots__ = ()
    kind = "training"


class EvaluationRef(Ref):
    """What one snapshot scored on one validation split."""

    __slots__ = ()
    kind = "evaluation"


class CheckpointRef(Ref):
    """A sealed model bundle."""

    __slots__ = ()
    kind = "checkpoint"


class TraceRef(Ref):
    """Taps of one model against another's on the same tokens."""

    __slots__ = ()
    kind = "trace"


REF_TYPES: dict[str, type[Ref]] = {
    ref_type.kind: ref_type
    for ref_type in (TokensRef, ShardsRef, TrainingRef, EvaluationRef, CheckpointRef, TraceRef)
}


def parse_ref(text: str) -> Ref:
    """Read `kind:digest`.

    Raises: WrongRefError.
    """
    kind, _, digest = text.partition(":")
    if kind not in REF_TYPES:
        raise WrongRefError(text, f"KIND:DIGEST with KIND one of {', '.join(REF_TYPES)}")
    return REF_TYPES[kind](digest)
