"""Standard deviations of a side in the reference system's ten slots a layer, with what they are of.

A standard deviation says nothing without its sample: how many elements, of which tokens.

Shapes: B rows, T positions.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from model.sides import Side, kind_of
from model.taps import Statistics, statistics
from model.trace_text import SLOTS, pooled


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotStds:
    """One table: a list over the layers for every slot."""

    stds: Mapping[str, list[float]]
    num_elements: Mapping[str, list[int]]
    num_tokens: int


def slot_stds(side: Side, ids_BT: Tensor) -> SlotStds:
    """Run a side freely and summarise every slot that it shows, over all tokens."""
    found: dict[str, Statistics] = {}

    def summarise(site: str, value: Tensor) -> None:
        if kind_of(site) in (*SLOTS, *"qkv"):
            found[site] = statistics(value)

    side.run(ids_BT, summarise)
    shown = [slot for slot in SLOTS if slot == "qkv" or f"layers.0.{slot}" in found]
    layers = [
        {slot: _slot(found, layer, slot) for slot in shown}
        for layer in range(side.settings.num_layers)
    ]
    return SlotStds(
        stds={slot: [layer[slot].std for layer in layers] for slot in shown},
        num_elements={slot: [layer[slot].count for layer in layers] for slot in shown},
        num_tokens=ids_BT.numel(),
    )


def slot_csv(found: SlotStds) -> str:
    """Write the table in the reference system's layout, a row a layer."""
    rows = [",".join(("layer", *found.stds))]
    for layer, values in enumerate(zip(*found.stds.values(), strict=True)):
        rows.append(",".join((str(layer), *(f"{value:.4f}" for value in values))))
    return "\n".join(rows) + "\n"


def _slot(found: Mapping[str, Statistics], layer: int, slot: str) -> Statistics:
    if slot == "qkv":
        return pooled([found[f"layers.{layer}.{part}"] for part in "qkv"])
    return found[f"layers.{layer}.{slot}"]
