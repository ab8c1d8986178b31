"""Run a model on another's intermediate values, so that every operation answers for itself alone.

Free, an error at one operation is an error at all that follow. Here each value is recorded and then
overwritten with the reference's before anything reads it: what remains is each operation's own.

Shapes: B rows, T positions, C channels, V vocabulary.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from model.llama import LlamaSettings, rope_tables
from model.local_error import (
    LogitsDistance,
    SiteError,
    logits_distance,
    relative_l2,
    site_error,
)
from model.sides import PrecisionSide, Rounding, Side, Visit, kind_of, require_equal
from model.taps import EMBED, LOGITS

Values = Mapping[str, Tensor]
Bars = Mapping[str, float]
Run = Callable[[Tensor, Visit], None]
Keep = Callable[[], MutableMapping[str, Tensor]]
"""Begins a mapping that values are kept in: in memory, or in a file where they are too many."""


def capture(
    side: Side, ids_BT: Tensor, sites: Collection[str], keep_in: Keep = dict
) -> MutableMapping[str, Tensor]:
    """Run freely and keep the values of some sites."""
    values = keep_in()

    def keep(site: str, value: Tensor) -> None:
        if site in sites:
            require_equal(f"{site} (positions)", tuple(value.shape[:2]), tuple(ids_BT.shape))
            values[site] = value.clone()

    side.run(ids_BT, keep)
    _require_shown(values, sites)
    return values


@dataclass(frozen=True, slots=True)
class Comparison:
    """A candidate's pass beside the reference's values."""

    errors: Mapping[str, SiteError]
    """In the order of the candidate's execution."""
    beyond: Mapping[str, Tensor]
    """The candidate's own values where one is beyond the bar; of a forced pass alone."""
    logits: LogitsDistance | None
    """Of a free pass alone."""


def compare_free(candidate: Side, ids_BT: Tensor, reference: Values, bars: Bars) -> Comparison:
    """Compare every site of a free pass: errors add up along the way."""
    return _compare(candidate.run, ids_BT, reference, bars, force=False)


def compare_forced(
    candidate: Side, ids_BT: Tensor, reference: Values, bars: Bars, keep_in: Keep = dict
) -> Comparison:
    """Compare every site of a pass whose every input is the reference's."""
    return _compare(candidate.run, ids_BT, reference, bars, force=True, keep_in=keep_in)


def run_patched(
    side: Side, ids_BT: Tensor, patches: Values, sites: Iterable[str] | None = None
) -> Tensor:
    """Run freely but for some sites, which are overwritten; return the logits.

    Shapes: (B, T) -> (B, T, V).
    """
    chosen = set(patches if sites is None else sites)
    logits: list[Tensor] = []

    def patch(site: str, value: Tensor) -> Tensor | None:
        replacement = patches[site].to(value.device) if site in chosen else None
        if site == LOGITS:
            logits.append(value if replacement is None else replacement)
        return replacement

    side.run(ids_BT, patch)
    return logits[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseFloor:
    """How far the reference is from itself in float64, when computed in the candidate's dtype."""

    local: Bars
    """By kind of site: the worst position of all layers, teacher-forced."""
    logits: LogitsDistance
    """Of free passes."""

    def bars(self, sites: Iterable[str], factor: float) -> dict[str, float]:
        """Return for every site the local error that rounding explains."""
        return {site: factor * self.local[kind_of(site)] for site in sites}


def measure_floor(
    reference: PrecisionSide,
    ids_BT: Tensor,
    values: Values,
    dtype: torch.dtype,
    rounding: Rounding | None = None,
) -> NoiseFloor:
    """Measure what rounding does to the reference itself, on the same tokens.

    Twice: each operation alone, and all in a row; in float64, then as the side rounds that rounds
    more.
    """
    dtype = coarser(dtype, values[LOGITS].dtype)
    local = _float64_floor(reference, ids_BT, values, dtype)
    for kind in ("q_rope", "k_rope"):
        # Both precisions turn by the same float32 angles; another engine has its own.
        local[kind] = max(local[kind], angle_error(reference.settings, ids_BT.shape[1]))
    wide_BTV = free_logits(partial(reference.run_in, torch.float64), ids_BT)
    run: Run = partial(reference.run_in, dtype)
    if rounding:
        run = partial(reference.run_rounded, rounding)
    elif dtype is values[LOGITS].dtype:
        return NoiseFloor(local=local, logits=logits_distance(wide_BTV, values[LOGITS]))
    for site, error in _compare(run, ids_BT, values, {}, force=True).errors.items():
        local[kind_of(site)] = max(error.max_relative_l2, local[kind_of(site)])
    return NoiseFloor(local=local, logits=logits_distance(wide_BTV, free_logits(run, ids_BT)))


def _float64_floor(
    reference: PrecisionSide, ids_BT: Tensor, values: Values, dtype: torch.dtype
) -> dict[str, float]:
    local: dict[str, float] = {}

    def compare(site: str, value: Tensor) -> Tensor | None:
        if site not in values:
            return None
        own, kind = values[site], kind_of(site)
        worst = float(relative_l2(value, own.to(dtype)).max())
        # A result that is computed is rounded once at least, even where here it happened to fit.
        once = 0.0 if site == EMBED else torch.finfo(dtype).eps / 2
        local[kind] = max(worst, once, local.get(kind, 0.0))
        return own

    reference.run_in(torch.float64, ids_BT, compare)
    return local


def coarser(left: torch.dtype, right: torch.dtype) -> torch.dtype:
    """Return the dtype that rounds more."""
    return left if torch.finfo(left).eps > torch.finfo(right).eps else right


def angle_error(settings: LlamaSettings, num_positions: int) -> float:
    """Measure how far float32 angles, which grow with the position, put a rotation off."""
    size, device = settings.head_size, torch.device("cpu")
    cos, sin = rope_tables(size, settings.rope_theta, num_positions, device)
    pairs = torch.arange(0, size, 2, dtype=torch.float64)
    angles = torch.arange(num_positions)[:, None] * settings.rope_theta ** (-pairs / size)
    off = (cos[:, : size // 2] - angles.cos(), sin[:, size // 2 :] - angles.sin())
    return max(float(each.abs().max()) for each in off)


def free_logits(run: Run, ids_BT: Tensor) -> Tensor:
    """Run freely and return the logits.

    Shapes: (B, T) -> (B, T, V).
    """
    logits: list[Tensor] = []

    def keep(site: str, value: Tensor) -> None:
        if site == LOGITS:
            logits.append(value)

    run(ids_BT, keep)
    return logits[0]


def _compare(
    run: Run,
    ids_BT: Tensor,
    reference: Values,
    bars: Bars,
    *,
    force: bool,
    keep_in: Keep = dict,
) -> Comparison:
    errors: dict[str, SiteError] = {}
    beyond = keep_in()
    logits: list[LogitsDistance] = []

    def compare(site: str, value: Tensor) -> Tensor | None:
        if site not in reference:
            return None
        own = reference[site].to(value.device)
        require_equal(f"{site} (shape)", tuple(own.shape), tuple(value.shape))
        error = errors[site] = site_error(site, own, value, bar=bars.get(site, 0.0))
        if force and error.num_positions_beyond:
            beyond[site] = value.clone()
        if site == LOGITS and not force:
            logits.append(logits_distance(own, value))
        return own if force else None

    run(ids_BT, compare)
    _require_shown(errors, reference)
    return Comparison(errors, beyond, logits[0] if logits else None)


def _require_shown(shown: Collection[str], declared: Collection[str]) -> None:
    """Refuse a side that does not show what it declares."""
    missing = sorted(set(declared) - set(shown))
    require_equal("sites that were not shown", "none", ", ".join(missing) or "none")
