"""Compare the weights of two models exactly, and say in what way a tensor is another.

A wrong tensor is usually a right one in the wrong place: transposed, from another layer, its rows
in another order. Each hypothesis is tested, to the bit where it can be; the first that holds is
named.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.llama import LlamaSettings

COMPUTING = ("rope_theta", "rms_norm_eps", "attention_bias", "tie_embeddings")
"""Settings that change what is computed from the same tensors."""
HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
NO_WORSE = 1.5
"""Times the error of even steps: what a quantiser may err that rounds its scales, too."""
MAX_BIAS = 0.01
"""Rounding errs to both sides: a tensor that is larger as a whole was not only rounded."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """How a block format spaces the values that it can hold."""

    values: int
    num_steps: int
    is_symmetric: bool
    max_steps_off: float
    """Half a step, and more where the steps of a block are themselves rounded."""

    def step(self, block_RNV: Tensor) -> Tensor:
        """Return the distance of neighbouring values in every block."""
        if self.is_symmetric:
            return block_RNV.abs().amax(-1) / self.num_steps
        # Offsets are not negative, so that zero is always within the range.
        return (block_RNV.amax(-1).clamp(min=0) - block_RNV.amin(-1).clamp(max=0)) / self.num_steps


BLOCKS = {
    "Q8_0": Blocks(32, 127, is_symmetric=True, max_steps_off=0.6),
    "Q6_K": Blocks(16, 31, is_symmetric=True, max_steps_off=2.0),
    "Q4_K": Blocks(32, 15, is_symmetric=False, max_steps_off=2.0),
}
"""From the finest to the coarsest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorDifference:
    """One tensor that is not the reference's."""

    name: str
    relative_l2: float
    num_differing: int
    num_elements: int
    explanation: str
    """The hypothesis that holds, or empty."""
    rounded_to: str
    """The format in which the reference's tensor becomes this one, or empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingDifference:
    """One setting that changes the computation."""

    name: str
    reference: object
    candidate: object


def differing_settings(left: LlamaSettings, right: LlamaSettings) -> list[SettingDifference]:
    """List the settings under which the same tensors give other results."""
    return [
        SettingDifference(name=name, reference=getattr(left, name), candidate=getattr(right, name))
        for name in COMPUTING
        if getattr(left, name) != getattr(right, name)
    ]


def diff_weights(
    reference: Mapping[str, Tensor], candidate: Mapping[str, Tensor]
) -> list[TensorDifference]:
    """Describe every tensor that is not, to the bit, the reference's."""
    found = [_lacking(name, reference) for name in reference if name not in candidate]
    differing: dict[str, tuple[Tensor, Tensor]] = {}
    for name, right in candidate.items():
        if name not in reference:
            found.append(_lacking(name, candidate, "the reference has none"))
            continue
        left = reference[name]
        right_alike = right.to(left.device, left.dtype)
        if not (left.shape == right.shape and torch.equal(left, right_alike)):
            differing[name] = (left, right_alike)
    shapes = {right.shape for _, right in differing.values()}
    digests = {_digest(t): name for name, t in reference.items() if t.shape in shapes}
    return found + [_describe(name, *pair, digests) for name, pair in differing.items()]


def stored_in_fewer_bits(found: Sequence[TensorDifference], num_matrices: int) -> list[str]:
    """Name the rounded tensors, if that is how the model is stored and not a fault of some.

    A tensor in fewer bits than most is one.
    """
    counts = Counter(each.rounded_to for each in found if each.rounded_to)
    if 2 * counts.total() <= num_matrices:
        return []
    formats = [*HALVES, *BLOCKS]
    usual = formats.index(counts.most_common(1)[0][0])
    allowed = formats[: usual + 1]
    return [each.name for each in found if each.rounded_to in allowed]


def _lacking(name: str, side: Mapping[str, Tensor], why: str = "missing") -> TensorDifference:
    count = side[name].numel()
    return TensorDifference(
        name=name, relative_l2=1.0, num_differing=count, num_elements=count,
        explanation=why, rounded_to="",
    )  # fmt: skip


def _describe(
    name: str, left: Tensor, right: Tensor, digests: Mapping[str, str]
) -> TensorDifference:
    explanation, rounded_to = "", ""
    if other := digests.get(_digest(right)):
        explanation = f"equals {other}"
    elif left.ndim == 2 and left.T.shape == right.shape and torch.equal(left.T, right):
        explanation = "transposed"
    elif left.shape == right.shape:
        explanation = next(_hypotheses(left, right), "")
        if not explanation and (rounded_to := _rounding(left, right)):
            explanation = f"rounded to {rounded_to} and back"
    same = left.shape == right.shape
    wide, other_wide = left.double(), right.double()
    return TensorDifference(
        name=name,
        relative_l2=float((other_wide - wide).norm() / wide.norm()) if same else 1.0,
        num_differing=int((left != right).sum()) if same else left.numel(),
        num_elements=left.numel(),
        explanation=explanation,
        rounded_to=rounded_to,
    )


def _hypotheses(left: Tensor, right: Tensor) -> Iterator[str]:
    """Yield what holds, the most specific first."""
    if not bool(right.isfinite().all()):
        yield f"{int((~right.isfinite()).sum())} values are not finite"
    differs = left != right
    if int(differs.sum()) == 1 and (bit := _one_bit(left[differs], right[differs])) is not None:
        yield f"bit {bit} of one value is flipped"
    rows = differs.any(-1) if left.ndim == 2 else differs
    wrong = rows.nonzero().flatten()
    if len(wrong) < len(rows) and not bool(right[wrong].any()):
        yield f"{_rows(wrong)} zero"
    if left.ndim == 2:
        yield from _moved_rows(left, right)
    if (factor := _factor(left[differs], right[differs])) is not None:
        yield f"{int(differs.sum())} of {differs.numel()} values times {factor:.6g}"
    if bool((right == 1).all()):
        yield "all ones"


def _moved_rows(left: Tensor, right: Tensor) -> Iterator[str]:
    for by in (1, -1):
        if torch.equal(left.roll(by, 0), right):
            yield f"rows moved by {by:+d}"
        elif torch.equal(left.roll(by, 0)[1:-1], right[1:-1]):
            yield f"rows moved by {by:+d}, but for the ends"
    places: dict[bytes, int] = {_row(row): place for place, row in enumerate(left)}
    origin = [places.get(_row(row), -1) for row in right]
    if sorted(origin) == list(range(len(left))):
        moved = sum(place != index for index, place in enumerate(origin))
        yield f"{moved} of {len(left)} rows in another order"


def _one_bit(left: Tensor, right: Tensor) -> int | None:
    widths = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    width = widths[left.element_size()]
    changed = int((left.view(width) ^ right.view(width)).item())
    changed &= (1 << 8 * left.element_size()) - 1
    return changed.bit_length() - 1 if changed.bit_count() == 1 else None


def _factor(left: Tensor, right: Tensor) -> float | None:
    """Return the one factor between two vectors, if rounding explains what remains."""
    if bool((left == 0).any()) or left.numel() < 2:
        return None
    ratios = right.double() / left.double()
    factor = float(ratios.median())
    tolerance = 2 * torch.finfo(left.dtype).eps
    return factor if bool(((ratios / factor - 1).abs() <= tolerance).all()) else None


def _rounding(left: Tensor, right: Tensor) -> str:
    """Name the format whose rounding explains every row."""
    for name, dtype in HALVES.items():
        if torch.equal(left.to(dtype).to(left.dtype), right):
            return name
    if left.ndim != 2 or abs(_scale(left, right) - 1) > MAX_BIAS:
        return ""
    for name, blocks in BLOCKS.items():
        if left.shape[1] % blocks.values == 0:
            left_RNV, right_RNV = (
                each.double().reshape(len(each), -1, blocks.values) for each in (left, right)
            )
            if _is_within(blocks.step(left_RNV), right_RNV - left_RNV, blocks):
                return name
    return ""


def _is_within(step_RN: Tensor, error_RNV: Tensor, blocks: Blocks) -> bool:
    """Say whether errors are those of a format, one by one and over every row."""
    # The standard deviation of an even spread over one step.
    usual_R = step_RN.norm(dim=-1) * math.sqrt(blocks.values / 12)
    is_small = error_RNV.abs().amax(-1) <= blocks.max_steps_off * step_RN
    return bool(is_small.all() and (error_RNV.flatten(1).norm(dim=-1) <= NO_WORSE * usual_R).all())


def _scale(left: Tensor, right: Tensor) -> float:
    """Return the factor by which the left would be closest to the right."""
    wide = left.double()
    return float((wide * right.double()).sum() / (wide * wide).sum())


def _rows(indices: Tensor) -> str:
    if len(indices) == 1:
        return f"row {int(indices[0])} is"
    return f"{len(indices)} rows are"


def _row(row: Tensor) -> bytes:
    return row.contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes()


def _digest(tensor: Tensor) -> str:
    kind = f"{tensor.dtype}{tuple(tensor.shape)}".encode()
    return hashlib.sha256(kind + _row(tensor)).hexdigest()
