import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Regex, Tokenizer, pre_tokenizers
from torch import Tensor

from data.tokenizer import PRE_TOKENIZER
from model.errors import ModelFormatError, UnencodableError, WrongSettingError, WrongTensorsError
from model.gguf_file import open_gguf
from model.gguf_model import FileType, describe_gguf, read_gguf_model, write_gguf_model
from model.gguf_names import gguf_name, interleave, split_halves
from model.gguf_tokenizer import SPLIT_CL100K, SPLIT_QWEN2
from model.gguf_values import Array
from model.llama import LlamaSettings
from tests.model.small_llama import (
    END_OF_TEXT,
    small_qwen2,
    small_settings,
    small_tensors,
    small_tokenizer,
)

# Rows of 256 and of 288 channels: whole super-blocks, and none.
WIDE = replace(small_settings(), hidden_size=256, intermediate_size=288)
WIDE_QWEN2 = replace(small_qwen2(), hidden_size=256, intermediate_size=288)


def write(
    path: Path,
    settings: LlamaSettings,
    tensors: dict[str, Tensor] | None = None,
    *,
    file_type: FileType = FileType.F32,
    tokenizer: Tokenizer | None = None,
    provenance: dict[str, str] | None = None,
) -> Path:
    write_gguf_model(
        path,
        settings,
        small_tensors(settings) if tensors is None else tensors,
        tokenizer_json=(tokenizer or small_tokenizer()).to_str(),
        file_type=file_type,
        provenance={"name": "small"} if provenance is None else provenance,
    )
    return path


@pytest.mark.parametrize(
    "settings",
    [
        small_settings(),
        small_qwen2(),
        replace(small_settings(), tie_embeddings=True),
        replace(small_qwen2(), tie_embeddings=False, rms_norm_eps=1e-6, rope_theta=1e6),
    ],
)
def test_a_model_in_float32_comes_back_bit_for_bit(tmp_path: Path, settings: LlamaSettings) -> None:
    path = write(tmp_path / "a.gguf", settings)

    found, tensors = read_gguf_model(path)

    assert found == settings
    expected = small_tensors(settings)
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert write(tmp_path / "b.gguf", found, tensors).read_bytes() == path.read_bytes()


# Relative errors of normal weights, by the least precise type in the file.
PRECISIONS = {
    FileType.F16: 3e-4,
    FileType.BF16: 2e-3,
    FileType.Q8_0: 6e-3,
    FileType.Q6_K: 0.018,
    FileType.Q4_K: 0.072,
}


@pytest.mark.parametrize("settings", [WIDE, WIDE_QWEN2])
@pytest.mark.parametrize("file_type", PRECISIONS)
def test_every_type_of_file_comes_back_with_its_precision(
    tmp_path: Path, settings: LlamaSettings, file_type: FileType
) -> None:
    found, tensors = read_gguf_model(write(tmp_path / "a.gguf", settings, file_type=file_type))

    assert found == settings
    errors = {
        name: float((tensors[name] - value).norm() / value.norm())
        for name, value in small_tensors(settings).items()
    }
    vectors = {name for name, value in tensors.items() if value.ndim == 1}
    assert {name for name, error in errors.items() if error == 0} == vectors
    assert PRECISIONS[file_type] / 2 < max(errors.values()) < PRECISIONS[file_type]


def types(path: Path) -> dict[str, str]:
    kinds = {tensor.name: tensor.type.name for tensor in open_gguf(path).tensors.values()}
    return {name: kind for name, kind in kinds.items() if not name.startswith("blk.1")}


@pytest.mark.parametrize(
    ("file_type", "head", "matrix", "odd"),
    [
        (FileType.F16, "F16", "F16", "F16"),
        (FileType.Q8_0, "Q8_0", "Q8_0", "Q8_0"),
        (FileType.Q6_K, "Q6_K", "Q6_K", "Q8_0"),
        (FileType.Q4_K, "Q6_K", "Q4_K", "Q8_0"),
    ],
)
def test_each_tensor_has_its_type(
    tmp_path: Path, file_type: FileType, head: str, matrix: str, odd: str
) -> None:
    assert types(write(tmp_path / "a.gguf", WIDE, file_type=file_type)) == {
        "token_embd.weight": matrix,
        "blk.0.attn_norm.weight": "F32",
        "blk.0.attn_q.weight": matrix,
        "blk.0.attn_k.weight": matrix,
        "blk.0.attn_v.weight": matrix,
        "blk.0.attn_output.weight": matrix,
        "blk.0.ffn_norm.weight": "F32",
        "blk.0.ffn_gate.weight": matrix,
        "blk.0.ffn_up.weight": matrix,
        "blk.0.ffn_down.weight": odd,
        "output_norm.weight": "F32",
        "output.weight": head,
    }


def test_an_embedding_that_scores_has_the_heads_type(tmp_path: Path) -> None:
    found = types(write(tmp_path / "a.gguf", WIDE_QWEN2, file_type=FileType.Q4_K))

    assert found["token_embd.weight"] == "Q6_K"
    assert found["blk.0.attn_q.bias"] == "F32"
    assert "output.weight" not in found


def test_rows_that_no_block_divides_are_half_precision(tmp_path: Path) -> None:
    found = types(write(tmp_path / "a.gguf", small_settings(), file_type=FileType.Q4_K))

    assert set(found.values()) == {"F16", "F32"}


def test_queries_of_a_llama_are_interleaved_and_of_a_qwen2_not(tmp_path: Path) -> None:
    rows = torch.arange(8.0)
    assert interleave(rows, 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert torch.equal(split_halves(interleave(rows, 2), 2), rows)

    # Rows of another name, for the weights of a Llama with four heads of two channels do not move.
    settings = replace(small_settings(), num_heads=2, num_kv_heads=1)
    qwen2 = replace(settings, attention_bias=True)
    for architecture, order in ((settings, [0, 2, 1, 3]), (qwen2, [0, 1, 2, 3])):
        stored = open_gguf(write(tmp_path / "a.gguf", architecture)).content("blk.0.attn_k.weight")
        weights = small_tensors(architecture)["model.layers.0.self_attn.k_proj.weight"]
        assert stored.view(np.float32).reshape(4, 8).tolist() == weights[order].tolist()


def test_names_are_those_of_the_gguf_package() -> None:
    for settings, architecture in (
        (replace(small_settings(), num_layers=12), gguf.MODEL_ARCH.LLAMA),
        (replace(small_qwen2(), num_layers=2), gguf.MODEL_ARCH.QWEN2),
    ):
        names = gguf.get_tensor_name_map(architecture, settings.num_layers)
        for name in small_tensors(settings):
            assert gguf_name(name) == names.get_name(name, try_suffixes=(".weight", ".bias"))


def test_the_gguf_package_reads_the_model(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.gguf",
        WIDE,
        file_type=FileType.Q4_K,
        provenance={"name": "small", "license": "MIT", "data_license": "PSF-2.0"},
    )

    reader = gguf.GGUFReader(path)

    assert {
        key: field.contents()
        for key, field in reader.fields.items()
        if not key.startswith(("GGUF.", "tokenizer.ggml.tok", "tokenizer.ggml.merges"))
    } == {
        "general.architecture": "llama",
        "llama.vocab_size": 264,
        "llama.context_length": 32,
        "llama.embedding_length": 256,
        "llama.block_count": 2,
        "llama.feed_forward_length": 288,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.layer_norm_rms_epsilon": pytest.approx(1e-5),
        "llama.rope.freq_base": 10_000,
        "llama.rope.dimension_count": 64,
        "assay.initializer_std": 0.02,
        "assay.tie_embeddings": False,
        "general.name": "small",
        "general.license": "MIT",
        "assay.data_license": "PSF-2.0",
        "general.file_type": 14,
        "general.quantization_version": 2,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
        "assay.tokenizer_sha256": reader.fields["assay.tokenizer_sha256"].contents(),
    }
    by_name = {tensor.name: tensor for tensor in reader.tensors}
    _, tensors = read_gguf_model(path)
    stored = by_name["blk.1.ffn_gate.weight"]
    theirs = gguf.quants.dequantize(stored.data, stored.tensor_type)
    assert np.array_equal(tensors["model.layers.1.mlp.gate_proj.weight"].numpy(), theirs)


def test_a_file_of_another_writer_is_read(tmp_path: Path) -> None:
    settings = replace(small_qwen2(), rope_theta=10_000.0)
    expected = small_tensors(settings)
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "qwen2")
    writer.add_context_length(32)
    writer.add_embedding_length(8)
    writer.add_block_count(2)
    writer.add_feed_forward_length(12)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_token_list([str(number) for number in range(264)])
    for name, value in expected.items():
        writer.add_tensor(gguf_name(name), value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    found, tensors = read_gguf_model(tmp_path / "a.gguf")

    assert found == settings
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_a_description_is_plain_json(tmp_path: Path) -> None:
    found = describe_gguf(write(tmp_path / "a.gguf", small_settings()))

    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["format"] == "gguf"
    assert found["num_tensors"] == 21
    assert found["num_items"] == {
        "tokenizer.ggml.tokens": 264,
        "tokenizer.ggml.token_type": 264,
        "tokenizer.ggml.merges": 7,
    }
    assert found["tensors"][0] == {  # type: ignore[index]
        "name": "token_embd.weight",
        "dtype": "F32",
        "shape": [264, 8],
        "size_bytes": 8448,
    }


def test_tokens_merges_and_their_types_are_the_tokenizers(tmp_path: Path) -> None:
    metadata = open_gguf(write(tmp_path / "a.gguf", small_settings())).metadata

    def items(name: str) -> list[object]:
        value = metadata[f"tokenizer.ggml.{name}"]
        assert isinstance(value, Array)
        return list(value.values)

    tokenizer = small_tokenizer()
    assert items("tokens") == [tokenizer.id_to_token(number) for number in range(264)]
    assert items("token_type") == [3] + [1] * 263
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    assert items("merges") == [" ".join(pair) for pair in merges]


def splitting(*steps: pre_tokenizers.PreTokenizer) -> Tokenizer:
    tokenizer = small_tokenizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
    return tokenizer


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


@pytest.mark.parametrize(
    ("tokenizer", "name"),
    [
        (small_tokenizer(), "gpt-2"),
        (splitting(pre_tokenizers.Split(Regex(PRE_TOKENIZER), "isolated"), BYTES), "dbrx"),
        (splitting(pre_tokenizers.Split(Regex(SPLIT_QWEN2), "isolated"), BYTES), "qwen2"),
        (
            splitting(
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False),
            ),
            "starcoder",
        ),
    ],
)
def test_a_way_of_splitting_has_llama_cpps_name(
    tmp_path: Path, tokenizer: Tokenizer, name: str
) -> None:
    path = write(tmp_path / "a.gguf", small_settings(), tokenizer=tokenizer)

    assert describe_gguf(path)["metadata"]["tokenizer.ggml.pre"] == name  # type: ignore[index]


def test_the_pattern_that_is_known_is_the_one_that_tokenizers_are_trained_with() -> None:
    assert SPLIT_CL100K == PRE_TOKENIZER


@pytest.mark.parametrize(
    "tokenizer",
    [
        splitting(BYTES),
        splitting(pre_tokenizers.Split(Regex(r"\s+"), "isolated"), BYTES),
        splitting(pre_tokenizers.Split(Regex(PRE_TOKENIZER), "removed"), BYTES),
        splitting(pre_tokenizers.Split(PRE_TOKENIZER, "isolated"), BYTES),
        splitting(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    ],
)
def test_a_way_of_splitting_that_llama_cpp_lacks_is_refused(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    with pytest.raises(ModelFormatError) as refused:
        write(tmp_path / "a.gguf", small_settings(), tokenizer=tokenizer)

    assert refused.value.found.startswith("pre-tokenizer ")
    known = "one that llama.cpp has: dbrx, llama-bpe, qwen2, gpt-2, starcoder"
    assert refused.value.expected == known


def test_an_end_of_text_that_is_not_known_is_refused(tmp_path: Path) -> None:
    tokenizer = small_tokenizer()
    content = tokenizer.to_str().replace(END_OF_TEXT, "<one>")
    tokenizer = Tokenizer.from_str(content)
    tokenizer.add_special_tokens([AddedToken("<two>", special=True)])
    settings = replace(small_settings(), vocab_size=265)

    with pytest.raises(ModelFormatError) as refused:
        write(tmp_path / "a.gguf", settings, tokenizer=tokenizer)

    assert refused.value.found == "special tokens <one>, <two>"


def test_what_single_precision_does_not_hold_is_refused(tmp_path: Path) -> None:
    settings = replace(small_settings(), rms_norm_eps=1.23456789e-5)

    with pytest.raises(WrongSettingError) as refused:
        write(tmp_path / "a.gguf", settings)

    assert refused.value.found == 1.23456789e-5
    assert refused.value.expected == "1.2345679e-05, which single precision holds"


@pytest.mark.parametrize(
    ("value", "file_type", "error"),
    [
        (float("nan"), FileType.F32, ModelFormatError),
        (float("inf"), FileType.Q4_K, ModelFormatError),
        (1e5, FileType.F16, ModelFormatError),
        (2e6, FileType.Q4_K, UnencodableError),
    ],
)
def test_a_value_that_the_type_cannot_hold_is_refused_and_nothing_left(
    tmp_path: Path, value: float, file_type: FileType, error: type[Exception]
) -> None:
    tensors = small_tensors(WIDE)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = value

    with pytest.raises(error):
        write(tmp_path / "a.gguf", WIDE, tensors, file_type=file_type)

    assert list(tmp_path.iterdir()) == []


def test_tensors_that_are_not_the_architectures_are_not_written(tmp_path: Path) -> None:
    tensors = small_tensors()
    del tensors["lm_head.weight"]

    with pytest.raises(WrongTensorsError):
        write(tmp_path / "a.gguf", small_settings(), tensors)


def test_a_provenance_key_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongSettingError):
        write(tmp_path / "a.gguf", small_settings(), provenance={"colour": "blue"})


def test_writing_holds_one_tensor_at_a_time(tmp_path: Path) -> None:
    settings = replace(WIDE, num_layers=24, intermediate_size=1024)
    tensors = small_tensors(settings)
    total_bytes = sum(value.nbytes for value in tensors.values())
    write(tmp_path / "warm.gguf", WIDE, file_type=FileType.Q8_0)

    tracemalloc.start()
    write(tmp_path / "a.gguf", settings, tensors, file_type=FileType.Q8_0)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    largest_bytes = max(value.nbytes for value in tensors.values())
    assert peak_bytes < 3 * largest_bytes + 2_000_000 < total_bytes / 10
