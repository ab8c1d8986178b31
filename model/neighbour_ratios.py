"""Compare a layer's standard deviations with those of other layers: information, no verdict.

A model's layers are not meant to be alike, so a large ratio is no fault. Only a second
implementation on the same tokens can show one.
"""

import csv
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.errors import ModelFormatError

NOT_EVIDENCE = "not evidence of a fault: no second implementation, sample sizes unknown"
Stds = Mapping[str, Sequence[float]]
"""Site to the standard deviation of every layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourRatio:
    """One layer's standard deviation beside the other layers' at one site."""

    site: str
    layer: int
    std: float
    over_previous: float
    over_median: float
    """Over the median of all layers."""
    rank: int
    """1 for the largest of all layers."""


def read_stds(path: Path) -> dict[str, list[float]]:
    """Read a table with a row a layer and a column a site.

    Raises: ModelFormatError.
    """
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        stds = {key: [float(row[key]) for row in rows] for key in (rows[0] if rows else {})}
    except (TypeError, ValueError) as error:
        raise ModelFormatError(path, f"unreadable ({error})", "a number in every cell") from error
    if stds.pop("layer", None) != [float(layer) for layer in range(len(rows))] or len(rows) < 2:
        raise ModelFormatError(path, f"{len(rows)} rows", "one for every layer from 0, two or more")
    return stds


def neighbour_ratios(stds: Stds) -> list[NeighbourRatio]:
    """Return, for every site, the layer that grows most over the one before it."""
    found = []
    for site, values in stds.items():
        growth = {at: values[at] / values[at - 1] for at in range(1, len(values)) if values[at - 1]}
        layer = max(growth, key=lambda at: growth[at])
        found.append(
            NeighbourRatio(
                site=site,
                layer=layer,
                std=values[layer],
                over_previous=growth[layer],
                over_median=values[layer] / statistics.median(values),
                rank=1 + sum(other > values[layer] for other in values),
            )
        )
    return found


def ratio_sentence(found: NeighbourRatio, num_layers: int) -> str:
    """Say what a ratio is."""
    return (
        f"layer {found.layer} {found.site}: std {found.std:.4f}, ratio {found.over_previous:.2f} "
        f"against layer {found.layer - 1}, {found.over_median:.2f} against the median, "
        f"{_place(found.rank, num_layers)}"
    )


def _place(rank: int, num_layers: int) -> str:
    words = {1: "largest", 2: "second-largest", 3: "third-largest"}
    return f"{words[rank]} layer" if rank in words else f"{rank} of {num_layers} layers by size"
