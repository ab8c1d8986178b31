"""Name the operations in which a model departs from a reference, and prove them the cause.

From what is cheap and exact to what is not, stopping once nothing is left to explain: settings,
weights, predictions, every operation by itself, patches. A verdict needs a second implementation;
without one there is none.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from model.causal_proof import CausalProof, prove
from model.local_error import LogitsDistance, SiteError
from model.massive_activations import MassiveActivation, find_massive
from model.sides import PrecisionSide, Rounding, Side, common_sites, kind_of
from model.taps import LOGITS, sites
from model.teacher_forcing import (
    Keep,
    NoiseFloor,
    capture,
    compare_forced,
    compare_free,
    measure_floor,
)
from model.tensor_diff import (
    SettingDifference,
    TensorDifference,
    diff_weights,
    differing_settings,
    stored_in_fewer_bits,
)

NO_FAULT, FAULT = "no fault", "fault"
UNEXPLAINED = "predictions differ, and no operation by itself"
UNSEEN = "weights differ, without effect on these tokens"
FLOORS = 10.0
"""Errors of so many noise floors are explained by rounding."""
READ_BY = {
    "rope_theta": ("q_rope", "k_rope"),
    "rms_norm_eps": ("attn_norm", "ffn_norm", "final_norm"),
    "attention_bias": ("q", "k", "v"),
    "tie_embeddings": ("logits",),
}
"""The kinds of sites that compute with a setting."""
FLOORS_OF_ROUNDED_INPUTS = 2.0
"""The same, where an engine rounds inputs to few bits: then that is nearly all the error."""
LOGITS_FLOORS_OF_ROUNDED_INPUTS = 4.0
"""The same of free passes, in which two engines' roundings part and become two draws."""
MAX_LEFT_OUT = 64
"""Named sites that are left out in turn, each in a pass of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One site that departs by itself."""

    error: SiteError
    floor: float
    because: Sequence[str]
    """Differences of weights and settings that feed this operation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bisection:
    """A verdict, and everything that it rests on."""

    reference: str
    candidate: str
    num_positions: int
    settings: Sequence[SettingDifference]
    tensors: Sequence[TensorDifference]
    lent: Sequence[str]
    """Tensors in fewer bits, as the whole candidate is; the reference computed with them."""
    unpatched: LogitsDistance
    logits_floor: LogitsDistance | None
    """The reference's own distance from itself in float64; None where nothing differs at all."""
    free: Mapping[str, SiteError]
    local: Mapping[str, SiteError]
    floors: Mapping[str, float]
    """By kind of site."""
    num_floors: float
    """An error of so many floors is explained by rounding."""
    num_logits_floors: float
    """The same of the predictions."""
    faults: Sequence[Fault]
    """In the order of execution: the first is the earliest."""
    proof: CausalProof | None
    massive: Sequence[tuple[MassiveActivation, bool]]
    """The reference's, each with whether the candidate's operation agrees: then it is expected."""

    @property
    def verdict(self) -> str:
        """Judge: a fault is a site that departs by itself; nothing else is called one."""
        if self.faults:
            return FAULT
        if self.logits_floor and not (
            self.unpatched.max_relative_l2
            <= self.num_logits_floors * self.logits_floor.max_relative_l2
        ):
            return UNEXPLAINED
        is_other = self.settings or any(each.name not in self.lent for each in self.tensors)
        return UNSEEN if is_other else NO_FAULT


def bisect(
    reference: PrecisionSide, candidate: Side, ids_BT: Tensor, keep_in: Keep = dict
) -> Bisection:
    """Compare a candidate with a reference on the same tokens.

    Where the candidate is stored in fewer bits, its tensors are lent to the reference, all but
    those that differ by more: so the format is reported as what it is, and hides nothing.

    Raises: DifferentProgramsError if the two are not the same computation.
    """
    shown = common_sites(reference, candidate)
    settings = differing_settings(reference.settings, candidate.settings)
    tensors = diff_weights(reference.weights(), candidate.weights())
    num_matrices = sum(weight.ndim == 2 for weight in candidate.weights().values())
    lent = stored_in_fewer_bits(tensors, num_matrices)
    num_floors = FLOORS_OF_ROUNDED_INPUTS if candidate.round_inputs else FLOORS
    num_logits_floors = logits_floors(candidate.round_inputs)
    with lent_to(reference, candidate.weights(), lent):
        passes = _compare(
            reference, candidate, ids_BT, shown, (num_floors, num_logits_floors), keep_in
        )
    own = [each for each in tensors if each.name not in lent]
    return Bisection(
        reference=reference.name,
        candidate=candidate.name,
        num_positions=ids_BT.numel(),
        settings=settings,
        tensors=tensors,
        lent=lent,
        unpatched=passes.unpatched,
        logits_floor=passes.floor.logits if passes.floor else None,
        free=passes.free,
        local=passes.local,
        floors=passes.floor.local if passes.floor else {},
        num_floors=num_floors,
        num_logits_floors=num_logits_floors,
        faults=_faults(passes, settings, own),
        proof=passes.proof,
        massive=[(one, one.site not in passes.beyond) for one in passes.massive],
    )


def logits_floors(rounding: Rounding | None) -> float:
    """Return how many floors of the predictions rounding explains."""
    return LOGITS_FLOORS_OF_ROUNDED_INPUTS if rounding else FLOORS


@dataclass(frozen=True, slots=True, kw_only=True)
class _Passes:
    unpatched: LogitsDistance
    free: Mapping[str, SiteError]
    local: Mapping[str, SiteError]
    beyond: Mapping[str, Tensor]
    floor: NoiseFloor | None
    proof: CausalProof | None
    massive: Sequence[MassiveActivation]


def _compare(
    reference: PrecisionSide,
    candidate: Side,
    ids_BT: Tensor,
    shown: Sequence[str],
    num_floors: tuple[float, float],
    keep_in: Keep,
) -> _Passes:
    """Make the passes, as few as it takes: a free one that agrees to the bit is the last."""
    values = capture(reference, ids_BT, shown, keep_in)
    free = compare_free(candidate, ids_BT, values, {})
    assert free.logits is not None, "every side shows its logits"
    local, floor, proof = free, None, None
    if any(error.max_relative_l2 != 0 for error in free.errors.values()):
        floor = measure_floor(reference, ids_BT, values, _dtype(candidate), candidate.round_inputs)
        bars = floor.bars(shown, num_floors[0])
        local = compare_forced(candidate, ids_BT, values, bars, keep_in)
        if local.beyond:
            proof = prove(
                reference,
                candidate,
                ids_BT,
                values,
                local.beyond,
                bar_relative_l2=num_floors[1] * floor.logits.max_relative_l2,
                max_left_out=MAX_LEFT_OUT,
            )
    return _Passes(
        unpatched=free.logits,
        free=free.errors,
        local=local.errors,
        beyond=local.beyond,
        floor=floor,
        proof=proof,
        massive=find_massive(values),
    )


def _dtype(side: Side) -> torch.dtype:
    found = getattr(torch, side.declarations[LOGITS].dtype)
    assert isinstance(found, torch.dtype)
    return found


@contextmanager
def lent_to(reference: Side, other: Mapping[str, Tensor], names: Sequence[str]) -> Iterator[None]:
    """Give the reference some of another side's tensors for the length of a block."""
    own = reference.weights()
    kept = {name: own[name].clone() for name in names}
    for name in names:
        own[name].copy_(other[name])
    try:
        yield
    finally:
        for name, tensor in kept.items():
            own[name].copy_(tensor)


def _faults(
    passes: _Passes, settings: Sequence[SettingDifference], tensors: Sequence[TensorDifference]
) -> list[Fault]:
    return [
        Fault(
            error=passes.local[site],
            floor=passes.floor.local[kind_of(site)] if passes.floor else 0.0,
            because=[*_settings_of(site, settings), *_tensors_of(site, tensors)],
        )
        for site in passes.beyond
    ]


def _settings_of(site: str, settings: Sequence[SettingDifference]) -> Iterator[str]:
    for each in settings:
        if kind_of(site) in READ_BY[each.name]:
            yield f"{each.name} is {each.candidate}, not {each.reference}"


def _tensors_of(site: str, tensors: Sequence[TensorDifference]) -> Iterator[str]:
    num_layers = 1 + int(site.split(".")[1]) if "." in site else 0
    module = sites(num_layers)[site]
    for each in tensors:
        if each.name.rpartition(".")[0] == module:
            why = each.explanation or f"{each.num_differing} of {each.num_elements} values differ"
            yield f"{each.name}: {why}"
