"""Find where a model departs from a reference when nothing but its logits can be had.

A layer adds two branches to the residual stream: attention and feed-forward. With all weights of a
branch zero it adds nothing, in any engine. So both sides are run with the same branches silent, and
those that matter are found by halves: some `2 log2(branches)` runs a fault, instead of a pass that
sees every site. What is found is a branch; which of its operations is wrong, logits do not tell.

Shapes: B rows, T positions, V vocabulary.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from model.bisection import (
    FAULT,
    NO_FAULT,
    UNEXPLAINED,
    UNSEEN,
    lent_to,
    logits_floors,
)
from model.local_error import LogitsDistance, logits_distance
from model.logits_sides import LogitsSide, silenced
from model.sides import PrecisionSide, require_same_shape
from model.teacher_forcing import coarser, free_logits
from model.tensor_diff import (
    SettingDifference,
    TensorDifference,
    diff_weights,
    differing_settings,
    stored_in_fewer_bits,
)

ATTENTION, FEED_FORWARD = "attention", "feed-forward"
PARTS = {
    ATTENTION: ("input_layernorm", "self_attn"),
    FEED_FORWARD: ("post_attention_layernorm", "mlp"),
}
ENDS = "embedding, final norm or head"
"""What every run goes through."""
IN_WEIGHTS, IN_ENGINE = "its weights explain it", "its weights do not explain it"


@dataclass(frozen=True, slots=True)
class Branch:
    """What a layer adds to the residual stream, at one of its two places."""

    layer: int
    part: str

    def __str__(self) -> str:
        return f"layer {self.layer} {self.part}"

    def holds(self, tensor: str) -> bool:
        """Say whether a tensor belongs to it."""
        prefixes = (f"model.layers.{self.layer}.{module}." for module in PARTS[self.part])
        return tensor.startswith(tuple(prefixes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Both sides with the same branches left to speak."""

    num_branches: int
    distance: LogitsDistance
    bar_relative_l2: float
    """What rounding explains, measured with the same branches."""

    @property
    def departs(self) -> bool:
        """Whether more than rounding lies between the two; NaN does."""
        return not self.distance.max_relative_l2 <= self.bar_relative_l2


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchFault:
    """A branch that departs when it alone speaks, or the ends when none does."""

    place: str
    alone: Trial
    cause: str
    because: Sequence[str]
    """Differences of weights in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchSearch:
    """A verdict from logits alone, and everything that it rests on."""

    reference: str
    candidate: str
    num_positions: int
    settings: Sequence[SettingDifference]
    tensors: Sequence[TensorDifference]
    lent: Sequence[str]
    whole: Trial
    faults: Sequence[BranchFault]
    without: Trial | None
    """All named branches silent: if they are all, the two agree."""
    control: Trial | None
    """As many others silent instead."""
    num_runs: int
    """Of the candidate."""

    @property
    def verdict(self) -> str:
        """Judge: what was named must explain the departure, or nothing does."""
        if self.whole.departs:
            return FAULT if self._is_explained else UNEXPLAINED
        is_other = self.settings or any(each.name not in self.lent for each in self.tensors)
        return UNSEEN if is_other else NO_FAULT

    @property
    def _is_explained(self) -> bool:
        is_left = self.without is not None and self.without.departs
        return bool(self.faults) and all(one.alone.departs for one in self.faults) and not is_left


def search_branches(
    reference: PrecisionSide, candidate: LogitsSide, ids_BT: Tensor
) -> BranchSearch:
    """Compare predictions, and halve what speaks until single branches depart.

    Raises: DifferentProgramsError if the two are not the same computation.
    """
    require_same_shape(reference.settings, candidate.settings)
    tensors = diff_weights(reference.weights(), candidate.weights())
    num_matrices = sum(weight.ndim == 2 for weight in candidate.weights().values())
    lent = stored_in_fewer_bits(tensors, num_matrices)
    own = [each for each in tensors if each.name not in lent]
    trials = _Trials(reference, candidate, ids_BT)
    with lent_to(reference, candidate.weights(), lent):
        whole = trials.of(trials.all)
        found = _explain(trials, own) if whole.departs else _Found([], None, None)
    return BranchSearch(
        reference=reference.name,
        candidate=candidate.name,
        num_positions=ids_BT.numel(),
        settings=differing_settings(reference.settings, candidate.settings),
        tensors=tensors,
        lent=lent,
        whole=whole,
        faults=found.faults,
        without=found.without,
        control=found.control,
        num_runs=trials.num_runs,
    )


def by_halves(
    branches: Sequence[Branch], departs: Callable[[Collection[Branch]], bool]
) -> list[Branch]:
    """Find the branches that depart, of some that do together."""
    if len(branches) == 1:
        return list(branches)
    first, second = branches[: len(branches) // 2], branches[len(branches) // 2 :]
    found = by_halves(first, departs) if departs(first) else []
    if not found or departs(second):
        found += by_halves(second, departs)
    return found


@dataclass
class _Trials:
    reference: PrecisionSide
    candidate: LogitsSide
    ids_BT: Tensor
    num_runs: int = 0
    known: dict[frozenset[Branch], Trial] = field(default_factory=dict)

    @property
    def all(self) -> list[Branch]:
        layers = range(self.reference.settings.num_layers)
        return [Branch(layer, part) for layer in layers for part in PARTS]

    def of(self, speaking: Collection[Branch]) -> Trial:
        """Run both sides with some branches, once."""
        key = frozenset(speaking)
        if key not in self.known:
            self.known[key] = self._run(key)
        return self.known[key]

    @contextmanager
    def lending(self, tensors: Sequence[TensorDifference]) -> Iterator[None]:
        """Give the reference some of the candidate's tensors, where it has such."""
        own, other = self.reference.weights(), self.candidate.weights()
        names = [each.name for each in tensors if each.name in own and each.name in other]
        same = [name for name in names if own[name].shape == other[name].shape]
        known, self.known = self.known, {}
        try:
            with lent_to(self.reference, other, same):
                yield
        finally:
            self.known = known

    def _run(self, speaking: frozenset[Branch]) -> Trial:
        self.num_runs += 1
        silent = [branch for branch in self.all if branch not in speaking]
        names = [
            name
            for name in self.reference.weights()
            if any(branch.holds(name) for branch in silent)
        ]
        candidate, rounding = self.candidate, self.candidate.round_inputs
        exactly = partial(self.reference.run_in, torch.float64)
        alike = partial(self.reference.run_in, candidate.dtype)
        if rounding:
            alike = partial(self.reference.run_rounded, rounding)
        with silenced(self.reference.weights(), names):
            own_BTV = alike_BTV = free_logits(self.reference.run, self.ids_BT)
            if rounding or coarser(candidate.dtype, own_BTV.dtype) is not own_BTV.dtype:
                alike_BTV = free_logits(alike, self.ids_BT)
            floor = _distance(free_logits(exactly, self.ids_BT), alike_BTV)
        found_BTV = candidate.logits(self.ids_BT, names)
        return Trial(
            num_branches=len(speaking),
            distance=_distance(own_BTV, found_BTV),
            bar_relative_l2=logits_floors(rounding) * floor.max_relative_l2,
        )


@dataclass(frozen=True, slots=True)
class _Found:
    faults: Sequence[BranchFault]
    without: Trial | None
    control: Trial | None


def _explain(trials: _Trials, tensors: Sequence[TensorDifference]) -> _Found:
    """Try the ends first: every run goes through them, so none tells of a branch if they depart."""
    ends = trials.of([])
    if not ends.departs:
        return _explain_branches(trials, tensors)
    outside = [each for each in tensors if not any(b.holds(each.name) for b in trials.all)]
    with trials.lending(outside):
        is_mended = not trials.of([]).departs
        cause = IN_WEIGHTS if is_mended else IN_ENGINE
        fault = BranchFault(place=ENDS, alone=ends, cause=cause, because=_because(outside))
        if not is_mended or not trials.of(trials.all).departs:
            return _Found([fault], None, None)
        found = _explain_branches(trials, tensors)
    return _Found([fault, *found.faults], found.without, found.control)


def _explain_branches(trials: _Trials, tensors: Sequence[TensorDifference]) -> _Found:
    named = by_halves(trials.all, lambda speaking: trials.of(speaking).departs)
    faults = [
        _fault(trials, branch, [each for each in tensors if branch.holds(each.name)])
        for branch in named
    ]
    others = [branch for branch in trials.all if branch not in named]
    control = [branch for branch in trials.all if branch not in others[: len(named)]]
    return _Found(faults, trials.of(others), trials.of(control) if others else None)


def _fault(trials: _Trials, branch: Branch, within: Sequence[TensorDifference]) -> BranchFault:
    alone = trials.of([branch])
    with trials.lending(within):
        is_explained = bool(within) and not trials.of([branch]).departs
    cause = IN_WEIGHTS if is_explained else IN_ENGINE
    return BranchFault(place=str(branch), alone=alone, cause=cause, because=_because(within))


def _distance(left_BTV: Tensor, right_BTV: Tensor) -> LogitsDistance:
    """Compare predictions; what is not finite on both sides is the same."""
    if torch.equal(left_BTV.isfinite(), right_BTV.isfinite()):
        left_BTV, right_BTV = (
            each.nan_to_num(0.0, posinf=0.0, neginf=0.0) for each in (left_BTV, right_BTV)
        )
    return logits_distance(left_BTV, right_BTV)


def _because(tensors: Sequence[TensorDifference]) -> list[str]:
    return [
        f"{each.name}: "
        + (each.explanation or f"{each.num_differing} of {each.num_elements} values differ")
        for each in tensors
    ]
