"""The configuration of a Hugging Face directory: written for transformers, read strictly.

A key that could change the computation has the one value that this architecture means, and a key
that this module does not know is refused rather than ignored.
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from model.apr_metadata import decode_metadata, require_metadata_size
from model.architecture import (
    HUGGING_FACE_CLASSES,
    LLAMA,
    QWEN2,
    UNSTATED_ROPE_THETA,
    decode_settings,
    family,
)
from model.errors import ModelFormatError, UnsupportedFeatureError
from model.llama import LlamaSettings

CONFIG_FILE = "config.json"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# Hugging Face's name of every setting that is stored under a name of its own.
CONFIG_KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "intermediate_size": "intermediate_size",
    "max_position_embeddings": "max_position_embeddings",
    "rms_norm_eps": "rms_norm_eps",
    "initializer_std": "initializer_range",
    "tie_embeddings": "tie_word_embeddings",
}
# Of each family; also what transformers takes for each key that is absent.
CONSTANTS: dict[str, dict[str, object]] = {
    LLAMA: {
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "pretraining_tp": 1,
        "rope_scaling": None,
    },
    QWEN2: {
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "use_mrope": False,
        "rope_scaling": None,
    },
}
# Of any family, in files of others: SmolLM's name for another channel pairing.
ELSEWHERE: dict[str, object] = {"rope_interleaved": False}
# Read by this module in their own way, or without any effect on the logits.
OTHER_KEYS = {
    *("architectures", "model_type", "layer_types", "sliding_window", "max_window_layers"),
    *("head_dim", "rope_parameters", "rope_theta", "dtype", "torch_dtype"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "use_cache"),
    *("is_llama_config", "transformers.js_config"),
    *("transformers_version", "_name_or_path", "return_dict", "output_hidden_states"),
}


def read_object(path: Path) -> dict[str, object]:
    """Read a JSON file that must hold one object.

    Raises: ModelFormatError.
    """
    if not path.is_file():
        raise ModelFormatError(path, "missing", "there")
    require_metadata_size(path, path.stat().st_size)
    return decode_metadata(path, path.read_bytes())


def encode_config(
    settings: LlamaSettings, ends: Mapping[str, object], dtype: torch.dtype
) -> dict[str, object]:
    """Describe the model in the words of transformers 5 and, where they differ, of 4 as well."""
    name = str(dtype).removeprefix("torch.")
    return {
        "architectures": [HUGGING_FACE_CLASSES[family(settings)]],
        "model_type": family(settings),
        **CONSTANTS[family(settings)],
        **{key: getattr(settings, setting) for setting, key in CONFIG_KEYS.items()},
        "head_dim": settings.head_size,
        "rope_parameters": {"rope_type": "default", "rope_theta": settings.rope_theta},
        "rope_theta": settings.rope_theta,
        **ends,
        "use_cache": True,
        "dtype": name,
        "torch_dtype": name,
    }


def read_config(path: Path) -> tuple[LlamaSettings, torch.dtype]:
    """Read the settings and the dtype of the weights.

    Raises: ModelFormatError, UnsupportedFeatureError for another architecture.
    """
    config = read_object(path)
    name = _require_family(path, config)
    values = {setting: config[key] for setting, key in CONFIG_KEYS.items() if key in config}
    # What transformers takes for a key that older files leave out.
    if values.get("num_kv_heads") is None:
        values["num_kv_heads"] = values.get("num_heads")
    values = {"tie_embeddings": False, **values, "attention_bias": name == QWEN2}
    settings = decode_settings(path, {**values, "rope_theta": _rope_theta(path, config)})
    if config.get("head_dim") not in (None, settings.head_size):
        found = f"head_dim is {config['head_dim']!r:.60}"
        raise ModelFormatError(path, found, f"{settings.head_size}")
    names = [config[key] for key in ("dtype", "torch_dtype") if key in config]
    if not names or names[0] != names[-1] or names[0] not in list(DTYPES):
        raise ModelFormatError(path, f"dtype is {names!r:.60}", f"one of {', '.join(DTYPES)}")
    return settings, DTYPES[str(names[0])]


def _require_family(path: Path, config: Mapping[str, object]) -> str:
    """Refuse whatever is neither a plain Llama nor a plain Qwen2, and name which it is."""
    name = config.get("model_type")
    if name not in list(HUGGING_FACE_CLASSES):
        known = f"one of {', '.join(HUGGING_FACE_CLASSES)}"
        raise UnsupportedFeatureError(path, f"model_type is {name!r:.60}", known)
    constants = {**CONSTANTS[str(name)], **ELSEWHERE}
    for key in config:
        if key not in {*constants, *CONFIG_KEYS.values(), *OTHER_KEYS}:
            raise UnsupportedFeatureError(path, f"unknown key {key!r}", f"keys of a plain {name}")
    architectures = [HUGGING_FACE_CLASSES[str(name)]]
    for key, expected in {**constants, "architectures": architectures}.items():
        if config.get(key, constants.get(key)) != expected:
            found = f"{key} is {config.get(key)!r:.60}"
            raise UnsupportedFeatureError(path, found, f"{expected!r}")
    layers = config.get("layer_types", [])
    if not isinstance(layers, list) or any(layer != "full_attention" for layer in layers):
        found = f"layer_types is {layers!r:.60}"
        raise UnsupportedFeatureError(path, found, "full attention everywhere")
    return str(name)


def _rope_theta(path: Path, config: Mapping[str, object]) -> object:
    """Return the one base that the configuration states, in the old place, the new one, or both."""
    rope = {} if config.get("rope_parameters") is None else config["rope_parameters"]
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
        raise UnsupportedFeatureError(path, f"rope_parameters is {rope!r:.60}", "of type 'default'")
    extra = rope.keys() - {"rope_type", "rope_theta"}
    stated = [place["rope_theta"] for place in (rope, config) if "rope_theta" in place]
    stated = stated or [UNSTATED_ROPE_THETA]
    if extra or stated[0] != stated[-1]:
        found = f"rope_theta is {stated!r:.60} with {sorted(extra)!r:.60}"
        raise ModelFormatError(path, found, "one number and nothing else")
    return stated[0]
