"""Compare the weights of two models exactly, and say in what way a tensor is another.

A wrong tensor is usually a right one in the wrong place: transposed, from another layer, its rows in
another order. Each hypothesis is tested, to the bit where it can be; the first that holds is named.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from model.k_quants import BlockKind, decode, encode
from model.llama import LlamaSettings

COMPUTING = ("rope_theta", "rms_norm_eps", "attention_bias", "tie_embeddings")
"""Settings that change what is computed from the same tensors."""
NO_WORSE = 1.5
"""Times our own quantiser's error, which is below llama.cpp's: what a quantiser may err."""
ROUNDINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "bfloat16": lambda x: x.to(torch.bfloat16).to(x.dtype),
    "float16": lambda x: x.to(torch.float16).to(x.dtype),
    **{
        kind.label: lambda x, kind=kind: decode(  # type: ignore[misc]  # bound early on purpose
            kind, encode(kind, x.float().cpu()), tuple(x.shape)
        )
        for kind in BlockKind
    },
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
    is_rounding: bool
    """Whether storing the reference's tensor in fewer bits explains all of it."""


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
    digests = {_digest(tensor): name for name, tensor in reference.items()}
    found = [_lacking(name, reference) for name in reference if name not in candidate]
    for name, right in candidate.items():
        left = reference.get(name)
        if left is None:
            found.append(_lacking(name, candidate, "the reference has none"))
        elif left.shape != right.shape or not torch.equal(left, right.to(left.device, left.dtype)):
            found.append(_describe(name, left, right.to(left.device, left.dtype), digests))
    return found


def _lacking(name: str, side: Mapping[str, Tensor], why: str = "missing") -> TensorDifference:
    count = side[name].numel()
    return TensorDifference(
        name=name, relative_l2=1.0, num_differing=count, num_elements=count,
        explanation=why, is_rounding=False,
    )  # fmt: skip


def _describe(
    name: str, left: Tensor, right: Tensor, digests: Mapping[str, str]
) -> TensorDifference:
    explanation, is_rounding = "", False
    if other := digests.get(_digest(right)):
        explanation = f"equals {other}"
    elif left.ndim == 2 and left.T.shape == right.shape and torch.equal(left.T, right):
        explanation = "transposed"
    elif left.shape == right.shape:
        explanation = next(_hypotheses(left, right), "")
        if not explanation and (kind := _rounding(left, right)):
            explanation, is_rounding = f"rounded to {kind} and back", True
    same = left.shape == right.shape
    wide, other_wide = left.double(), right.double()
    return TensorDifference(
        name=name,
        relative_l2=float((other_wide - wide).norm() / wide.norm()) if same else 1.0,
        num_differing=int((left != right).sum()) if same else left.numel(),
        num_elements=left.numel(),
        explanation=explanation,
        is_rounding=is_rounding,
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


def _rounding(left: Tensor, right: Tensor) -> str | None:
    """Name the format whose rounding explains every row."""
    if left.ndim != 2:
        return None
    error = _row_errors(left, right)
    for name, rounded in ROUNDINGS.items():
        block = next((kind.values for kind in BlockKind if kind.label == name), 1)
        if left.shape[1] % block:
            continue
        usual = _row_errors(left, rounded(left).to(left.device))
        if bool((error <= NO_WORSE * usual).all()):
            return name
    return None


def _row_errors(left: Tensor, right: Tensor) -> Tensor:
    return (right.double() - left.double()).norm(dim=-1)


def _rows(indices: Tensor) -> str:
    if len(indices) == 1:
        return f"row {int(indices[0])} is"
    return f"{len(indices)} rows are"


def _row(row: Tensor) -> bytes:
    return row.contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes()


def _digest(tensor: Tensor) -> str:
    kind = f"{tensor.dtype}{tuple(tensor.shape)}".encode()
    return hashlib.sha256(kind + _row(tensor)).hexdigest()
