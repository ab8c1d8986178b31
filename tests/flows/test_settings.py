"""Presets and overrides: what is accepted is exactly what is written, and mistakes are named."""

import dataclasses
import tomllib
from pathlib import Path

import pytest

from data.errors import WrongSettingError as WrongDataSettingError
from data.source import open_source
from flows.errors import UnknownPresetError, UnknownSettingError, WrongValueError
from flows.settings import PRESETS, load_settings, preset_names, setting_keys
from model.budget import budget_sentence, planned_tokens
from model.errors import WrongSettingError


@pytest.mark.parametrize("preset", preset_names())
def test_a_preset_is_complete_and_says_nothing_else(preset: str) -> None:
    values = tomllib.loads((PRESETS / f"{preset}.toml").read_text())
    assert sorted(f"{s}.{f}" for s, fields in values.items() for f in fields) == sorted(
        setting_keys()
    )
    record = dataclasses.asdict(load_settings(preset))
    assert record["train"] == values["train"]


@pytest.mark.parametrize("preset", ["demo", "smoke"])
def test_a_first_run_needs_no_luck_in_which_documents_are_held_out(preset: str) -> None:
    settings = load_settings(preset)
    source = open_source(settings.source, fetching=settings.runtime.fetching)
    file_bytes = [file.num_bytes for unit in source.units for file in unit.files]
    fraction = settings.pretokenize.validation_fraction
    # Three bytes a token are more than either vocabulary reaches.
    rows = fraction * sum(file_bytes) / 3 / (settings.shard.context_length + 1)
    # Documents are of very different sizes: what is expected may come to a third of that.
    assert rows >= 3 * settings.thresholds.min_val_batches * settings.train.batch_rows
    assert fraction * len(file_bytes) >= 12


def test_a_first_run_is_not_ended_by_a_few_steep_batches() -> None:
    demo, smoke = load_settings("demo").train, load_settings("smoke").train
    assert demo.spike_response == "skip"
    assert demo.max_spikes >= demo.num_steps / 10
    # A window that never fills judges nothing.
    assert smoke.spike_window >= smoke.num_steps


SHAPE = {
    "hidden_size": 1024,
    "num_layers": 24,
    "num_heads": 16,
    "num_kv_heads": 4,
    "intermediate_size": 2816,
    "rope_theta": 10_000.0,
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
    "tie_embeddings": False,
}


@pytest.mark.parametrize(
    ("preset", "tokens", "parameters", "ratio"),
    [
        ("llama-370m", 409_600_000, 373_509_120, "1.1"),
        ("llama-370m-best", 7_472_152_576, 373_605_376, "20"),
        ("the-stack-v2", 7_471_104_000, 373_509_120, "20"),
    ],
)
def test_a_preset_of_370_million_parameters_has_the_shape_and_the_budget_that_it_names(
    preset: str, tokens: int, parameters: int, ratio: str
) -> None:
    settings = load_settings(preset)
    length = settings.shard.context_length
    assert dataclasses.asdict(settings.model).items() >= SHAPE.items()
    assert planned_tokens(settings.train, length) == tokens
    assert budget_sentence(settings.model, settings.train, length) == (
        f"{tokens:,} tokens for {parameters:,} parameters, {ratio} a parameter (Chinchilla: 20)"
    )


def test_the_recipe_of_the_reference_is_in_its_preset() -> None:
    settings = load_settings("llama-370m")
    train = settings.train
    assert (settings.shard.context_length, train.batch_rows) == (512, 16)
    assert (train.peak_lr, train.warmup_steps, train.target_val_loss) == (3e-4, 1000, 3.0)
    assert (train.schedule, train.final_lr_ratio, train.clip_norm) == ("cosine", 0.01, 1.0)
    assert (train.beta1, train.beta2, train.adam_eps) == (0.9, 0.999, 1e-8)
    assert (train.weight_decay, train.precision, train.optimizer) == (0.01, "tfloat32", "adamw")
    assert (settings.model.vocab_size, settings.model.max_position_embeddings) == (50_257, 4096)


def test_the_presets_of_one_corpus_share_its_tokens() -> None:
    parts = ("source", "filters", "tokenizer", "pretokenize")
    stack, reference, best = (
        load_settings(name).as_record()
        for name in ("the-stack-v2", "llama-370m", "llama-370m-best")
    )
    assert all(stack[part] == reference[part] for part in parts)
    assert all(stack[part] == best[part] for part in parts if part != "tokenizer")
    assert best["model"]["vocab_size"] % 128 == 0


def test_an_override_changes_one_setting_through_the_same_parser() -> None:
    changed = load_settings("smoke", ["train.peak_lr=1e-4", "source.path=", "shard.seed = 7"])
    assert changed.train.peak_lr == 1e-4
    assert changed.shard.seed == 7
    assert changed.source.path == ""


def test_an_integer_is_a_float_where_a_float_is_due() -> None:
    assert load_settings("smoke", ["train.clip_norm=2"]).train.clip_norm == 2.0


def test_a_bare_text_needs_no_quotes() -> None:
    changed = load_settings("smoke", ["checkpoint.name=my-model", "source.kind=directory",
                                      "source.path=/tmp/some where"])  # fmt: skip
    assert changed.checkpoint.name == "my-model"
    assert changed.source.path == "/tmp/some where"


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownPresetError) as caught:
        load_settings("dmo")
    assert caught.value.preset == "dmo"
    assert caught.value.known == preset_names()


def test_an_unknown_key_is_refused_with_the_closest_one() -> None:
    with pytest.raises(UnknownSettingError) as caught:
        load_settings("smoke", ["train.peek_lr=1"])
    assert (caught.value.key, caught.value.closest) == ("train.peek_lr", "train.peak_lr")
    assert caught.value.hint == "did you mean train.peak_lr?"


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("train.num_steps=many", "train.num_steps"),
        ("train.num_steps=1.5", "train.num_steps"),
        ("train.num_steps=true", "train.num_steps"),
        ("train.peak_lr='fast'", "train.peak_lr"),
        ("source.include=3", "source.include"),
        (f"train.num_steps={'9' * 5000}", "train.num_steps"),
        ("runtime.device=3", "runtime.device"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(override: str, key: str) -> None:
    with pytest.raises(WrongValueError) as caught:
        load_settings("smoke", [override])
    assert caught.value.key == key
    assert key in str(caught.value)


def test_an_override_without_a_value_is_refused() -> None:
    with pytest.raises(WrongValueError, match="should be KEY=VALUE"):
        load_settings("smoke", ["train.num_steps"])


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("train.num_steps=0", WrongSettingError),
        ("model.num_heads=3", WrongSettingError),
        ("thresholds.max_trace_error=-1", WrongSettingError),
        ("thresholds.max_val_loss_growth=0.5", WrongSettingError),
        ("runtime.num_threads=-1", WrongSettingError),
        ("checkpoint.licence=' '", WrongSettingError),
        ("tokenizer.vocab_size=10", WrongDataSettingError),
        ("source.kind=directory", WrongDataSettingError),
    ],
)
def test_a_value_that_cannot_work_is_refused(override: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        load_settings("smoke", [override])


def test_a_preset_file_of_ones_own_is_read_by_path(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text((PRESETS / "smoke.toml").read_text().replace("num_steps = 40", "num_steps = 30"))
    assert load_settings(str(own)).train.num_steps == 30


def test_a_preset_file_that_is_no_toml_or_lacks_a_key_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("[train\n")
    with pytest.raises(WrongValueError) as no_toml:
        load_settings(str(broken))
    assert no_toml.value.expected == "TOML"
    broken.write_text("a = " + "9" * 5000)
    with pytest.raises(WrongValueError, match="no TOML"):
        load_settings(str(broken))
    broken.write_text((PRESETS / "smoke.toml").read_text().replace("warmup_steps = 5\n", ""))
    with pytest.raises(WrongValueError) as missing:
        load_settings(str(broken))
    assert (missing.value.key, missing.value.found) == ("train.warmup_steps", "missing")


def test_the_runtime_section_is_not_part_of_the_recipe() -> None:
    one, two = load_settings("smoke"), load_settings("smoke", ["runtime.num_threads=1"])
    assert one.as_record() == two.as_record()
    assert "runtime" not in one.as_record()
