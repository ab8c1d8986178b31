"""Each stage's version beside what it writes: change both or neither.

Pretokenize and shard are held to their bytes in `tests/data`, train in `test_train_worker.py`.
"""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import data.shard as shard_rows
from data.baselines import ORDERS
from evidence.canonical import file_sha256, read_object
from evidence.refs import EvaluationRef, ShardsRef, TrainingRef
from model.apr_model import write_model
from tasks import bisection, checkpoint, evaluate, shard
from tasks.checkpoint import write_bundle
from tasks.model_card import Evaluated
from tasks.store import Store
from tests.model.small_llama import small_settings, small_tensors, small_tokenizer
from tests.tasks.tiny import Finished, tiny_settings


def bundle_of_fixed_tensors(root: Path) -> Path:
    """Seal tensors that are the same everywhere, scored by numbers that nobody measured."""
    root.mkdir(exist_ok=True)
    store, tokenizer_json = Store(root / "store"), small_tokenizer().to_str()
    with store.building("training") as directory:
        (directory / "ckpt").mkdir()
        write_model(
            directory / "ckpt" / "epoch-000.apr",
            small_settings(),
            small_tensors(),
            tokenizer_json=tokenizer_json,
            provenance={"name": "fixed"},
        )
        (directory / "ckpt" / "epoch-000.state").mkdir()
        (directory / "ckpt" / "epoch-000.state" / "probe.json").write_text('{"loss_nats": 9.0}')
        (directory / "settings.json").write_text("{}\n")
        training = store.commit(directory, TrainingRef, {"best_epoch": 0})
    with store.building("shards") as directory:
        (directory / "tokenizer.json").write_text(tokenizer_json)
        shards = store.commit(directory, ShardsRef, {})
    measured = {
        "val_loss": 1.5,
        "val_loss_standard_error": 0.25,
        "bigram_nats": 2.5,
        "unigram_nats": 3.5,
        "humaneval_pass_at_1": 0.125,
    }
    scored = Evaluated(EvaluationRef("0" * 64), 0, measured)
    out = root / "bundle"
    out.mkdir()
    settings = tiny_settings(root).checkpoint
    made_of = (store.open(training), scored, store.open(shards))
    content = write_bundle(*made_of, settings, [[1, 2, 3]], out)
    assert content == {
        "name": "assay-smoke",
        "epoch": 0,
        "training": str(training),
        "evaluation": f"evaluation:{'0' * 64}",
        "lossless": ["model.apr", "model.safetensors"],
        "recorded_loss_nats": 9.0,
    }
    return out


def test_the_bytes_of_a_checkpoint_belong_to_its_version(tmp_path: Path) -> None:
    out = bundle_of_fixed_tensors(tmp_path)
    assert checkpoint.VERSION == checkpoint.STAGE.version == 6
    digests = {path.name: file_sha256(path)[:16] for path in sorted(out.iterdir())}
    # What another processor computes differs in the last digits, and so does what lists it.
    computed = {digests.pop(name) for name in ("README.md", "forward.json", "manifest.yaml")}
    assert len(computed) == 3
    assert digests == {
        "LICENSE": "520d6ca04d5b0c1b",
        "assay-smoke-q4k.gguf": "e029c135840bce1b",
        "assay-smoke-q8_0.gguf": "4816bd5434a0852c",
        "assay-smoke.apr": "23a346e805e2d931",
        "assay-smoke.safetensors": "7dbfc6e13b1f7ee1",
        "config.json": "9e4a2acecd98b59d",
        "generation_config.json": "f17f25b4605e7e42",
        "merges.txt": "448642aa4b0a57e2",
        "model.apr": "23a346e805e2d931",
        "model.safetensors": "7dbfc6e13b1f7ee1",
        "recipe.json": "ca3d163bab055381",
        "special_tokens_map.json": "79c4e18958fe6f17",
        "tokenizer.json": "5314dd453c5cbcbd",
        "tokenizer_config.json": "8d26cf2ab73bcd83",
        "vocab.json": "f5e1e856bc233c60",
    }


def test_the_card_says_what_was_measured(tmp_path: Path) -> None:
    card = (bundle_of_fixed_tensors(tmp_path) / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\nlanguage: code\n")
    rows = {
        "validation loss, nats per token": "1.5000 ± 0.2500",
        "interpolated bigram, same tokens, nats per token": "2.5000",
        "unigram, same tokens, nats per token": "3.5000",
        "HumanEval, pass@1": "0.1250",
    }
    told = "\n".join(f"| {k} | {v} | `evaluation:000000000000` |" for k, v in rows.items())
    assert f"|---|---|---|\n{told}\n\n" in card
    assert "bits per byte" not in card
    assert "| model.apr | nothing, bit for bit |" in card
    assert re.search(r"\| assay-smoke-q8_0.gguf \| \d\.\d\de-03 \|", card)
    sha256 = file_sha256(bundle_of_fixed_tensors(tmp_path / "again") / "vocab.json")
    assert f"| vocab.json | 2718 | `{sha256}` |" in card
    assert "| hidden_size | 8 |" in card


def test_what_an_evaluation_holds_belongs_to_its_version(finished: Finished) -> None:
    artefact = finished.store.open(finished.refs.evaluation)
    assert evaluate.VERSION == evaluate.STAGE.version == 6
    assert [each["path"] for each in artefact.index["files"]] == [
        "documents.parquet",
        "positions.parquet",
    ]
    content = artefact.index["content"]
    assert list(content) == [
        "training",
        "checkpoint",
        "epoch",
        "recorded_val_loss",
        "document_masking",
        "model_sha256",
        "shards",
        "rows",
        "all_rows",
        "precision",
        "forward_error",
        "tokenizer_sha256",
        "validation_sha256",
        "baselines",
        "code_benchmark",
    ]
    assert sorted(content["baselines"]) == [
        "bigram_nats",
        "compressed",
        "five_gram_nats",
        "num_counted_tokens",
        "num_target_tokens",
        "target_bytes",
        "uniform_nats",
        "unigram_nats",
    ]
    table = pq.read_table(artefact.directory / "documents.parquet")
    assert table.column_names == [
        "sha256",
        "nats",
        "target_tokens",
        "target_bytes",
        "source",
    ]
    assert table.num_rows == 6
    assert sum(table["target_tokens"].to_pylist()) == 2464


def test_what_the_baselines_of_shards_are_belongs_to_their_version(finished: Finished) -> None:
    directory = finished.store.open(finished.refs.shards).directory
    assert (shard.VERSION, shard_rows.VERSION) == (4, 3)
    baselines: Any = read_object(directory / "baselines.json")
    # Not its bytes: logarithms differ in their last bit, compressors in the size that they reach.
    assert {name: baselines[name] for name in ORDERS} == pytest.approx(
        {
            "unigram_nats": 3.5747959014962927,
            "bigram_nats": 1.399697780371022,
            "five_gram_nats": 0.6144977693607236,
        },
        rel=1e-9,
    )
    assert list(baselines["compressed"]) == [
        "num_documents",
        "num_bytes",
        "zlib_bytes",
        "zlib_stream_bytes",
        "xz_bytes",
        "xz_stream_bytes",
    ]
    table = pq.read_table(directory / "baselines.parquet")
    assert table.column_names == ["unigram_nats", "bigram_nats", "five_gram_nats", "target_tokens"]
    assert sum(table["target_tokens"].to_pylist()) == 2464


def test_what_a_trace_holds_belongs_to_its_version(finished: Finished) -> None:
    artefact = finished.store.open(finished.refs.trace)
    assert bisection.VERSION == bisection.STAGE.version == 1
    assert [each["path"] for each in artefact.index["files"]] == [
        "sub-ffn-per-layer-stds.csv",
        "trace.json",
        "trace.txt",
    ]
    assert list(artefact.index["content"]) == ["checkpoint", "tokens"]
    assert artefact.index["content"]["tokens"] == 32
    result = json.loads((artefact.directory / "trace.json").read_text())
    assert list(result) == ["ids", "taps", "in_memory", "candidates", "first_departures"]
    assert list(result["candidates"]) == ["model.apr", "model.safetensors"]
    assert result["first_departures"] == {"model.apr": None, "model.safetensors": None}
    assert [tap["site"] for tap in result["taps"]] == list(result["in_memory"])


def test_the_versions_of_all_stages_are_in_their_recipes(finished: Finished) -> None:
    records = finished.run.stage_records()
    assert {stage: each["recipe"]["version"] for stage, each in records.items()} == {
        "pretokenize": 2,
        "shard": 4,
        "train": 5,
        "evaluate": 6,
        "checkpoint": 6,
        "bisect": 1,
    }
