"""Artefacts that a person named, held to what is due before anything starts."""

from pathlib import Path
from typing import TypeVar

from evidence.errors import WrongRefError
from evidence.refs import REF_TYPES, CheckpointRef, EvaluationRef, Ref, ShardsRef, TokensRef
from tasks.store import open_store

RefT = TypeVar("RefT", bound=Ref)

DUE: dict[str, type[Ref]] = {
    "tokens": TokensRef,
    "shards": ShardsRef,
    "evaluation": EvaluationRef,
    "checkpoint": CheckpointRef,
}
"What each argument of a stage's flow must name."


def resolve(text: str, ref_type: type[RefT]) -> RefT:
    """Return the artefact that a person named, if it is of the kind that is due.

    Raises: WrongRefError, NotFoundError, AmbiguousError.
    """
    ref = open_store().resolve(text)
    if not isinstance(ref, ref_type):
        raise WrongRefError(text, f"a {ref_type.kind} ref")
    return ref


def resolve_evaluation(text: str) -> EvaluationRef:
    """Return the evaluation that a person named, if it scored a training.

    Raises: WrongRefError, NotFoundError, AmbiguousError, ArtefactDamagedError.
    """
    ref = resolve(text, EvaluationRef)
    if open_store().open(ref).index["content"]["training"] is None:
        raise WrongRefError(text, "an evaluation of a training: files are a model already")
    return ref


def require(arguments: dict[str, str]) -> None:
    """Refuse arguments of a stage's flow that do not name what is due.

    Raises: WrongRefError, NotFoundError, AmbiguousError, UnknownModelError, ArtefactDamagedError.
    """
    for name, text in arguments.items():
        if name == "evaluation":
            resolve_evaluation(text)
        elif name in DUE:
            resolve(text, DUE[name])
        elif name == "model" and (_is_ref(text) or not Path(text).exists()):
            # Imports torch, which the other refs do without.
            from tasks.scored_model import scored

            scored(text)


def _is_ref(text: str) -> bool:
    return text.partition(":")[0] in REF_TYPES
