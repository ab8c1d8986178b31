"""Every file of a bundle is loaded again, and must compute what its tensors compute."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from evidence.canonical import pretty
from model.safetensors_file import open_safetensors, write_safetensors
from tasks.bundle import Sealable, WeightsFile, measure_files, seal, weights_files
from tasks.checkpoint_settings import CheckpointSettings, SafetensorsDtype
from tasks.errors import UnfaithfulFileError
from tasks.first_forward import FORWARD, forward_of, read_record, write_record
from tests.model.small_llama import small_settings, small_tensors, small_tokenizer

IDS = [[1, 2, 3, 4]]
EVERYTHING = CheckpointSettings(
    name="small",
    licence="MIT",
    data_source="none",
    data_licence="none",
    safetensors_dtype="float32",
    apr_types=("Q4K", "Q6K", "AprQ4", "AprQ8"),
    gguf_types=("F32", "F16", "BF16", "Q8_0", "Q4_K", "Q6_K"),
)
WIDE = replace(small_settings(), hidden_size=256, intermediate_size=256)


def model() -> Sealable:
    return Sealable(
        llama=WIDE,
        tensors={name: tensor / 8 for name, tensor in small_tensors(WIDE).items()},
        tokenizer_json=small_tokenizer().to_str(),
        ends={"bos_token_id": 0, "eos_token_id": 0},
        provenance={},
    )


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sealed")
    write_record(out, seal(weights_files(out, model(), EVERYTHING), model(), IDS))
    return out


def test_where_a_tensor_lies_in_memory_does_not_change_what_is_computed() -> None:
    # A single row is multiplied by kernels that add otherwise at an odd address.
    def moved(tensor: torch.Tensor) -> torch.Tensor:
        room = torch.empty(tensor.numel() + 1)[1:]
        return room.copy_(tensor.flatten()).reshape(tensor.shape)

    tensors = model().tensors
    elsewhere = {name: moved(tensor) for name, tensor in tensors.items()}
    for ids in ([[1]], IDS):
        logits = [forward_of(WIDE, each, ids).logits_BTV for each in (tensors, elsewhere)]
        assert torch.equal(*logits)


def test_every_type_is_sealed_and_its_distance_recorded(sealed: Path) -> None:
    record = read_record(sealed)
    distances = {name: kept["relative_l2"] for name, kept in record["files"].items()}
    assert {name for name, distance in distances.items() if distance == 0} == {
        *("model.apr", "model.safetensors", "small-f32.gguf")
    }
    coarse = ["small-f16.gguf", "small-bf16.gguf", "small-q8_0.gguf", "small-q6k.gguf"]
    assert sorted(coarse, key=distances.__getitem__) == [
        *("small-f16.gguf", "small-bf16.gguf", "small-q8_0.gguf", "small-q6k.gguf")
    ]
    assert distances["small-aprq8.apr"] < distances["small-q4k.apr"] < distances["small-aprq4.apr"]
    assert len(distances) == 12
    assert max(distances.values()) < 0.5


def test_what_was_sealed_is_measured_again_from_the_files(sealed: Path) -> None:
    lossless = ["model.apr", "model.safetensors", "small-f32.gguf"]
    found = measure_files(sealed, lossless)
    assert found["weights_files"] == 12
    assert found["files_unlike_forward"] == found["differing_tensors"] == 0
    assert found["settings_differ"] == 0
    with_a_rounded_file = measure_files(sealed, [*lossless, "small-bf16.gguf"])
    assert with_a_rounded_file["differing_tensors"] == 16


def test_a_file_that_computes_something_else_later_is_counted(sealed: Path, tmp_path: Path) -> None:
    for name in ("model.apr", "model.safetensors", "config.json"):
        (tmp_path / name).write_bytes((sealed / name).read_bytes())
    record = read_record(sealed)
    record["files"] = {n: record["files"][n] for n in ("model.apr", "model.safetensors")}
    (tmp_path / FORWARD).write_bytes(pretty(record))
    path = tmp_path / "model.safetensors"
    file = open_safetensors(path)
    tensors = {name: file.tensor(name).clone() for name in file.tensors}
    tensors["model.layers.1.mlp.up_proj.weight"] *= 1.5
    write_safetensors(
        path, tensors, dtypes=dict.fromkeys(tensors, torch.float32), metadata=file.metadata
    )
    found = measure_files(tmp_path, ["model.apr", "model.safetensors"])
    assert (found["files_unlike_forward"], found["differing_tensors"]) == (1, 1)


def test_a_file_that_does_not_give_back_what_it_was_given_is_not_sealed(tmp_path: Path) -> None:
    def lossy(file: WeightsFile) -> WeightsFile:
        """Lose one weight between writing and reading, as a bad disk or a wrong name map would."""

        def read() -> tuple[object, dict[str, torch.Tensor]]:
            settings, tensors = file.read()
            changed = dict(tensors)
            changed["model.norm.weight"] = tensors["model.norm.weight"] * 1.0001
            return settings, changed

        return replace(file, read=read)  # type: ignore[arg-type]

    apr, *_ = weights_files(tmp_path, model(), EVERYTHING)
    with pytest.raises(UnfaithfulFileError) as caught:
        seal([lossy(apr)], model(), IDS)
    assert caught.value.path == tmp_path / "model.apr"
    expected = forward_of(WIDE, model().tensors, IDS)
    assert caught.value.expected_nats == expected.loss_nats != caught.value.found_nats


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_safetensors_in_half_precision_are_sealed_and_opened_as_that(
    tmp_path: Path, dtype: SafetensorsDtype
) -> None:
    settings = replace(EVERYTHING, safetensors_dtype=dtype, apr_types=(), gguf_types=())
    files = list(weights_files(tmp_path, model(), settings))
    record = seal(files, model(), IDS)
    assert [file.is_lossless for file in files] == [True, False]
    assert 0 < record["files"]["model.safetensors"]["relative_l2"] < 0.05
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert str(theirs.dtype) == f"torch.{dtype}"
    expected = model().tensors["lm_head.weight"].to(theirs.dtype)
    assert torch.equal(theirs.state_dict()["lm_head.weight"], expected)
