"""Evaluations of whatever holds a model, on all rows or some, and beside each other."""

import hashlib
import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from data.shard import ShardsIndex
from evidence.errors import WrongRefError
from evidence.refs import EvaluationRef
from flows.exit_codes import exit_code
from model.apr_model import read_model
from model.errors import WrongSettingError
from model.gguf_model import FileType, write_gguf_model
from model.loss_statistics import LossCounter
from tasks import validation as validation_module
from tasks.errors import NotFoundError
from tasks.evaluate import evaluate_task, measure
from tasks.evaluate_errors import OutdatedEvaluationError, UnknownModelError
from tasks.evaluate_settings import EvaluateSettings
from tasks.evaluations import difference_rows, find_evaluation
from tasks.loss_evaluation import CARRIED
from tasks.loss_tables import position_losses, source_losses
from tasks.models import load_apr
from tasks.scored_model import best_snapshot, scored
from tasks.val_losses import VAL_LOSSES, ValLosses
from tasks.validation import Validation
from tests.tasks.tiny import Finished, begin, pretokenized, sharded, tiny_settings, train_again
from tests.tasks.tiny import evaluated as evaluate_training
from tests.test_architecture import PROJECT


def evaluated(finished: Finished, model: str, **changes: Any) -> EvaluationRef:
    settings = finished.settings
    return evaluate_task.fn(
        begin(settings, "evaluation"),
        scored(model),
        finished.refs.shards,
        replace(settings.evaluate, **changes),
        settings.code_benchmark,
        replace(settings.thresholds, max_loss_to_unigram=9.0),
        settings.runtime,
    )


def measured(finished: Finished, ref: EvaluationRef) -> dict[str, Any]:
    return dict(measure(finished.store.open(ref)))


def the_validation(finished: Finished) -> Validation:
    shards = finished.store.open(finished.refs.shards)
    index = shards.read_index(ShardsIndex)
    return Validation.open(shards.directory, index, device="cpu", document_end=None)


def counted(finished: Finished) -> LossCounter:
    weights = best_snapshot(finished.training).weights
    return the_validation(finished).count(load_apr(weights, "cpu"))


def test_a_checkpoint_its_directory_and_a_snapshot_score_what_the_training_scored(
    copied: Finished,
) -> None:
    expected = measured(copied, copied.refs.evaluation)
    bundle = copied.store.open(copied.refs.checkpoint).directory
    weights = best_snapshot(copied.training).weights
    for model in (str(copied.refs.checkpoint), str(bundle), str(weights)):
        found = measured(copied, evaluated(copied, model))
        for name in ("val_loss", "val_loss_standard_error", "val_bits_per_byte", "val_tokens"):
            assert found[name] == expected[name], (model, name)
    assert found["recorded_val_loss"] == expected["recorded_val_loss"]
    assert found["model_sha256"] == expected["model_sha256"]


def test_a_hugging_face_directory_from_elsewhere_is_scored(
    copied: Finished, tmp_path: Path
) -> None:
    bundle = copied.store.open(copied.refs.checkpoint).directory
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_bytes((bundle / name).read_bytes())
    found = measured(copied, evaluated(copied, str(tmp_path)))
    assert found["val_loss"] == measured(copied, copied.refs.evaluation)["val_loss"]
    assert "reload_drift" not in found
    assert "epoch" not in found


def test_a_quantised_file_is_scored_beside_the_model_that_it_was_made_of(
    copied: Finished, tmp_path: Path
) -> None:
    bundle = copied.store.open(copied.refs.checkpoint).directory
    llama, tensors = read_model(bundle / "model.apr")
    tokenizer_json = (bundle / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(tokenizer_json)
    names = {}
    for kind in ("F32", "Q8_0"):
        path = tmp_path / f"{kind}.gguf"
        write_gguf_model(path, llama, tensors, tokenizer_json=tokenizer_json,
                         file_type=FileType[kind], provenance={})  # fmt: skip
        names[kind] = str(evaluated(copied, str(path)))
    found = [str(copied.refs.checkpoint), names["F32"], names["Q8_0"]]
    same, rounded = difference_rows([find_evaluation(name) for name in found])
    assert same["nats"] == 0
    assert same["comparable"] == rounded["comparable"] == "same data"
    assert 0 < abs(rounded["nats"]) < 0.01


def test_a_file_whose_tokenizer_is_not_known_is_refused(copied: Finished, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(UnknownModelError) as caught:
        evaluated(copied, str(tmp_path / "model.gguf"))
    assert caught.value.path == tmp_path / "model.gguf"
    assert caught.value.expected.startswith("beside the tokenizer.json")


def test_what_is_no_model_is_refused(reading: Finished, tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError) as caught:
        scored(str(tmp_path))
    assert caught.value.path == tmp_path
    assert exit_code(caught.value) == 3


def test_some_rows_are_scored_beside_the_baselines_of_the_same_rows(copied: Finished) -> None:
    ref = evaluated(copied, str(copied.refs.training), rows=7)
    found, whole = measured(copied, ref), measured(copied, copied.refs.evaluation)
    assert (found["val_rows"], found["val_tokens"]) == (7, 7 * 32)
    assert found["validation_sha256"] != whole["validation_sha256"]
    assert "reload_drift" not in found
    shards = copied.store.open(copied.refs.shards).directory
    by_row = pq.read_table(shards / "baselines.parquet").to_pydict()
    chosen = [number * 77 // 7 for number in range(7)]
    expected = sum(by_row["five_gram_nats"][row] for row in chosen) / (7 * 32)
    assert found["five_gram_nats"] == pytest.approx(expected, rel=1e-12)


def test_more_rows_than_there_are_is_all_of_them(copied: Finished) -> None:
    found = measured(copied, evaluated(copied, str(copied.refs.training), rows=1000))
    assert (
        found["validation_sha256"]
        == (measured(copied, copied.refs.evaluation)["validation_sha256"])
    )


def test_bfloat16_is_near_float32_and_the_difference_has_a_paired_error(copied: Finished) -> None:
    rounded = evaluated(copied, str(copied.refs.training), precision="bfloat16")
    exact = find_evaluation(str(copied.refs.evaluation))
    (row,) = difference_rows([exact, find_evaluation(str(rounded))])
    both = [measured(copied, ref) for ref in (copied.refs.evaluation, rounded)]
    assert row["comparable"] == "same data"
    assert row["nats"] == pytest.approx(both[1]["val_loss"] - both[0]["val_loss"], abs=1e-12)
    assert 0 < abs(row["nats"]) < 0.01
    assert row["nats_error"] < both[0]["val_loss_standard_error"]
    bits = both[1]["val_bits_per_byte"] - both[0]["val_bits_per_byte"]
    assert row["bits_per_byte"] == pytest.approx(bits, abs=1e-12)


def test_losses_on_other_validation_data_are_not_subtracted(copied: Finished) -> None:
    some = evaluated(copied, str(copied.refs.training), rows=7)
    found = [find_evaluation(str(ref)) for ref in (copied.refs.evaluation, some)]
    (row,) = difference_rows(found)
    ours, theirs = (each.measurements()["validation_sha256"] for each in found)
    why = f"validation data differ ({str(ours)[:12]}..., {str(theirs)[:12]}...)"
    assert row["comparable"] == f"not comparable: {why}"
    assert row["nats"] is None


def test_a_training_scored_on_other_shards_is_not_held_to_its_recorded_loss(
    copied: Finished,
) -> None:
    settings = tiny_settings(copied.home, ["shard.seed=99"])
    run = begin(settings, "reshuffled")
    shards = sharded(run, copied.refs.tokens, settings)
    other = measured(copied, evaluate_training(run, copied.refs.training, shards, settings))
    recorded = measured(copied, copied.refs.evaluation)["recorded_val_loss"]
    assert other["val_loss"] != recorded
    assert "recorded_val_loss" not in other
    assert "reload_drift" not in other


def test_bits_per_byte_are_subtracted_across_tokenizers(copied: Finished) -> None:
    settings = tiny_settings(copied.home, ["tokenizer.vocab_size=290", "model.vocab_size=290"])
    run = begin(settings, "other")
    shards = sharded(run, pretokenized(run, settings), settings)
    other = evaluate_training(run, train_again(run, shards, settings), shards, settings)
    found = [find_evaluation(str(ref)) for ref in (copied.refs.evaluation, other)]
    (row,) = difference_rows(found)
    both = [each.measurements() for each in found]
    assert row["comparable"] == "same documents, other tokens: bits alone"
    assert row["nats"] is None
    bits = [float(each["val_bits_per_byte"] or 0) for each in both]
    assert row["bits_per_byte"] == pytest.approx(bits[1] - bits[0], abs=1e-12)
    assert 0 < row["bits_error"] < 0.2


def test_an_evaluation_is_found_by_run_by_checkpoint_and_by_ref(copied: Finished) -> None:
    refs = copied.refs
    names = (copied.run.name, str(refs.checkpoint), str(refs.evaluation))
    assert {find_evaluation(name).artefact.ref for name in names} == {refs.evaluation}
    with pytest.raises(WrongRefError):
        find_evaluation(str(refs.shards))
    with pytest.raises(NotFoundError):
        find_evaluation(begin(copied.settings, "empty").name)


def test_an_evaluation_made_again_has_the_same_ref_whatever_time_it_took(copied: Finished) -> None:
    settings = replace(
        copied.settings, code_benchmark=replace(copied.settings.code_benchmark, speed_tokens=4)
    )
    refs, records = [], []
    for name in ("first", "reusing", "again"):
        run = begin(settings, name)
        ref = evaluate_training(run, copied.refs.training, copied.refs.shards, settings)
        refs.append(ref)
        records.append(run.stage_records()["evaluate"])
        if name == "reusing":
            shutil.rmtree(copied.store.directory(ref))

    assert refs == [refs[0]] * 3
    assert [each["outcome"] for each in records] == ["produced", "reused", "produced"]
    first, reused, again = (each["observed"]["decoding"] for each in records)
    assert first == reused
    assert first["seconds"] != again["seconds"]
    speed = 4 / median(again["seconds"])
    assert records[2]["measurements"]["decode_tokens_per_second"] == speed
    assert find_evaluation(str(refs[0])).measurements()["decode_tokens_per_second"] == speed


@pytest.mark.parametrize("content", [{"epoch": 1, "training": "x"}, dict.fromkeys(CARRIED, "")])
def test_an_evaluation_of_an_earlier_version_is_refused(
    copied: Finished, content: dict[str, Any]
) -> None:
    with copied.store.building("old") as directory:
        ref = copied.store.commit(directory, EvaluationRef, content)
    with pytest.raises(OutdatedEvaluationError) as caught:
        find_evaluation(str(ref))
    assert caught.value.ref == ref.short
    assert exit_code(caught.value) == 4


def test_the_breakdowns_add_up_to_the_whole(reading: Finished) -> None:
    directory = reading.store.open(reading.refs.evaluation).directory
    whole = measured(reading, reading.refs.evaluation)
    positions, sources = position_losses(directory), source_losses(directory)
    assert [row["position"] for row in positions] == list(range(1, 33))
    total = math.fsum(row["mean_nats"] * row["target_tokens"] for row in positions)
    assert total / whole["val_tokens"] == pytest.approx(whole["val_loss"], rel=1e-12)
    assert sum(each.target_tokens for each in sources) == whole["val_tokens"]
    assert [each.source for each in sources] == ["./"]
    assert sources[0].standard_error_nats == pytest.approx(whole["val_loss_standard_error"])


@pytest.mark.parametrize("chunk_rows", [1, 3, 16])
def test_sums_are_the_same_bits_however_rows_are_cut(
    reading: Finished, monkeypatch: pytest.MonkeyPatch, chunk_rows: int
) -> None:
    expected = counted(reading)
    monkeypatch.setattr(validation_module, "CHUNK_ROWS", chunk_rows)
    found = counted(reading)
    np.testing.assert_array_equal(found.by_document[0], expected.by_document[0])
    np.testing.assert_array_equal(found.by_position[0], expected.by_position[0])


def test_two_ranks_add_up_the_same_bits_as_one(reading: Finished, tmp_path: Path) -> None:
    weights = best_snapshot(reading.training).weights
    command = [sys.executable, "-m", "tests.tasks.counting_rank"]
    given = [str(reading.home / "store"), str(reading.refs.shards), str(weights)]
    ranks = [
        subprocess.Popen([*command, *given, str(tmp_path / "meeting"), rank, "2"], cwd=PROJECT)
        for rank in ("0", "1")
    ]
    assert [rank.wait(120) for rank in ranks] == [0, 0]
    (tmp_path / "alone").mkdir()
    ValLosses.of(counted(reading)).write(tmp_path / "alone")
    digests = {
        hashlib.sha256((tmp_path / name / VAL_LOSSES).read_bytes()).hexdigest()
        for name in ("alone", "rank-0", "rank-1")
    }
    assert len(digests) == 1


def test_rows_and_precisions_that_cannot_be_meant_are_refused() -> None:
    for changes in ({"rows": -1}, {"precision": "float8"}):
        with pytest.raises(WrongSettingError):
            EvaluateSettings(**{"rows": 0, "precision": "float32", **changes})  # type: ignore[arg-type]


def test_the_record_names_the_digests_of_all_that_was_scored(reading: Finished) -> None:
    record = json.loads((reading.run.directory / "evaluate.metadata.json").read_text())
    found = record["measurements"]
    weights = best_snapshot(reading.training).weights
    assert found["model_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert record["recipe"]["inputs"] == {
        "training": str(reading.refs.training),
        "shards": str(reading.refs.shards),
        "tokens": str(reading.refs.tokens),
    }
    assert record["recipe"]["settings"]["evaluate"] == {"rows": 0, "precision": "float32"}
    assert sorted(record["recipe"]["settings"]) == ["code_benchmark", "evaluate"]
    assert record["provenance"]["git_commit"]
    assert found["val_perplexity"] == pytest.approx(math.exp(found["val_loss"]))
