"""Anything whose forward pass can be watched, and changed, at canonical sites.

A side shows every value as it is computed and takes another in its place, so that one function both
records a forward pass, forces its inputs and patches it. Sites are those of `model.taps`; what a
side does not declare, it cannot show.

Shapes: B rows, T positions, C channels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from model.errors import DifferentProgramsError
from model.llama import LlamaSettings
from model.taps import EMBED, FINAL_NORM, LAYER_SITES, LOGITS

Visit = Callable[[str, Tensor], Tensor | None]
"""Sees a site and its value (B, T, C); returns what takes its place, or None to let it stand."""

Rounding = Callable[[Tensor], Tensor]

SHAPE = (
    *("num_layers", "num_heads", "num_kv_heads", "hidden_size", "intermediate_size"),
    "vocab_size",
)
"""Settings that say which sites there are, and of how many channels."""
ALL_TOKENS = "every token"
CHANNELS = "channels"
HALF_SPLIT = "heads side by side, channel i of a head turns with i + H/2"
CAPTURES = {
    EMBED: "rows of the embedding",
    "attn_norm": "normalised and scaled",
    "q": "projected, with the bias, not rotated",
    "k": "projected, with the bias, not rotated",
    "v": "projected, with the bias",
    "q_rope": "rotated",
    "k_rope": "rotated",
    "attn_mix": "mixed values of all heads",
    "attn_out": "projected back",
    "ffn_inp": "residual stream after attention",
    "ffn_norm": "normalised and scaled",
    "ffn_gate": "projected, not opened",
    "ffn_up": "projected",
    "ffn_silu": "opened gate",
    "ffn_swigl": "opened gate times up",
    "ffn_out": "projected back",
    "output": "residual stream after the layer",
    FINAL_NORM: "normalised and scaled",
    LOGITS: "scores before softmax",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """What a side shows at a site."""

    capture: str
    """Where in the computation the value is taken."""
    layout: str
    """What a channel means, after the side has mapped its own layout."""
    tokens: str
    dtype: str
    """Decides the noise floor, not whether sites may be compared."""


class Side(Protocol):
    """A model in some engine."""

    @property
    def name(self) -> str:
        """What a report calls it."""

    @property
    def settings(self) -> LlamaSettings:
        """The architecture as this side understands it."""

    @property
    def declarations(self) -> Mapping[str, Declaration]:
        """Every site that is shown."""

    @property
    def round_inputs(self) -> Rounding | None:
        """What the engine does to the inputs of its matrix products; None if nothing."""

    def weights(self) -> Mapping[str, Tensor]:
        """Return the weights under Hugging Face's names."""

    def run(self, ids_BT: Tensor, visit: Visit) -> None:
        """Make one forward pass and show every declared site, in the order of execution."""


class PrecisionSide(Side, Protocol):
    """A side that can be asked to compute in another precision: what a reference must be."""

    def run_in(self, dtype: torch.dtype, ids_BT: Tensor, visit: Visit) -> None:
        """Make one forward pass with weights and activations converted to a dtype."""

    def run_rounded(self, rounding: Rounding, ids_BT: Tensor, visit: Visit) -> None:
        """Make one forward pass with the inputs of all matrix products rounded."""


def num_channels(settings: LlamaSettings, site: str) -> int:
    """Count the channels that a site has at every position."""
    kind = kind_of(site)
    if kind == LOGITS:
        return settings.vocab_size
    if kind in ("ffn_gate", "ffn_up", "ffn_silu", "ffn_swigl"):
        return settings.intermediate_size
    if kind in ("k", "v", "k_rope"):
        return settings.num_kv_heads * settings.head_size
    return settings.hidden_size


def kind_of(site: str) -> str:
    """Name what a site computes, whatever its layer.

    >>> kind_of("layers.3.ffn_up"), kind_of("embed")
    ('ffn_up', 'embed')
    """
    return site.rpartition(".")[2]


def layer_of(site: str) -> int | None:
    """Return the layer of a site within one."""
    parts = site.split(".")
    return int(parts[1]) if len(parts) == 3 else None


def say_site(site: str) -> str:
    """Write a site as a report does.

    >>> say_site("layers.3.ffn_up")
    'layer 3 ffn_up'
    """
    return site.replace(".", " ").replace("layers", "layer", 1)


def declare(num_layers: int, dtype: torch.dtype) -> dict[str, Declaration]:
    """Declare all canonical sites as this project captures them."""
    names = [EMBED, FINAL_NORM, LOGITS]
    names += [f"layers.{layer}.{name}" for layer in range(num_layers) for name in LAYER_SITES]
    return {
        name: Declaration(
            capture=CAPTURES[kind_of(name)],
            layout=HALF_SPLIT if kind_of(name) in ("q", "k", "q_rope", "k_rope") else CHANNELS,
            tokens=ALL_TOKENS,
            dtype=str(dtype).removeprefix("torch."),
        )
        for name in names
    }


def common_sites(reference: Side, candidate: Side) -> list[str]:
    """List the sites that both sides show.

    Raises: DifferentProgramsError if both show one differently, or the architectures differ.
    """
    require_same_shape(reference.settings, candidate.settings)
    shared = [site for site in reference.declarations if site in candidate.declarations]
    for site in shared:
        left, right = reference.declarations[site], candidate.declarations[site]
        for aspect in ("capture", "layout", "tokens"):
            require_equal(f"{site} ({aspect})", getattr(left, aspect), getattr(right, aspect))
    return shared


def require_same_shape(left: LlamaSettings, right: LlamaSettings) -> None:
    """Refuse two architectures whose sites are not each other's.

    Raises: DifferentProgramsError.
    """
    for field in SHAPE:
        require_equal(field, getattr(left, field), getattr(right, field))


def require_equal(what: str, left: object, right: object) -> None:
    """Refuse to compare what is not the same computation.

    Raises: DifferentProgramsError.
    """
    if left != right:
        raise DifferentProgramsError(what, str(left), str(right))
