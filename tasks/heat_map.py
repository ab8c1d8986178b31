"""Errors of all sites of a model, layer by layer, as a picture."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure


def draw_heat_map(
    path: Path, kinds: Sequence[str], ratios: Sequence[Sequence[float]], *, title: str, label: str
) -> None:
    """Draw a number for every kind of site and every layer, in powers of ten."""
    powers = np.log10(np.clip(np.nan_to_num(np.array(ratios), nan=math.inf), 1e-2, 1e9))
    figure = Figure(figsize=(8, 2 + 0.25 * len(ratios)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(powers, aspect="auto", vmin=-2, vmax=max(2.0, float(powers.max())))
    axes.set_xticks(range(len(kinds)), kinds, rotation=60, ha="right")
    axes.set_ylabel("layer")
    axes.set_title(title)
    figure.colorbar(image, label=f"{label}, log10")
    figure.savefig(path, dpi=100)


def by_layer(values: Mapping[str, float]) -> tuple[list[str], list[list[float]]]:
    """Arrange the values of sites that belong to layers: kinds of sites, and a row a layer."""
    layers: dict[str, dict[str, float]] = {}
    for site, value in values.items():
        layer, _, kind = site.rpartition(".")
        if layer:
            layers.setdefault(layer, {})[kind] = value
    kinds = list(next(iter(layers.values())))
    return kinds, [[row[kind] for kind in kinds] for row in layers.values()]
