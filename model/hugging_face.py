"""A Llama or a Qwen2 as a Hugging Face directory that transformers opens as it stands.

Reading is strict: a configuration key that could change the computation has the one value that this
architecture means, and a key that this module does not know is refused rather than ignored.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from model.apr_metadata import decode_metadata, require_metadata_size
from model.architecture import (
    HUGGING_FACE_CLASSES,
    LLAMA,
    QWEN2,
    decode_settings,
    family,
    parse_tokenizer,
    require_bounds,
    require_finite,
    require_tensors,
)
from model.errors import CorruptFileError, ModelFormatError, WrongSettingError
from model.llama import LlamaSettings

READABLE = 0o644
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"

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
# Read by this module in their own way, or without any effect on the logits.
OTHER_KEYS = {
    *("architectures", "model_type", "layer_types", "sliding_window", "max_window_layers"),
    *("head_dim", "rope_parameters", "rope_theta", "dtype", "torch_dtype"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "use_cache"),
    *("transformers_version", "_name_or_path", "return_dict", "output_hidden_states"),
}


def write_directory(
    directory: Path,
    settings: LlamaSettings,
    tensors: Mapping[str, Tensor],
    *,
    tokenizer_json: str,
    end_of_text: str,
    dtype: torch.dtype,
) -> None:
    """Write weights, configuration and tokenizer into a directory.

    Precision: every tensor is rounded to `dtype`.
    Raises: WrongTensorsError, WrongSettingError, ModelFormatError.
    """
    if dtype not in DTYPES.values():
        raise WrongSettingError("dtype", dtype, f"one of {', '.join(DTYPES)}")
    require_bounds(settings)
    require_tensors(str(directory), settings, {name: tensors[name].shape for name in tensors})
    tokenizer = parse_tokenizer(directory / TOKENIZER_FILE, settings, tokenizer_json)
    end_id = _special_id(tokenizer, end_of_text)
    directory.mkdir(parents=True, exist_ok=True)
    _write_weights(directory / WEIGHTS_FILE, tensors, dtype)
    _write_json(directory / CONFIG_FILE, _config(settings, end_id, dtype))
    _write_json(directory / "generation_config.json", _boundaries("token_id", end_id))
    (directory / TOKENIZER_FILE).write_text(tokenizer_json, encoding="utf-8", newline="")
    _write_json(directory / "special_tokens_map.json", _boundaries("token", end_of_text))
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **_boundaries("token", end_of_text),
        "model_max_length": settings.max_position_embeddings,
        "clean_up_tokenization_spaces": False,
    }
    _write_json(directory / "tokenizer_config.json", tokenizer_config)


def read_directory(directory: Path) -> tuple[LlamaSettings, dict[str, Tensor]]:
    """Read a directory that holds exactly this architecture in one weights file.

    Raises: CorruptFileError, ModelFormatError, WrongTensorsError.
    """
    settings, dtype = _read_config(directory / CONFIG_FILE)
    path = directory / WEIGHTS_FILE
    if not path.is_file():
        raise ModelFormatError(path, "missing", f"all weights beside {CONFIG_FILE}")
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise CorruptFileError(path, f"unreadable ({error})", "a safetensors file") from error
    require_tensors(str(path), settings, {name: tensors[name].shape for name in tensors})
    for name, tensor in tensors.items():
        if tensor.dtype != dtype:
            found = f"tensor {name!r} is {tensor.dtype}"
            raise ModelFormatError(path, found, f"{dtype} as {CONFIG_FILE} says")
    return settings, tensors


def _special_id(tokenizer: Tokenizer, end_of_text: str) -> int:
    for number, token in tokenizer.get_added_tokens_decoder().items():
        if token.special and token.content == end_of_text:
            return int(number)
    raise WrongSettingError("end_of_text", end_of_text, "a special token of the tokenizer")


def _boundaries(suffix: str, value: int | str) -> dict[str, int | str]:
    """Name one token for both ends: a document begins where the one before it ended."""
    return {f"bos_{suffix}": value, f"eos_{suffix}": value}


def _write_weights(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    rounded = {name: tensors[name].detach().to("cpu", dtype).contiguous() for name in tensors}
    for name, tensor in rounded.items():
        require_finite(path, name, tensor)
    save_file(rounded, path, metadata={"format": "pt"})
    # The library makes the file private; a bundle is for others to read.
    path.chmod(READABLE)


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _config(settings: LlamaSettings, end_id: int, dtype: torch.dtype) -> dict[str, object]:
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
        **_boundaries("token_id", end_id),
        "use_cache": True,
        "dtype": name,
        "torch_dtype": name,
    }


def _read_config(path: Path) -> tuple[LlamaSettings, torch.dtype]:
    require_metadata_size(path, path.stat().st_size)
    config = decode_metadata(path, path.read_bytes())
    name = _require_family(path, config)
    values = {setting: config[key] for setting, key in CONFIG_KEYS.items() if key in config}
    values = {"tie_embeddings": False, **values, "attention_bias": name == QWEN2}
    settings = decode_settings(path, {**values, "rope_theta": _rope_theta(path, config)})
    if config.get("head_dim", settings.head_size) != settings.head_size:
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
        raise ModelFormatError(path, f"model_type is {name!r:.60}", known)
    constants = CONSTANTS[str(name)]
    for key in config:
        if key not in {*constants, *CONFIG_KEYS.values(), *OTHER_KEYS}:
            raise ModelFormatError(path, f"unknown key {key!r}", f"keys of a plain {name}")
    architectures = [HUGGING_FACE_CLASSES[str(name)]]
    for key, expected in {**constants, "architectures": architectures}.items():
        if config.get(key, constants.get(key)) != expected:
            found = f"{key} is {config.get(key)!r:.60}"
            raise ModelFormatError(path, found, f"{expected!r}")
    layers = config.get("layer_types", [])
    if not isinstance(layers, list) or any(layer != "full_attention" for layer in layers):
        raise ModelFormatError(path, f"layer_types is {layers!r:.60}", "full attention everywhere")
    return str(name)


def _rope_theta(path: Path, config: Mapping[str, object]) -> object:
    """Return the one base that the configuration states, in the old place, the new one, or both."""
    rope = config.get("rope_parameters", {})
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
        raise ModelFormatError(path, f"rope_parameters is {rope!r:.60}", "of type 'default'")
    extra = rope.keys() - {"rope_type", "rope_theta"}
    stated = [place["rope_theta"] for place in (rope, config) if "rope_theta" in place]
    if extra or not stated or stated[0] != stated[-1]:
        found = f"rope_theta is {stated!r:.60} with {sorted(extra)!r:.60}"
        raise ModelFormatError(path, found, "one number and nothing else")
    return stated[0]
