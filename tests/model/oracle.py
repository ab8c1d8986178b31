"""An implementation that shares nothing with ours but the weights: transformers."""

from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from model.llama import Llama, LlamaSettings, initialise
from tests.model import tiny

ARCHITECTURES = {
    "one key/value head": replace(tiny.LLAMA, num_kv_heads=1),
    "grouped": tiny.LLAMA,
    "all heads": replace(tiny.LLAMA, num_kv_heads=4),
    "tied": replace(tiny.LLAMA, tie_embeddings=True),
    "biases": replace(tiny.LLAMA, attention_bias=True),
    "qwen2": tiny.QWEN2,
}


def ours(settings: LlamaSettings, dtype: torch.dtype = torch.float32) -> Llama:
    """Build a model with gains and biases unlike those of a new one, which would hide faults."""
    model = Llama(settings)
    generator = initialise(model, seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.to(dtype)


def theirs(model: Llama) -> nn.Module:
    """Build transformers' model of the same architecture, with the same weights and dtype."""
    settings, dtype = model.settings, model.model.embed_tokens.weight.dtype
    kinds = (
        (Qwen2Config, Qwen2ForCausalLM)
        if settings.attention_bias
        else (LlamaConfig, LlamaForCausalLM)
    )
    config = kinds[0](
        vocab_size=settings.vocab_size,
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        num_key_value_heads=settings.num_kv_heads,
        max_position_embeddings=settings.max_position_embeddings,
        rms_norm_eps=settings.rms_norm_eps,
        rope_parameters={"rope_theta": settings.rope_theta, "rope_type": "default"},
        tie_word_embeddings=settings.tie_embeddings,
        attn_implementation="sdpa",
        use_cache=False,
    )
    reference: nn.Module = kinds[1](config)
    # Not `reference.to(dtype)`: that rounds the rotary frequencies as well, which loading does not.
    for parameter in reference.parameters():
        parameter.data = parameter.data.to(dtype)
    if dtype == torch.float64:
        _use_float64_norms(reference, settings)
    missing, unexpected = reference.load_state_dict(model.state_dict(), strict=False)
    assert missing == (["lm_head.weight"] if settings.tie_embeddings else [])
    assert unexpected == []
    return reference.to(next(model.parameters()).device)


def _use_float64_norms(reference: nn.Module, settings: LlamaSettings) -> None:
    """Theirs falls back to float32 inside every norm; torch's own does not."""
    for name, _ in list(reference.named_modules()):
        if name.endswith("norm"):
            parent = reference.get_submodule(name.rpartition(".")[0])
            norm = nn.RMSNorm(settings.hidden_size, settings.rms_norm_eps, dtype=torch.float64)
            setattr(parent, name.rpartition(".")[2], norm)


def relative(found: Tensor, expected: Tensor) -> float:
    """Return the relative L2 distance."""
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


def distances(model: Llama, reference: nn.Module, ids_BS: Tensor) -> dict[str, float]:
    """Return how far logits, loss and the gradients are from those of the reference.

    The largest of all gradients' distances counts.
    """
    found = _logits_loss_gradients(model, model(ids_BS[:, :-1]), ids_BS)
    expected = _logits_loss_gradients(reference, reference(ids_BS[:, :-1]).logits, ids_BS)
    assert found.keys() == expected.keys()
    each = {name: relative(found[name], expected[name]) for name in found}
    outputs = {name: each.pop(name) for name in ("logits", "loss")}
    return {**outputs, "gradients": max(each.values())}


def _logits_loss_gradients(
    model: nn.Module, logits_BTV: Tensor, ids_BS: Tensor
) -> dict[str, Tensor]:
    wide_BTV = logits_BTV.to(torch.promote_types(logits_BTV.dtype, torch.float32))
    loss = nn.functional.cross_entropy(wide_BTV.flatten(0, 1), ids_BS[:, 1:].flatten())
    model.zero_grad()
    torch.autograd.backward(loss)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert len(gradients) == len(list(model.parameters()))
    return {"logits": logits_BTV, "loss": loss, **gradients}
