"""Activations thousands of times larger than their neighbours, which healthy models grow.

They serve as biases, sit at the first or a delimiting token, and inflate every statistic over all
positions. So they are reported, and expected where the reference has the same; they convict nobody.

Source: Sun et al. 2024, arXiv:2402.17762, section 2.1.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from model.sides import layer_of

MIN_MAGNITUDE = 100.0
MIN_TIMES_MEDIAN = 1000.0
PLACES = ("ffn_swigl", "ffn_out", "output")
"""Where they arise, and where they stay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MassiveActivation:
    """The largest of a site's massive activations."""

    site: str
    layer: int
    row: int
    position: int
    channel: int
    value: float
    times_median: float
    energy_share: float
    """Of all squares of the site, that of this element."""


def find_massive(values: Mapping[str, Tensor]) -> list[MassiveActivation]:
    """Report the largest massive activation of every site that has one, first layer first."""
    found = []
    for site in values:
        layer = layer_of(site)
        if layer is not None and site.endswith(PLACES):
            one = _largest(site, layer, values[site])
            found += [one] if one else []
    return found


def _largest(site: str, layer: int, value_BTC: Tensor) -> MassiveActivation | None:
    size_BTC = value_BTC.to(torch.float64).abs().nan_to_num(0.0, posinf=0.0)
    largest, median = float(size_BTC.max()), float(size_BTC.median())
    if not (largest > MIN_MAGNITUDE and largest > MIN_TIMES_MEDIAN * median):
        return None
    place = int(size_BTC.argmax())
    _, num_positions, num_channels = value_BTC.shape
    row, position = divmod(place // num_channels, num_positions)
    channel = place % num_channels
    return MassiveActivation(
        site=site,
        layer=layer,
        row=row,
        position=position,
        channel=channel,
        value=float(value_BTC[row, position, channel]),
        times_median=largest / median if median else float("inf"),
        energy_share=largest**2 / float((size_BTC * size_BTC).sum()),
    )
