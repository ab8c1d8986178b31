import hashlib
import json
from dataclasses import fields, replace
from math import prod
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models

from model.apr_file import open_apr, write_apr
from model.apr_layout import encode_index, place_tensors
from model.apr_model import expected_tensors, read_model, write_model
from model.architecture import BOUNDS, SWITCHES
from model.errors import CorruptFileError, ModelFormatError, WrongSettingError, WrongTensorsError
from model.llama import LlamaSettings
from tests.model.small_llama import END_OF_TEXT, small_settings, small_tensors, small_tokenizer

TOKENIZER_JSON = small_tokenizer().to_str()


def write_small(path: Path, **changes: torch.Tensor) -> None:
    tensors = {**small_tensors(), **changes}
    write_model(path, small_settings(), tensors, tokenizer_json=TOKENIZER_JSON, provenance={})


def rewrite(path: Path, **changes: object) -> None:
    """Change metadata under right checksums; None removes a key."""
    file = open_apr(path)
    metadata = {**file.metadata, **changes}
    kept = {key: value for key, value in metadata.items() if value is not None}
    write_apr(path, kept, {name: file.tensor(name) for name in file.tensors})


def settings_of_the_370m() -> LlamaSettings:
    return LlamaSettings(
        vocab_size=50_257,
        hidden_size=1024,
        num_layers=24,
        num_heads=16,
        num_kv_heads=4,
        intermediate_size=2816,
        max_position_embeddings=4096,
        rope_theta=10_000.0,
        rms_norm_eps=1e-5,
        initializer_std=0.02,
        attention_bias=False,
        tie_embeddings=False,
    )


def test_the_370m_has_the_published_tensors_parameters_and_index() -> None:
    shapes = expected_tensors(settings_of_the_370m())
    assert len(shapes) == 219
    assert sum(map(prod, shapes.values())) == 373_509_120
    assert sum(20 + len(name) + 8 * len(shape) for name, shape in shapes.items()) == 15_786


def test_the_370m_index_is_written_with_the_published_offsets(tmp_path: Path) -> None:
    # Views of one element: the shapes are real, the memory and the file's weights are not needed.
    shapes = expected_tensors(settings_of_the_370m())
    tensors = {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}
    entries = place_tensors(tmp_path, tensors, {})
    offsets = {entry.name: entry.offset_bytes for entry in entries}
    assert len(encode_index(entries)) == 15_786
    assert offsets["lm_head.weight"] == 0
    assert offsets["model.embed_tokens.weight"] == 205_852_672
    assert offsets["model.layers.0.input_layernorm.weight"] == 411_705_344
    assert offsets["model.norm.weight"] == 1_494_032_384
    assert entries[-1].end_bytes == 1_494_036_480


def test_a_model_is_read_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "model.apr"
    write_small(path)
    settings, tensors = read_model(path, scan=True)
    assert settings == small_settings()
    assert list(tensors) == list(expected_tensors(settings))
    assert all(torch.equal(tensors[name], tensor) for name, tensor in small_tensors().items())


@pytest.mark.parametrize(
    ("attention_bias", "tie_embeddings", "num_tensors", "num_parameters", "architecture"),
    [
        (False, True, 20, 3112, "llama"),
        (True, False, 27, 5256, "qwen2"),
        (True, True, 26, 3144, "qwen2"),
    ],
)
def test_biases_and_a_tied_head_are_read_back_exactly(
    tmp_path: Path,
    attention_bias: bool,
    tie_embeddings: bool,
    num_tensors: int,
    num_parameters: int,
    architecture: str,
) -> None:
    path = tmp_path / "model.apr"
    settings = replace(
        small_settings(), attention_bias=attention_bias, tie_embeddings=tie_embeddings
    )
    tensors = small_tensors(settings)
    write_model(path, settings, tensors, tokenizer_json=TOKENIZER_JSON, provenance={})
    found_settings, found = read_model(path, scan=True)
    assert found_settings == settings
    assert (len(found), found.keys()) == (num_tensors, tensors.keys())
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    metadata = open_apr(path).metadata
    assert metadata["param_count"] == num_parameters
    assert metadata["architecture"] == metadata["hf_model_type"] == architecture
    assert metadata.get("tied_embeddings", False) == tie_embeddings


def test_a_head_beside_a_tied_embedding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.apr"
    write_small(path)
    rewrite(path, tied_embeddings=True)
    with pytest.raises(WrongTensorsError) as caught:
        read_model(path)
    assert caught.value.unexpected == ("lm_head.weight",)


def test_an_initializer_without_a_short_decimal_survives(tmp_path: Path) -> None:
    path = tmp_path / "model.apr"
    settings = replace(small_settings(), initializer_std=0.1 + 0.2, rms_norm_eps=1 / 3 * 1e-5)
    write_model(path, settings, small_tensors(), tokenizer_json=TOKENIZER_JSON, provenance={})
    assert read_model(path)[0] == settings


def test_metadata_holds_the_canonical_keys_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "model.apr"
    provenance = {"data_license": "permissive", "license": "Apache-2.0", "name": "small"}
    write_model(
        path,
        small_settings(),
        small_tensors(),
        tokenizer_json=TOKENIZER_JSON,
        provenance=provenance,
    )
    metadata = open_apr(path).metadata
    del metadata["tokenizer.vocabulary"], metadata["tokenizer.merges"]
    assert json.dumps(metadata) == json.dumps(
        {
            "model_type": "llama",
            "name": "small",
            "license": "Apache-2.0",
            "data_license": "permissive",
            "param_count": 5224,
            "architecture": "llama",
            "hf_architecture": "LlamaForCausalLM",
            "hf_model_type": "llama",
            "rope_type": 2,
            "vocab_size": 264,
            "hidden_size": 8,
            "num_layers": 2,
            "num_heads": 4,
            "num_kv_heads": 2,
            "intermediate_size": 12,
            "max_position_embeddings": 32,
            "rope_theta": 10000.0,
            "rms_norm_eps": 1e-05,
            "head_dim": 2,
            "tokenizer.bos_token_id": 0,
            "tokenizer.eos_token_id": 0,
            "tokenizer.add_bos_token": False,
            "tokenizer.vocab_size": 264,
            "tokenizer.model_type": "BPE",
            "assay.tokenizer_sha256": hashlib.sha256(TOKENIZER_JSON.encode()).hexdigest(),
            "assay.initializer_std": 0.02,
        }
    )


def test_every_setting_has_a_key_and_bounds() -> None:
    assert {*BOUNDS, *SWITCHES} == {field.name for field in fields(LlamaSettings)}


def test_the_embedded_tokenizer_encodes_like_the_original(tmp_path: Path) -> None:
    path = tmp_path / "model.apr"
    write_small(path)
    metadata = open_apr(path).metadata
    tokens, merges = metadata["tokenizer.vocabulary"], metadata["tokenizer.merges"]
    assert isinstance(tokens, list)
    assert isinstance(merges, list)
    original = small_tokenizer()
    assert [original.token_to_id(token) for token in tokens] == list(range(264))
    rebuilt = Tokenizer(
        models.BPE(
            vocab={token: number for number, token in enumerate(tokens)},
            merges=[(left, right) for left, right in (merge.split(" ") for merge in merges)],
        )
    )
    rebuilt.pre_tokenizer = original.pre_tokenizer
    text = "def f(x):\n    return y\n"
    assert rebuilt.encode(text).ids == original.encode(text).ids
    assert tokens[0] == END_OF_TEXT
    assert open_apr(path).header.flags == 0x0600


def test_two_special_tokens_leave_the_boundaries_unsaid(tmp_path: Path) -> None:
    path = tmp_path / "model.apr"
    tokenizer = small_tokenizer()
    tokenizer.add_special_tokens(["<|pad|>"])
    settings = replace(small_settings(), vocab_size=265)
    tensors = {name: torch.ones(shape) for name, shape in expected_tensors(settings).items()}
    write_model(path, settings, tensors, tokenizer_json=tokenizer.to_str(), provenance={})
    assert "tokenizer.eos_token_id" not in open_apr(path).metadata


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    write_small(tmp_path / "one.apr")
    write_small(tmp_path / "two.apr")
    assert (tmp_path / "one.apr").read_bytes() == (tmp_path / "two.apr").read_bytes()


def test_tensors_other_than_the_architectures_are_not_written(tmp_path: Path) -> None:
    path = tmp_path / "model.apr"
    tensors = {**small_tensors(), "extra": torch.zeros(1), "lm_head.weight": torch.zeros(8, 264)}
    del tensors["model.norm.weight"]
    with pytest.raises(WrongTensorsError) as caught:
        write_model(path, small_settings(), tensors, tokenizer_json=TOKENIZER_JSON, provenance={})
    error = caught.value
    assert error.where == str(path)
    assert (error.missing, error.unexpected) == (("model.norm.weight",), ("extra",))
    assert error.misshapen == ("lm_head.weight [8, 264] instead of [264, 8]",)
    assert not path.exists()


def test_tensors_other_than_the_architectures_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.apr"
    write_small(path)
    file = open_apr(path)
    tensors = {name: file.tensor(name) for name in file.tensors if name != "lm_head.weight"}
    write_apr(path, file.metadata, {**tensors, "extra": torch.zeros(1)})
    with pytest.raises(WrongTensorsError) as caught:
        read_model(path)
    assert caught.value.missing == ("lm_head.weight",)
    assert caught.value.unexpected == ("extra",)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_not_written(tmp_path: Path, value: float) -> None:
    path = tmp_path / "model.apr"
    head = torch.ones(264, 8)
    head[3, 4] = value
    with pytest.raises(ModelFormatError) as caught:
        write_small(path, **{"lm_head.weight": head})
    assert caught.value.found == "1 of 2112 values of tensor 'lm_head.weight' are NaN or infinite"
    assert caught.value.expected == "finite"
    assert not path.exists()


def test_a_scan_finds_what_another_writer_let_through(tmp_path: Path) -> None:
    path = tmp_path / "model.apr"
    write_small(path)
    file = open_apr(path)
    tensors = {name: file.tensor(name).clone() for name in file.tensors}
    tensors["model.norm.weight"][:2] = torch.nan
    write_apr(path, file.metadata, tensors)
    read_model(path)
    with pytest.raises(ModelFormatError) as caught:
        read_model(path, scan=True)
    assert caught.value.found == "2 of 8 values of tensor 'model.norm.weight' are NaN or infinite"


def test_a_norm_in_half_precision_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError) as caught:
        write_small(tmp_path / "m.apr", **{"model.norm.weight": torch.ones(8).bfloat16()})
    assert caught.value.found == "vector 'model.norm.weight' is bfloat16"


def test_matrices_in_half_precision_are_kept_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "model.apr"
    head = small_tensors()["lm_head.weight"].bfloat16()
    write_small(path, **{"lm_head.weight": head})
    assert torch.equal(read_model(path)[1]["lm_head.weight"], head)


def test_a_changed_weight_is_refused_on_reading(tmp_path: Path) -> None:
    path = tmp_path / "model.apr"
    write_small(path)
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptFileError):
        read_model(path)


@pytest.mark.parametrize(
    ("changes", "found", "expected"),
    [
        ({"architecture": "phi"}, "architecture is 'phi'", "one of llama, qwen2"),
        ({"architecture": "qwen2"}, "hf_architecture is 'LlamaForCausalLM'", "'Qwen2ForCausalLM'"),
        ({"tied_embeddings": 1}, "tie_embeddings is 1", "true or false"),
        ({"rope_type": 0}, "rope_type is 0", "2"),
        ({"rope_type": None}, "rope_type is None", "2"),
        ({"head_dim": 4}, "head_dim is 4", "2"),
        ({"num_layers": None}, "no num_layers", "an integer from 1 to 256"),
        ({"num_layers": 2.0}, "num_layers is 2.0", "an integer from 1 to 256"),
        ({"num_layers": True}, "num_layers is True", "an integer from 1 to 256"),
        ({"num_layers": 10**12}, "num_layers is 1000000000000", "an integer from 1 to 256"),
        ({"num_heads": 0}, "num_heads is 0", "an integer from 1 to 256"),
        ({"num_heads": 3}, "model.hidden_size is 8", "a multiple of model.num_heads (3)"),
        ({"num_kv_heads": 3}, "model.num_heads is 4", "a multiple of model.num_kv_heads (3)"),
        ({"rope_theta": "1e4"}, "rope_theta is '1e4'", "a number from 1.0 to 100000000.0"),
        ({"assay.initializer_std": None}, "no initializer_std", "a number from 0.0 to 1.0"),
    ],
)
def test_metadata_of_another_model_is_refused(
    tmp_path: Path, changes: dict[str, object], found: str, expected: str
) -> None:
    path = tmp_path / "model.apr"
    write_small(path)
    rewrite(path, **changes)
    with pytest.raises(ModelFormatError) as caught:
        read_model(path)
    assert caught.value.path == path
    assert (caught.value.found, caught.value.expected) == (found, expected)


def test_an_integer_for_a_real_number_is_read_as_one(tmp_path: Path) -> None:
    path = tmp_path / "model.apr"
    write_small(path)
    rewrite(path, rope_theta=10_000)
    theta = read_model(path)[0].rope_theta
    assert (type(theta), theta) == (float, 10_000.0)


def test_settings_that_other_readers_refuse_are_not_written(tmp_path: Path) -> None:
    settings = replace(small_settings(), max_position_embeddings=2_097_153)
    with pytest.raises(WrongSettingError) as caught:
        write_model(tmp_path / "m.apr", settings, small_tensors(), tokenizer_json="", provenance={})
    assert caught.value.setting == "model.max_position_embeddings"
    assert (caught.value.found, caught.value.expected) == (2_097_153, "from 1 to 2097152")


def test_provenance_under_an_unknown_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongSettingError) as caught:
        write_model(
            tmp_path / "m.apr",
            small_settings(),
            small_tensors(),
            tokenizer_json=TOKENIZER_JSON,
            provenance={"licence": "Apache-2.0"},
        )
    assert (caught.value.setting, caught.value.found) == ("provenance", "licence")


def test_a_tokenizer_with_more_ids_than_the_embedding_is_refused(tmp_path: Path) -> None:
    settings = replace(small_settings(), vocab_size=260)
    tensors = {name: torch.ones(shape) for name, shape in expected_tensors(settings).items()}
    with pytest.raises(ModelFormatError) as caught:
        write_model(
            tmp_path / "m.apr", settings, tensors, tokenizer_json=TOKENIZER_JSON, provenance={}
        )
    assert caught.value.found == "tokenizer of 264 tokens up to id 263"
    assert caught.value.expected == "one for every id from 0, at most the 260 of the embedding"


def test_rows_without_a_token_are_named_as_padding(tmp_path: Path) -> None:
    path = tmp_path / "m.apr"
    settings = replace(small_settings(), vocab_size=266)
    tensors = {name: torch.ones(shape) for name, shape in expected_tensors(settings).items()}
    write_model(path, settings, tensors, tokenizer_json=TOKENIZER_JSON, provenance={})
    metadata = open_apr(path).metadata
    vocabulary = metadata["tokenizer.vocabulary"]
    assert isinstance(vocabulary, list)
    assert vocabulary[264:] == ["<|pad_264|>", "<|pad_265|>"]
    assert metadata["tokenizer.vocab_size"] == metadata["vocab_size"] == 266


@pytest.mark.parametrize(
    ("tokenizer_json", "expected"),
    [
        ("not JSON", "a tokenizer.json"),
        ("{}", "a tokenizer.json"),
        ("\ud800", "a tokenizer.json"),
        (Tokenizer(models.WordLevel({str(n): n for n in range(264)}, "0")).to_str(), "BPE"),
    ],
)
def test_a_tokenizer_of_another_kind_is_refused(
    tmp_path: Path, tokenizer_json: str, expected: str
) -> None:
    with pytest.raises(ModelFormatError) as caught:
        write_model(
            tmp_path / "m.apr",
            small_settings(),
            small_tensors(),
            tokenizer_json=tokenizer_json,
            provenance={},
        )
    assert caught.value.found.startswith("tokenizer ")
    assert caught.value.expected == expected


def test_a_merge_with_a_space_in_a_token_is_refused(tmp_path: Path) -> None:
    letters = {chr(33 + number): number for number in range(62)} | {" ": 62, "a b": 63}
    vocabulary = {**letters, **{f"t{number}": number for number in range(64, 263)}, "! ": 263}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("!", " ")]))
    with pytest.raises(ModelFormatError) as caught:
        write_model(
            tmp_path / "m.apr",
            small_settings(),
            small_tensors(),
            tokenizer_json=tokenizer.to_str(),
            provenance={},
        )
    assert caught.value.found == "merge ['!', ' ']"
