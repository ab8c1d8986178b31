"""Documents kept apart, from shards to the evaluation."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.rows import PADDING, Rows, open_rows
from data.shard import ShardsIndex
from evidence.refs import ShardsRef
from model.documents import documents_of
from tasks.evaluate import measure
from tasks.models import load_apr
from tasks.scored_model import best_snapshot
from tasks.store import Store
from tasks.validation import Validation
from tests.tasks.tiny import (
    begin,
    evaluated,
    pretokenized,
    sharded,
    tiny_settings,
    train_again,
    write_corpus,
)

MASKED = ("train.document_masking=true", "train.num_steps=8", "train.steps_per_epoch=8",
          "thresholds.max_loss_to_unigram=9.0")  # fmt: skip


def shards_of(home: Path, packing: str) -> ShardsRef:
    settings = tiny_settings(home, (*MASKED, f'shard.packing="{packing}"'))
    run = begin(settings)
    return sharded(run, pretokenized(run, settings), settings)


def opened(home: Path, ref: ShardsRef) -> tuple[Path, ShardsIndex]:
    artefact = Store(home / "store").open(ref)
    return artefact.directory, artefact.read_index(ShardsIndex)


@pytest.fixture
def corpus_home(home: Path) -> Path:
    write_corpus(home / "corpus")
    return home


@pytest.mark.parametrize("packing", ["concatenate", "whole"])
def test_the_documents_that_the_model_keeps_apart_are_those_of_the_shards(
    corpus_home: Path, packing: str
) -> None:
    directory, index = opened(corpus_home, shards_of(corpus_home, packing))
    rows: Rows = open_rows(directory, index, "train")
    every = np.arange(len(rows))
    ids_NS = rows.take(every)

    found_NS = documents_of(torch.from_numpy(ids_NS), index.end_of_text_id).numpy()

    expected_NS = rows.documents_NS(every)
    expected_NS = expected_NS - expected_NS[:, :1]
    is_token_NS = ids_NS != PADDING
    assert (found_NS[is_token_NS] == expected_NS[is_token_NS]).all()
    assert found_NS.max() >= 1
    assert is_token_NS.all() == (packing == "concatenate")


def test_the_evaluation_keeps_documents_apart_as_the_training_did(corpus_home: Path) -> None:
    settings = tiny_settings(corpus_home, MASKED)
    run = begin(settings)
    shards = sharded(run, pretokenized(run, settings), settings)
    training = train_again(run, shards, settings)
    evaluation = evaluated(run, training, shards, settings)

    store = Store(corpus_home / "store")
    assert measure(store.open(evaluation))["reload_drift"] == pytest.approx(0.0, abs=1e-6)
    directory, index = opened(corpus_home, shards)
    snapshot = best_snapshot(store.open(training))
    model = load_apr(snapshot.weights, "cpu")
    apart = Validation.open(directory, index, device="cpu", document_end=index.end_of_text_id)
    together = replace(apart, document_end=None)
    losses = [each.count(model).statistics().mean_nats for each in (apart, together)]
    assert losses[0] == pytest.approx(snapshot.read()["val_loss"], abs=1e-6)
    assert abs(losses[1] - losses[0]) > 1e-4
