"""Watch and change a Llama or Qwen2 of transformers, which shares no code with ours.

Rotated queries and keys are taken where transformers hands them to an attention function, through
its registry of such functions.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from model.llama import LlamaSettings
from model.sides import Visit, declare
from model.taps import LAYER_SITES, sites
from model.torch_side import Point, TorchSide, show

ATTENTION = "assay_watched"
_VISIT = "_assay_visit"
# Computed between modules: what the next module is given.
INPUTS = {
    "attn_mix": "self_attn.o_proj",
    "ffn_inp": "post_attention_layernorm",
    "ffn_swigl": "mlp.down_proj",
}
ROTATED = ("q_rope", "k_rope")


def transformers_side(name: str, model: Any) -> TorchSide:  # a PreTrainedModel, untyped here
    """Make a side of a LlamaForCausalLM or Qwen2ForCausalLM.

    From here on the model attends by torch's scaled dot product, through a watched function.
    """
    model.eval().set_attn_implementation(ATTENTION)
    model.config.use_cache = False
    settings = settings_of(model.config)
    return TorchSide(
        name=name,
        settings=settings,
        module=model,
        points=_points(settings.num_layers),
        declarations=declare(settings.num_layers, next(model.parameters()).dtype),
        named_weights={key: p.detach() for key, p in model.named_parameters()},
        observe=_watched,
        widen=_wide_norms,
    )


def settings_of(config: Any) -> LlamaSettings:  # a PretrainedConfig, untyped here
    """Read the architecture from a configuration."""
    return LlamaSettings(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        intermediate_size=config.intermediate_size,
        max_position_embeddings=config.max_position_embeddings,
        rope_theta=config.rope_parameters["rope_theta"],
        rms_norm_eps=config.rms_norm_eps,
        initializer_std=config.initializer_range,
        attention_bias=config.model_type == "qwen2",
        tie_embeddings=config.tie_word_embeddings,
    )


def _points(num_layers: int) -> dict[str, Point]:
    points = {}
    for site, path in sites(num_layers).items():
        layer, _, name = site.rpartition(".")
        if name in ROTATED:
            continue
        if name in INPUTS:
            points[site] = Point(f"model.{layer}.{INPUTS[name]}", is_input=True)
        elif name == "output":
            points[site] = Point(f"model.{layer}")
        else:
            points[site] = Point(path)
    assert {site.rpartition(".")[2] for site in points} >= set(LAYER_SITES) - set(ROTATED)
    return points


@contextmanager
def _watched(model: nn.Module, visit: Visit) -> Iterator[None]:
    layers = [layer.self_attn for layer in model.get_submodule("model.layers").children()]
    for layer in layers:
        setattr(layer, _VISIT, visit)
    try:
        yield
    finally:
        for layer in layers:
            delattr(layer, _VISIT)


@contextmanager
def _wide_norms(model: nn.Module) -> Iterator[None]:
    """Normalise in float64: transformers' norms fall back to float32."""

    def normalise(norm: Any, given: tuple[Tensor, ...], _output: Tensor) -> Tensor:
        wide = given[0].double()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + norm.variance_epsilon)
        normed: Tensor = wide * scale * norm.weight.double()
        return normed

    norms = [module for module in model.modules() if hasattr(module, "variance_epsilon")]
    with ExitStack() as stack:
        for norm in norms:
            stack.callback(norm.register_forward_hook(normalise, prepend=True).remove)
        yield


def _attend(
    module: nn.Module,
    query_BNTH: Tensor,
    key_BKTH: Tensor,
    value_BKTH: Tensor,
    *rest: Any,
    **named: Any,
) -> Any:
    visit: Visit | None = getattr(module, _VISIT, None)
    if visit:
        for name, value in zip(ROTATED, (query_BNTH, key_BKTH), strict=True):
            show(f"layers.{module.layer_idx}.{name}", value, visit)
    return sdpa_attention_forward(module, query_BNTH, key_BKTH, value_BKTH, *rest, **named)


AttentionInterface.register(ATTENTION, _attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
