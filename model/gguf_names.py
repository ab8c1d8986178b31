"""What a Llama or a Qwen2 is called in a GGUF file: its tensors, its settings, its order of rows.

llama.cpp rotates neighbouring channels of a Llama's heads where Hugging Face rotates halves, so the
rows of its queries and keys are interleaved; those of a Qwen2 are not.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from model.architecture import HUGGING_FACE_CLASSES, LLAMA, QWEN2, decode_settings, family
from model.errors import ModelFormatError, WrongSettingError
from model.gguf_values import Array, Metadata, Scalar, Value, ValueKind, shortest
from model.llama import LlamaSettings

OUTER_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
SETTING_KEYS = {
    "vocab_size": "vocab_size",
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "num_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_heads": "attention.head_count",
    "num_kv_heads": "attention.head_count_kv",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
}
HEAD_SIZE_KEYS = ("rope.dimension_count", "attention.key_length", "attention.value_length")
"""Each is the size of a head, or another architecture."""
ARCHITECTURE_KEY = "general.architecture"
INITIALIZER_KEY = "assay.initializer_std"
TIED_KEY = "assay.tie_embeddings"
UNSTATED_INITIALIZER_STD = 0.02
"""The default of both families; it has no part in a model that is trained already."""
UNSTATED_ROPE_THETA = 10_000.0
"""What llama.cpp takes where a file does not say it."""


def gguf_name(name: str) -> str:
    """Give a tensor's name in a GGUF file."""
    if name in OUTER_NAMES:
        return OUTER_NAMES[name]
    number, _, rest = name.removeprefix("model.layers.").partition(".")
    module, _, suffix = rest.rpartition(".")
    return f"blk.{number}.{LAYER_NAMES[module]}.{suffix}"


def num_interleaved_heads(settings: LlamaSettings, name: str) -> int:
    """Count the heads whose rows llama.cpp wants interleaved; of most tensors none."""
    if family(settings) != LLAMA:
        return 0
    if name.endswith("q_proj.weight"):
        return settings.num_heads
    return settings.num_kv_heads if name.endswith("k_proj.weight") else 0


def interleave(rows: Tensor, num_heads: int) -> Tensor:
    """Put row i + H/2 of every head after row i.

    Shapes: (heads * H, ...) -> the same.
    """
    halves = rows.reshape(num_heads, 2, -1, *rows.shape[1:])
    return halves.transpose(1, 2).reshape(rows.shape)


def split_halves(rows: Tensor, num_heads: int) -> Tensor:
    """Undo `interleave`.

    Shapes: (heads * H, ...) -> the same.
    """
    pairs = rows.reshape(num_heads, -1, 2, *rows.shape[1:])
    return pairs.transpose(1, 2).reshape(rows.shape)


def encode_settings(settings: LlamaSettings) -> dict[str, Value]:
    """State settings under the keys that llama.cpp reads, and under ours what it has no key for.

    Raises: WrongSettingError if single precision does not hold a number.
    """
    name = family(settings)
    stated: dict[str, Value] = {ARCHITECTURE_KEY: Scalar(ValueKind.STRING, name)}
    for setting, key in SETTING_KEYS.items():
        value = getattr(settings, setting)
        if isinstance(value, float):
            if shortest(value) != value:
                expected = f"{shortest(value)}, which single precision holds"
                raise WrongSettingError(f"model.{setting}", value, expected)
            stated[f"{name}.{key}"] = Scalar(ValueKind.F32, value)
        else:
            stated[f"{name}.{key}"] = Scalar(ValueKind.U32, value)
    stated[f"{name}.{HEAD_SIZE_KEYS[0]}"] = Scalar(ValueKind.U32, settings.head_size)
    stated[INITIALIZER_KEY] = Scalar(ValueKind.F64, settings.initializer_std)
    stated[TIED_KEY] = Scalar(ValueKind.BOOL, settings.tie_embeddings)
    return stated


def settings_of(path: Path, metadata: Metadata, names: Mapping[str, object]) -> LlamaSettings:
    """Read settings; `names` are those of the tensors, which tell a tied head from a missing one.

    Raises: ModelFormatError, also for a key of the architecture that is not known.
    """
    name = _architecture(path, metadata)
    stated = _stated(path, metadata, name)
    values: dict[str, object] = {
        "num_kv_heads": stated.get(SETTING_KEYS["num_heads"]),
        "vocab_size": _num_tokens(metadata),
        "rope_theta": UNSTATED_ROPE_THETA,
        "initializer_std": UNSTATED_INITIALIZER_STD,
        "tie_embeddings": OUTER_NAMES["lm_head.weight"] not in names,
    }
    values |= {setting: stated[key] for setting, key in SETTING_KEYS.items() if key in stated}
    for key, setting in ((INITIALIZER_KEY, "initializer_std"), (TIED_KEY, "tie_embeddings")):
        if key in metadata:
            values[setting] = _scalar(path, metadata, key)
    settings = decode_settings(path, {**values, "attention_bias": name == QWEN2})
    for key in HEAD_SIZE_KEYS:
        if stated.get(key, settings.head_size) != settings.head_size:
            found = f"{name}.{key} is {stated[key]!r:.60}"
            raise ModelFormatError(path, found, f"{settings.head_size}")
    return settings


def _architecture(path: Path, metadata: Metadata) -> str:
    name = _scalar(path, metadata, ARCHITECTURE_KEY)
    if name not in list(HUGGING_FACE_CLASSES):
        expected = f"one of {', '.join(HUGGING_FACE_CLASSES)}"
        raise ModelFormatError(path, f"{ARCHITECTURE_KEY} is {name!r:.60}", expected)
    return str(name)


def _stated(path: Path, metadata: Metadata, name: str) -> dict[str, object]:
    """Take the architecture's keys; one that is not known could change what the model computes."""
    prefix = f"{name}."
    stated = {}
    for key in metadata:
        if key.startswith(prefix):
            known = key.removeprefix(prefix)
            if known not in (*SETTING_KEYS.values(), *HEAD_SIZE_KEYS):
                raise ModelFormatError(path, f"unknown key {key!r:.60}", f"keys of a plain {name}")
            stated[known] = _scalar(path, metadata, key)
    return stated


def _scalar(path: Path, metadata: Metadata, key: str) -> object:
    value = metadata.get(key)
    if not isinstance(value, Scalar):
        fact = f"{key!r:.60} is an array" if value else f"no {key}"
        raise ModelFormatError(path, fact, "one value")
    return value.value


def _num_tokens(metadata: Metadata) -> int | None:
    tokens = metadata.get("tokenizer.ggml.tokens")
    return len(tokens.values) if isinstance(tokens, Array) else None
