"""What a file must hold to be a Llama: the tensors, bounded settings and a matching tokenizer."""

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer
from torch import Tensor

from model.errors import ModelFormatError, WrongSettingError, WrongTensorsError
from model.llama import LlamaSettings

# What other readers accept; it also bounds the work that a hostile file can ask for.
BOUNDS: dict[str, tuple[int, int] | tuple[float, float]] = {
    "vocab_size": (1, 1_000_000),
    "hidden_size": (1, 65_536),
    "num_layers": (1, 256),
    "num_heads": (1, 256),
    "num_kv_heads": (1, 256),
    "intermediate_size": (1, 262_144),
    "max_position_embeddings": (1, 2_097_152),
    "rope_theta": (1.0, 1e8),
    "rms_norm_eps": (1e-10, 0.01),
    "initializer_std": (0.0, 1.0),
}

SWITCHES = ("attention_bias", "tie_embeddings")
"""The settings that have no bounds."""
LLAMA, QWEN2 = "llama", "qwen2"
UNSTATED_ROPE_THETA = 10_000.0
"""What llama.cpp and transformers take where a file, of before it was a setting, does not say."""
HUGGING_FACE_CLASSES = {LLAMA: "LlamaForCausalLM", QWEN2: "Qwen2ForCausalLM"}


def family(settings: LlamaSettings) -> str:
    """Name the family of models that computes just this."""
    return QWEN2 if settings.attention_bias else LLAMA


def expected_tensors(settings: LlamaSettings) -> dict[str, tuple[int, ...]]:
    """Name the architecture's tensors with their shapes, in the order of the forward pass."""
    hidden, ffn = settings.hidden_size, settings.intermediate_size
    kv = settings.num_kv_heads * settings.head_size
    layer: dict[str, tuple[int, ...]] = {"input_layernorm.weight": (hidden,)}
    for module, out in {"q_proj": hidden, "k_proj": kv, "v_proj": kv}.items():
        layer[f"self_attn.{module}.weight"] = (out, hidden)
        if settings.attention_bias:
            layer[f"self_attn.{module}.bias"] = (out,)
    layer |= {
        "self_attn.o_proj.weight": (hidden, hidden),
        "post_attention_layernorm.weight": (hidden,),
        "mlp.gate_proj.weight": (ffn, hidden),
        "mlp.up_proj.weight": (ffn, hidden),
        "mlp.down_proj.weight": (hidden, ffn),
    }
    head = {} if settings.tie_embeddings else {"lm_head.weight": (settings.vocab_size, hidden)}
    return {
        "model.embed_tokens.weight": (settings.vocab_size, hidden),
        **{
            f"model.layers.{number}.{name}": shape
            for number in range(settings.num_layers)
            for name, shape in layer.items()
        },
        "model.norm.weight": (hidden,),
        **head,
    }


def require_bounds(settings: LlamaSettings) -> None:
    """Refuse settings that other readers of the format would refuse.

    Raises: WrongSettingError.
    """
    for key, (low, high) in BOUNDS.items():
        if not low <= getattr(settings, key) <= high:
            setting = f"model.{key}"
            raise WrongSettingError(setting, getattr(settings, key), f"from {low} to {high}")


def require_tensors(
    where: str, settings: LlamaSettings, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse tensors that are not exactly the architecture's.

    Raises: WrongTensorsError.
    """
    expected = expected_tensors(settings)
    missing = tuple(name for name in expected if name not in shapes)
    unexpected = tuple(name for name in shapes if name not in expected)
    misshapen = tuple(
        f"{name} {list(shapes[name])} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in shapes and tuple(shapes[name]) != shape
    )
    if missing or unexpected or misshapen:
        raise WrongTensorsError(where, missing, unexpected, misshapen)


def require_finite(path: Path, name: str, tensor: Tensor) -> None:
    """Refuse a tensor that holds NaN or infinity.

    Raises: ModelFormatError.
    """
    # The extremes of a tensor with a NaN are NaN, and they need no copy of its size.
    low, high = tensor.detach().aminmax()
    if not (isfinite(low.item()) and isfinite(high.item())):
        num_wrong = int((~tensor.isfinite()).sum().item())
        found = f"{num_wrong} of {tensor.numel()} values of tensor {name!r} are NaN or infinite"
        raise ModelFormatError(path, found, "finite")


def decode_settings(path: Path, values: Mapping[str, object]) -> LlamaSettings:
    """Build the settings that a file states under our names.

    Raises: ModelFormatError for a value that is missing, of another type or out of bounds.
    """
    found = {key: _bounded(path, values, key) for key in BOUNDS}
    found |= {key: _switch(path, values, key) for key in SWITCHES}
    try:
        return LlamaSettings(**found)
    except WrongSettingError as error:
        fact = f"{error.setting} is {error.found}"
        raise ModelFormatError(path, fact, error.expected) from error


def _bounded(path: Path, values: Mapping[str, object], key: str) -> Any:
    """Return an int for an integer setting and a float for any other."""
    low, high = BOUNDS[key]
    value = values.get(key)
    kinds = (int,) if isinstance(low, int) else (int, float)
    # bool is a subclass of int, hence not isinstance.
    if type(value) in kinds and low <= cast("float", value) <= high:
        return type(low)(cast("float", value))
    noun = "an integer" if isinstance(low, int) else "a number"
    fact = f"{key} is {value!r:.60}" if key in values else f"no {key}"
    raise ModelFormatError(path, fact, f"{noun} from {low} to {high}")


def _switch(path: Path, values: Mapping[str, object], key: str) -> bool:
    value = values.get(key)
    if not isinstance(value, bool):
        fact = f"{key} is {value!r:.60}" if key in values else f"no {key}"
        raise ModelFormatError(path, fact, "true or false")
    return value


def parse_tokenizer(path: Path, settings: LlamaSettings, tokenizer_json: str) -> Tokenizer:
    """Parse a tokenizer whose ids are rows of the embedding: the first ones, without a gap.

    Raises: ModelFormatError.
    """
    try:
        tokenizer = Tokenizer.from_str(tokenizer_json)
    except Exception as error:  # the library raises nothing narrower
        raise ModelFormatError(path, f"tokenizer with {error}", "a tokenizer.json") from error
    ids = sorted(tokenizer.get_vocab(with_added_tokens=True).values())
    if ids != list(range(len(ids))) or not 0 < len(ids) <= settings.vocab_size:
        found = f"tokenizer of {len(ids)} tokens up to id {ids[-1] if ids else 'none'}"
        expected = f"one for every id from 0, at most the {settings.vocab_size} of the embedding"
        raise ModelFormatError(path, found, expected)
    return tokenizer


def padded_vocabulary(tokenizer: Tokenizer, vocab_size: int) -> list[str]:
    """List a token for every row of the embedding, in the order of the ids.

    Published models often have more rows than tokens, for the sake of their shape; other readers
    want a name for each.
    """
    ids = tokenizer.get_vocab(with_added_tokens=True)
    tokens = sorted(ids, key=lambda token: ids[token])
    return tokens + [f"<|pad_{number}|>" for number in range(len(tokens), vocab_size)]
