import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from model.apr_model import expected_tensors
from model.errors import (
    CorruptFileError,
    ModelFormatError,
    UnsupportedFeatureError,
    WrongSettingError,
    WrongTensorsError,
)
from model.hugging_face import read_directory, write_directory
from model.hugging_face_config import read_config
from model.llama import Llama, LlamaSettings
from tests.model.small_llama import (
    END_OF_TEXT,
    small_qwen2,
    small_settings,
    small_tensors,
    small_tokenizer,
)

TEXT = "def f(x):\n    return x + 1\n<|endoftext|>def g():\n\tpass  # caf\u00e9\n"


def write_small(
    directory: Path,
    dtype: torch.dtype = torch.float32,
    settings: LlamaSettings | None = None,
) -> Path:
    write_directory(
        directory,
        settings or small_settings(),
        small_tensors(settings),
        tokenizer_json=small_tokenizer().to_str(),
        end_of_text=END_OF_TEXT,
        dtype=dtype,
    )
    return directory


def edit_config(directory: Path, **changes: object) -> None:
    """Change keys of the configuration; an ellipsis removes one."""
    path = directory / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    kept = {key: value for key, value in config.items() if value is not ...}
    path.write_text(json.dumps(kept))


def test_a_directory_is_read_back_exactly(tmp_path: Path) -> None:
    settings, tensors = read_directory(write_small(tmp_path / "model"))
    assert settings == small_settings()
    assert tensors.keys() == small_tensors().keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in small_tensors().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_transformers_opens_the_directory_unchanged(tmp_path: Path, dtype: torch.dtype) -> None:
    directory = write_small(tmp_path / "model", dtype)
    model, report = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    assert not any(report.values())
    assert model.dtype == dtype
    loaded = model.state_dict()
    expected = {name: tensor.to(dtype) for name, tensor in small_tensors().items()}
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())
    ids_BT = torch.tensor([small_tokenizer().encode(TEXT).ids[:32]])
    assert model(ids_BT).logits.isfinite().all()
    assert model.generation_config.eos_token_id == 0


@pytest.mark.parametrize(
    ("attention_bias", "tie_embeddings", "family"),
    [(False, True, "llama"), (True, False, "qwen2"), (True, True, "qwen2")],
)
def test_transformers_computes_what_we_do_from_biases_and_a_tied_head(
    tmp_path: Path, attention_bias: bool, tie_embeddings: bool, family: str
) -> None:
    settings = replace(
        small_settings(), attention_bias=attention_bias, tie_embeddings=tie_embeddings
    )
    directory = write_small(tmp_path / "model", settings=settings)
    theirs, report = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    assert not any(report.values())
    assert theirs.config.model_type == family
    ours = Llama(settings)
    found_settings, found = read_directory(directory)
    ours.load_state_dict(found)
    ids_BT = torch.tensor([small_tokenizer().encode(TEXT).ids[:32]])
    assert found_settings == settings
    torch.testing.assert_close(ours(ids_BT), theirs(ids_BT).logits, rtol=1e-5, atol=1e-5)


def test_what_transformers_saves_of_a_qwen2_is_read(tmp_path: Path) -> None:
    directory = write_small(tmp_path / "one", settings=small_qwen2())
    AutoModelForCausalLM.from_pretrained(directory).save_pretrained(tmp_path / "two")
    settings, tensors = read_directory(tmp_path / "two")
    assert settings == small_qwen2()
    expected = small_tensors(small_qwen2())
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())


def test_a_configuration_as_published_for_qwen2_5_is_read(tmp_path: Path) -> None:
    directory = write_small(tmp_path / "model", settings=small_qwen2())
    edit_config(
        directory,
        rope_parameters=...,
        rope_scaling=...,
        dtype=...,
        head_dim=...,
        max_window_layers=24,
        sliding_window=32_768,
        use_mrope=False,
        transformers_version="4.44.0",
    )
    assert read_directory(directory)[0] == small_qwen2()


def test_keys_of_published_llamas_without_effect_are_let_pass(tmp_path: Path) -> None:
    directory = write_small(tmp_path / "model")
    edit_config(
        directory,
        **{
            "is_llama_config": True,
            "rope_interleaved": False,
            "transformers.js_config": {"dtype": "q4"},
            "pad_token_id": 2,
        },
    )
    assert read_directory(directory)[0] == small_settings()


def test_as_many_key_heads_as_queries_need_not_be_said(tmp_path: Path) -> None:
    settings = replace(small_settings(), num_kv_heads=4)
    directory = write_small(tmp_path / "model", settings=settings)
    edit_config(directory, num_key_value_heads=...)
    assert read_directory(directory)[0] == settings


def test_adjacent_pairs_of_channels_are_refused(tmp_path: Path) -> None:
    directory = write_small(tmp_path / "model")
    edit_config(directory, rope_interleaved=True)
    with pytest.raises(UnsupportedFeatureError) as caught:
        read_directory(directory)
    assert caught.value.found == "rope_interleaved is True"


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"use_sliding_window": True}, "use_sliding_window is True"),
        ({"use_mrope": True}, "use_mrope is True"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types is ['full_att"),
    ],
)
def test_a_qwen2_of_another_attention_is_refused(
    tmp_path: Path, changes: dict[str, object], found: str
) -> None:
    directory = write_small(tmp_path / "model", settings=small_qwen2())
    edit_config(directory, **changes)
    with pytest.raises(ModelFormatError) as caught:
        read_directory(directory)
    assert caught.value.found.startswith(found)


def test_transformers_reads_the_settings_that_were_meant(tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(write_small(tmp_path / "model"))
    assert config.initializer_range == 0.02
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 10_000.0}
    assert (config.num_key_value_heads, config.head_dim) == (2, 2)
    assert (config.bos_token_id, config.eos_token_id) == (0, 0)
    assert (config.hidden_act, config.tie_word_embeddings) == ("silu", False)


def test_the_configuration_speaks_to_transformers_4_as_well(tmp_path: Path) -> None:
    directory = write_small(tmp_path / "model", torch.bfloat16)
    config = json.loads((directory / "config.json").read_text())
    assert (config["rope_theta"], config["rope_scaling"]) == (10_000.0, None)
    assert (config["dtype"], config["torch_dtype"]) == ("bfloat16", "bfloat16")


def test_the_tokenizer_gives_the_ids_of_the_tokenizers_library(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(write_small(tmp_path / "model"))
    ids = tokenizer(TEXT)["input_ids"]
    assert ids == small_tokenizer().encode(TEXT).ids
    assert tokenizer.decode(ids) == TEXT
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == (END_OF_TEXT, 0)
    assert len(tokenizer) == small_settings().vocab_size


def test_what_transformers_saves_is_read(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(write_small(tmp_path / "one"))
    model.save_pretrained(tmp_path / "two")
    settings, tensors = read_directory(tmp_path / "two")
    assert settings == small_settings()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in small_tensors().items())


def test_what_transformers_4_wrote_is_read(tmp_path: Path) -> None:
    directory = write_small(tmp_path / "model")
    edit_config(directory, rope_parameters=..., dtype=..., head_dim=..., hidden_act=...)
    assert read_directory(directory)[0] == small_settings()


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = write_small(tmp_path / "one"), write_small(tmp_path / "two")
    names = sorted(path.name for path in one.iterdir())
    assert names == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)


def test_the_tokenizer_file_is_the_one_that_was_given(tmp_path: Path) -> None:
    path = write_small(tmp_path / "model") / "tokenizer.json"
    assert path.read_bytes() == small_tokenizer().to_str().encode()


@pytest.mark.parametrize(
    ("changes", "found", "expected"),
    [
        ({"model_type": "mistral"}, "model_type is 'mistral'", "one of llama, qwen2"),
        ({"model_type": ...}, "model_type is None", "one of llama, qwen2"),
        ({"architectures": ...}, "architectures is None", "['LlamaForCausalLM']"),
        ({"model_type": "qwen2"}, "unknown key 'attention_bias'", "keys of a plain qwen2"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'", "'silu'"),
        ({"attention_bias": True}, "attention_bias is True", "False"),
        ({"tie_word_embeddings": None}, "tie_embeddings is None", "true or false"),
        (
            {"layer_types": ["sliding_attention"]},
            "layer_types is ['sliding_attention']",
            "full att",
        ),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling is {'type': 'linear'}", "None"),
        ({"quantization_config": {}}, "unknown key 'quantization_config'", "keys of a plain llama"),
        ({"head_dim": 4}, "head_dim is 4", "2"),
        ({"rope_theta": 5e5}, "rope_theta is [10000.0, 500000.0] with []", "one number and noth"),
        ({"rope_theta": None}, "rope_theta is [10000.0, None] with []", "one number"),
        (
            {"rope_parameters": {"rope_theta": 1e4, "factor": 8}},
            "rope_theta is [10000.0, 10000.0] with ['factor']",
            "one number",
        ),
        (
            {"rope_parameters": {"rope_type": "yarn"}},
            "rope_parameters is {'rope_type': 'yarn'}",
            "of type 'default'",
        ),
        ({"rope_parameters": []}, "rope_parameters is []", "of type 'default'"),
        ({"num_hidden_layers": 10**9}, "num_layers is 1000000000", "an integer from 1 to 256"),
        ({"initializer_range": ...}, "no initializer_std", "a number from 0.0 to 1.0"),
        ({"torch_dtype": "float16"}, "dtype is ['float32', 'float16']", "one of float32, "),
        ({"dtype": [], "torch_dtype": []}, "dtype is [[], []]", "one of float32, float16, "),
        ({"dtype": ..., "torch_dtype": ...}, "dtype is []", "one of float32, float16, "),
    ],
)
def test_a_configuration_of_another_model_is_refused(
    tmp_path: Path, changes: dict[str, object], found: str, expected: str
) -> None:
    directory = write_small(tmp_path / "model")
    edit_config(directory, **changes)
    with pytest.raises(ModelFormatError) as caught:
        read_directory(directory)
    assert caught.value.path == directory / "config.json"
    assert caught.value.found == found
    assert caught.value.expected.startswith(expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_theta": ..., "rope_parameters": ...},
        {"rope_theta": ..., "rope_parameters": None},
        {"rope_theta": ..., "rope_parameters": {"rope_type": "default"}},
        {"head_dim": None},
        {"num_attention_heads": 4, "num_key_value_heads": None},
    ],
)
def test_what_older_configurations_leave_out_is_what_transformers_takes(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    path = write_small(tmp_path / "model") / "config.json"
    edit_config(path.parent, **changes)
    theirs = AutoConfig.from_pretrained(path.parent)
    settings, _ = read_config(path)
    assert settings.rope_theta == theirs.rope_parameters["rope_theta"] == 10_000.0
    assert settings.head_size == theirs.head_dim == 2
    assert settings.num_kv_heads == theirs.num_key_value_heads


def test_weights_of_another_dtype_than_stated_are_refused(tmp_path: Path) -> None:
    directory = write_small(tmp_path / "model")
    edit_config(directory, dtype="bfloat16", torch_dtype="bfloat16")
    with pytest.raises(ModelFormatError) as caught:
        read_directory(directory)
    assert caught.value.expected == "torch.bfloat16 as config.json says"


def test_tensors_other_than_the_architectures_are_refused(tmp_path: Path) -> None:
    path = write_small(tmp_path / "model") / "model.safetensors"
    tensors = load_file(path)
    del tensors["lm_head.weight"]
    save_file({**tensors, "extra": torch.zeros(1)}, path)
    with pytest.raises(WrongTensorsError) as caught:
        read_directory(tmp_path / "model")
    assert (caught.value.missing, caught.value.unexpected) == (("lm_head.weight",), ("extra",))


def test_weights_cut_short_are_corrupt(tmp_path: Path) -> None:
    path = write_small(tmp_path / "model") / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptFileError) as caught:
        read_directory(tmp_path / "model")
    assert caught.value.path == path
    assert caught.value.found == f"ends after {path.stat().st_size} bytes"


def test_weights_in_several_files_without_an_index_are_refused(tmp_path: Path) -> None:
    path = write_small(tmp_path / "model") / "model.safetensors"
    path.rename(path.with_name("model-00001-of-00002.safetensors"))
    with pytest.raises(ModelFormatError) as caught:
        read_directory(tmp_path / "model")
    assert (caught.value.found, caught.value.expected) == (
        "missing",
        "all weights beside config.json",
    )


def test_a_value_that_the_dtype_cannot_hold_is_refused(tmp_path: Path) -> None:
    tensors = {**small_tensors(), "model.norm.weight": torch.full((8,), 1e5)}
    with pytest.raises(ModelFormatError) as caught:
        write_directory(
            tmp_path / "model",
            small_settings(),
            tensors,
            tokenizer_json=small_tokenizer().to_str(),
            end_of_text=END_OF_TEXT,
            dtype=torch.float16,
        )
    assert caught.value.found == "8 of 8 values of tensor 'model.norm.weight' are NaN or infinite"


@pytest.mark.parametrize(
    ("end_of_text", "dtype", "setting"),
    [("def", torch.float32, "end_of_text"), (END_OF_TEXT, torch.float64, "dtype")],
)
def test_a_choice_that_cannot_work_is_refused(
    tmp_path: Path, end_of_text: str, dtype: torch.dtype, setting: str
) -> None:
    with pytest.raises(WrongSettingError) as caught:
        write_directory(
            tmp_path / "model",
            small_settings(),
            small_tensors(),
            tokenizer_json=small_tokenizer().to_str(),
            end_of_text=end_of_text,
            dtype=dtype,
        )
    assert caught.value.setting == setting
    assert not (tmp_path / "model").exists()


def test_a_tokenizer_with_more_ids_than_the_embedding_is_refused(tmp_path: Path) -> None:
    settings = replace(small_settings(), vocab_size=263)
    with pytest.raises(ModelFormatError) as caught:
        write_directory(
            tmp_path / "model",
            settings,
            {name: torch.ones(shape) for name, shape in expected_tensors(settings).items()},
            tokenizer_json=small_tokenizer().to_str(),
            end_of_text=END_OF_TEXT,
            dtype=torch.float32,
        )
    assert caught.value.found == "tokenizer of 264 tokens up to id 263"
