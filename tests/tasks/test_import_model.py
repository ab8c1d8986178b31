"""Models that transformers and others wrote become checkpoints, value for value."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from evidence.refs import CheckpointRef
from model.apr_file import open_apr, write_apr
from model.errors import (
    ModelFormatError,
    UnsupportedFeatureError,
    WrongTensorsError,
)
from model.gguf_file import open_gguf
from model.gguf_model import read_gguf_model
from model.gguf_values import Scalar, ValueKind
from model.safetensors_file import open_safetensors, write_safetensors
from tasks.bundle import measure_files
from tasks.checkpoint_settings import CheckpointSettings
from tasks.errors import ImportedError, NotFoundError
from tasks.import_model import import_model
from tasks.models import load_apr, load_directory
from tasks.store import Artefact, open_store
from tests.model.small_llama import END_OF_TEXT, small_tokenizer
from tests.tasks.tiny import at_home

SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
LABELS = CheckpointSettings(
    name="elsewhere",
    licence="MIT",
    data_source="not stated",
    data_licence="not stated",
    safetensors_dtype="float32",
    apr_types=(),
    gguf_types=("F32", "Q4_K"),
)


def saved(
    directory: Path,
    family: str = "llama",
    *,
    dtype: torch.dtype = torch.float32,
    shard: str = "1GB",
    **config: object,
) -> Path:
    """Let transformers write a model of random weights."""
    shape = {"vocab_size": 264, **SHAPE, **config}
    torch.random.manual_seed(1)
    model: Any
    if family == "llama":
        model = LlamaForCausalLM(LlamaConfig(**shape))
    else:
        model = Qwen2ForCausalLM(Qwen2Config(**shape))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    model.to(dtype).save_pretrained(directory, max_shard_size=shard)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=small_tokenizer(), eos_token=END_OF_TEXT)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    with at_home(tmp_path / "home"):
        yield tmp_path


def imported(source: Path, tokenizer: Path | None = None, **changes: Any) -> Artefact:
    return open_store().open(import_model(source, replace(LABELS, **changes), tokenizer))


def logits_of_theirs(directory: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.inference_mode():
        found: torch.Tensor = model(torch.arange(40)[None]).logits
    return found


CASES: dict[str, dict[str, Any]] = {
    "a llama": {"family": "llama"},
    "a tied llama": {"family": "llama", "tie_word_embeddings": True},
    "in several files": {"family": "llama", "shard": "60KB"},
    "a qwen2": {"family": "qwen2"},
    "a tied qwen2 in bfloat16": {
        "family": "qwen2",
        "tie_word_embeddings": True,
        "dtype": torch.bfloat16,
    },
    "in float16": {"family": "llama", "dtype": torch.float16},
    "more rows than tokens": {"family": "qwen2", "vocab_size": 320},
}


@pytest.mark.parametrize("case", CASES)
def test_what_transformers_wrote_computes_the_same_as_a_checkpoint(home: Path, case: str) -> None:
    source = saved(home / "source", **CASES[case])
    artefact = imported(source)
    theirs = logits_of_theirs(source)
    with torch.inference_mode():
        ours = load_apr(artefact.directory / "model.apr", "cpu")(torch.arange(40)[None])
        same = load_directory(artefact.directory, "cpu")(torch.arange(40)[None])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert torch.equal(ours, same)
    assert torch.equal(logits_of_theirs(artefact.directory), theirs)
    facts = measure_files(artefact.directory, artefact.index["content"]["lossless"])
    assert facts["weights_files"] == 4
    assert facts["files_unlike_forward"] == facts["differing_tensors"] == 0
    assert 0 < facts["largest_quantised_error"] < 0.2


def test_weights_and_tokenizer_are_kept_as_they_were(home: Path) -> None:
    source = saved(home / "source", dtype=torch.bfloat16)
    directory = imported(source, gguf_types=()).directory
    before, after = (open_safetensors(d / "model.safetensors") for d in (source, directory))
    assert before.tensors.keys() == after.tensors.keys()
    assert all(torch.equal(before.tensor(name), after.tensor(name)) for name in before.tensors)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (directory / name).read_bytes() == (source / name).read_bytes()
    assert AutoTokenizer.from_pretrained(directory)("def f")["input_ids"] == (
        small_tokenizer().encode("def f").ids
    )


def test_the_checkpoint_says_that_it_was_imported_and_nothing_of_a_training(home: Path) -> None:
    source = saved(home / "source")
    artefact = imported(source, gguf_types=())
    content = artefact.index["content"]
    assert list(content) == ["name", "imported", "lossless", "recorded_loss_nats"]
    (origin,) = content["imported"]["files"]
    assert origin["name"] == "model.safetensors"
    assert origin["bytes"] == (source / "model.safetensors").stat().st_size
    card = (artefact.directory / "README.md").read_text()
    assert "imported from `source` (huggingface)" in card
    assert "it has not been evaluated" in card
    assert "validation loss" not in card


def test_the_same_source_is_the_same_checkpoint(home: Path) -> None:
    source = saved(home / "source")
    assert imported(source).ref == imported(source).ref


@pytest.mark.parametrize("name", ["model.apr", "elsewhere-f32.gguf"])
def test_a_file_of_a_checkpoint_is_imported_with_the_tokenizer_beside_it(
    home: Path, name: str
) -> None:
    first = imported(saved(home / "source", "qwen2", tie_word_embeddings=True))
    again = imported(first.directory / name)
    assert again.ref != first.ref
    for file in ("model.safetensors", "tokenizer.json", "vocab.json"):
        assert (again.directory / file).read_bytes() == (first.directory / file).read_bytes(), file


def test_a_file_elsewhere_needs_to_be_told_its_tokenizer(home: Path) -> None:
    first = imported(saved(home / "source"))
    lonely = home / "lonely"
    lonely.mkdir()
    shutil.copy(first.directory / "elsewhere-q4k.gguf", lonely / "model.gguf")
    with pytest.raises(NotFoundError) as caught:
        imported(lonely / "model.gguf")
    assert caught.value.what == "tokenizer.json"
    assert caught.value.hint.startswith("`--tokenizer PATH`")
    again = imported(lonely / "model.gguf", first.directory / "tokenizer.json")
    quantised = read_gguf_model(lonely / "model.gguf")[1]
    kept = open_safetensors(again.directory / "model.safetensors")
    assert all(torch.equal(kept.tensor(name), each) for name, each in quantised.items())


def test_a_tokenizer_under_another_name_is_not_passed_over_for_the_file_beside_it(
    home: Path,
) -> None:
    source = saved(home / "source")
    other = shutil.copy(source / "tokenizer.json", source / "mine.json")
    with pytest.raises(ModelFormatError) as caught:
        imported(source, Path(other))
    assert (caught.value.path, caught.value.found) == (Path(other), "a file of another name")


def test_a_text_ends_with_a_token_that_there_is(home: Path) -> None:
    source = saved(home / "source")
    path = source / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "eos_token_id": [0, 264]}))
    with pytest.raises(ModelFormatError) as caught:
        imported(source)
    assert (caught.value.found, caught.value.expected) == (
        "eos_token_id is [0, 264]",
        "ids below 264",
    )
    path.write_text(json.dumps({**config, "bos_token_id": None, "eos_token_id": [0, 263]}))
    file = imported(source, gguf_types=("F32",)).directory / "elsewhere-f32.gguf"
    metadata = open_gguf(file).metadata
    assert metadata["tokenizer.ggml.bos_token_id"] == Scalar(ValueKind.U32, 0)


def test_a_gguf_file_begins_and_ends_texts_as_the_model_says(home: Path) -> None:
    source = saved(home / "source", bos_token_id=5, eos_token_id=[7, 0])
    metadata = open_gguf(imported(source).directory / "elsewhere-f32.gguf").metadata
    assert metadata["tokenizer.ggml.bos_token_id"] == Scalar(ValueKind.U32, 5)
    assert metadata["tokenizer.ggml.eos_token_id"] == Scalar(ValueKind.U32, 7)


def test_a_model_that_sees_no_text_is_refused(home: Path) -> None:
    source = saved(home / "source", max_position_embeddings=1)
    with pytest.raises(ModelFormatError) as caught:
        imported(source)
    assert caught.value.found.startswith("1 tokens of 1 for 'def main")
    assert caught.value.expected == "2 or more"


def test_all_files_of_a_source_are_named_as_its_origin(home: Path) -> None:
    artefact = imported(saved(home / "source", shard="60KB"), gguf_types=())
    sums = [each["sha256"] for each in artefact.index["content"]["imported"]["files"]]
    manifest = yaml.safe_load((artefact.directory / "manifest.yaml").read_text())
    assert len(sums) > 1
    assert manifest["provenance"]["parent"] == f"source, sha256 {', '.join(sums)}"
    assert manifest["version"] not in [each[:12] for each in sums]


def test_a_tokenizer_of_other_tokens_is_refused(home: Path) -> None:
    first = imported(saved(home / "source"))
    (home / "other").mkdir()
    definition = json.loads(small_tokenizer().to_str())
    ids = definition["model"]["vocab"]
    ids["!"], ids['"'] = ids['"'], ids["!"]
    other = home / "other" / "tokenizer.json"
    other.write_text(json.dumps(definition))
    assert Tokenizer.from_file(str(other)).token_to_id("!") == 2
    for name in ("model.apr", "elsewhere-q4k.gguf"):
        with pytest.raises(ModelFormatError) as caught:
            imported(first.directory / name, other)
        assert caught.value.path == other
        assert caught.value.found == "token 1 is '\"'"
        assert caught.value.expected == f"['!'], as {name} says"


def test_a_file_with_fewer_names_than_tokens_is_refused(home: Path) -> None:
    path = imported(saved(home / "source")).directory / "model.apr"
    file = open_apr(path)
    vocabulary = file.metadata["tokenizer.vocabulary"]
    assert isinstance(vocabulary, list)
    short = home / "short.apr"
    metadata = {**file.metadata, "tokenizer.vocabulary": vocabulary[:200]}
    write_apr(short, metadata, {name: file.tensor(name) for name in file.tensors})
    with pytest.raises(ModelFormatError) as caught:
        imported(short, path.parent)
    assert caught.value.expected == "[], as short.apr says"


def test_missing_and_unknown_tensors_are_listed(home: Path) -> None:
    path = saved(home / "source") / "model.safetensors"
    file = open_safetensors(path)
    tensors = {name: file.tensor(name) for name in file.tensors}
    del tensors["model.norm.weight"]
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    write_safetensors(
        path, tensors, dtypes=dict.fromkeys(tensors, torch.float32), metadata={"format": "pt"}
    )
    with pytest.raises(WrongTensorsError) as caught:
        imported(home / "source")
    assert caught.value.missing == ("model.norm.weight",)
    assert caught.value.unexpected == ("model.layers.0.self_attn.rotary_emb.inv_freq",)
    assert not (home / "home" / "store" / "checkpoint").exists()


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "rope_p"),
        ({"mlp_bias": True}, "mlp_bias is True"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    ],
)
def test_a_model_that_computes_something_else_is_unsupported(
    home: Path, config: dict[str, Any], found: str
) -> None:
    source = saved(home / "source", **config)
    with pytest.raises(UnsupportedFeatureError) as caught:
        imported(source)
    assert caught.value.found.startswith(found)


def test_a_value_that_is_not_finite_is_refused(home: Path) -> None:
    path = saved(home / "source") / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-4:] = bytes.fromhex("0000c07f")
    path.write_bytes(content)
    with pytest.raises(ModelFormatError) as caught:
        imported(home / "source")
    assert "are NaN or infinite" in caught.value.found


def test_pickled_weights_are_refused_unopened(home: Path) -> None:
    directory = saved(home / "source")
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(UnsupportedFeatureError) as caught:
        imported(directory)
    assert caught.value.found == "pickled weights"


def test_weights_without_a_configuration_are_no_model(home: Path) -> None:
    path = saved(home / "source") / "model.safetensors"
    with pytest.raises(ModelFormatError) as caught:
        imported(path)
    assert caught.value.found == "a safetensors file without a configuration"


def test_a_source_that_is_not_there_is_named(home: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        imported(home / "nothing")
    assert (caught.value.what, caught.value.where) == ("file or directory nothing", str(home))


def test_an_imported_checkpoint_is_not_bisected(home: Path) -> None:
    from tasks.bisection import trace_checkpoint
    from tests.tasks.test_settings import SETTINGS

    store, artefact = open_store(), imported(saved(home / "source"), gguf_types=())
    assert isinstance(artefact.ref, CheckpointRef)
    with pytest.raises(ImportedError) as caught:
        trace_checkpoint(store, artefact, "cpu", SETTINGS.thresholds, home)
    assert caught.value.what == "training to compare it with"
