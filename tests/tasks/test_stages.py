"""The stages through their tasks: reuse, inputs, and disks that fill up."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from evidence.errors import GateFailedError
from model.apr_model import read_model
from tasks.bisection import bisect_task
from tasks.bundle import differing_tensors
from tasks.checkpoint import checkpoint_task
from tasks.errors import ArtefactDamagedError, NotFoundError, StorageError
from tasks.models import APR, load_directory
from tasks.prefect_task import gate_rows, tracking
from tasks.run_record import Run
from tasks.store import Store
from tests.tasks.full_disk import full_disk
from tests.tasks.test_store import flip
from tests.tasks.tiny import (
    Finished,
    all_stages,
    begin,
    evaluated,
    pretokenized,
    sharded,
    tiny_settings,
    write_corpus,
)

QWEN2 = (
    "model.attention_bias=true",
    "model.tie_embeddings=true",
    "train.num_steps=8",
    "train.steps_per_epoch=8",
    "thresholds.max_loss_to_unigram=9.0",
)
Perform = Callable[[Finished, Run], object]


def pretokenize(finished: Finished, run: Run) -> object:
    return pretokenized(run, finished.settings)


def shard(finished: Finished, run: Run) -> object:
    return sharded(run, finished.refs.tokens, finished.settings)


def evaluate(finished: Finished, run: Run) -> object:
    refs, settings = finished.refs, finished.settings
    return evaluated(run, refs.training, refs.shards, settings)


def checkpoint(finished: Finished, run: Run) -> object:
    settings = finished.settings
    return checkpoint_task.fn(
        run, finished.refs.evaluation, settings.checkpoint, settings.thresholds
    )


def bisect(finished: Finished, run: Run) -> object:
    settings = finished.settings
    return bisect_task.fn(run, finished.refs.checkpoint, settings.thresholds, settings.runtime)


STAGES: list[tuple[str, str, Perform]] = [
    ("pretokenize", "tokens", pretokenize),
    ("shard", "shards", shard),
    ("evaluate", "evaluation", evaluate),
    ("checkpoint", "checkpoint", checkpoint),
    ("bisect", "trace", bisect),
]


def test_a_second_run_reuses_every_stage_of_the_first(copied: Finished) -> None:
    run = begin(copied.settings)
    assert all_stages(run, copied.settings) == copied.refs
    for record in run.stage_records().values():
        assert (record["outcome"], record["reused_from"]) == ("reused", copied.run.name)
    for name in ("trace.txt", "sub-ffn-per-layer-stds.csv"):
        assert (run.directory / name).read_bytes() == (copied.run.directory / name).read_bytes()


@pytest.mark.parametrize(("name", "kind", "perform"), STAGES)
def test_a_deleted_artefact_is_made_again_under_the_same_ref(
    copied: Finished, name: str, kind: str, perform: Perform
) -> None:
    ref = {each.kind: each for each in vars(copied.refs).values()}[kind]
    shutil.rmtree(copied.home / "store" / kind)
    run = begin(copied.settings, "later")
    assert perform(copied, run) == ref
    assert run.stage_records()[name]["outcome"] == "produced"


@pytest.mark.parametrize(
    ("kind", "perform", "limit"),
    [
        ("tokens", pretokenize, 500),
        ("tokens", pretokenize, 4500),
        ("tokens", pretokenize, 9000),
        ("shards", shard, 500),
        ("shards", shard, 4500),
        ("shards", shard, 6000),
        ("evaluation", evaluate, 500),
        ("checkpoint", checkpoint, 500),
        ("checkpoint", checkpoint, 154_000),
        ("trace", bisect, 500),
        ("trace", bisect, 4500),
    ],
)
def test_a_full_disk_leaves_nothing_half_built(
    copied: Finished, kind: str, perform: Perform, limit: int
) -> None:
    """Which file is the first too large, and which library writes it, changes with the limit."""
    directory = copied.home / "store" / kind
    shutil.rmtree(directory)
    shutil.rmtree(copied.home / "store" / "units")
    run = begin(copied.settings)
    with full_disk(limit), pytest.raises(StorageError) as caught:
        perform(copied, run)
    assert caught.value.reason == "File too large"
    assert not directory.exists()
    assert [path for path in (copied.home / "store" / "tmp").iterdir() if path.is_dir()] == []
    perform(copied, run)


@pytest.mark.parametrize(
    ("kind", "made", "perform"),
    [
        ("tokens", "shards", shard),
        ("shards", "evaluation", evaluate),
        ("training", "checkpoint", checkpoint),
        ("checkpoint", "trace", bisect),
    ],
)
def test_a_damaged_or_missing_input_is_refused(
    copied: Finished, kind: str, made: str, perform: Perform
) -> None:
    shutil.rmtree(copied.home / "store" / made)
    directory = next((copied.home / "store" / kind).glob("*/*"))
    # The first: a bundle's weights have two names, and damage has both.
    victim = min(path for path in directory.rglob("*") if path.suffix in {".bin", ".apr"})
    flip(victim)
    with pytest.raises(ArtefactDamagedError) as caught:
        perform(copied, begin(copied.settings))
    assert caught.value.path == victim
    shutil.rmtree(directory)
    with pytest.raises(NotFoundError) as missing:
        perform(copied, begin(copied.settings))
    assert missing.value.what.startswith(f"artefact {kind}:")


def test_a_model_that_predicts_no_better_than_frequencies_fails(copied: Finished) -> None:
    strict = replace(copied.settings.thresholds, max_loss_to_unigram=0.1)
    settings = replace(copied.settings, thresholds=strict)
    with pytest.raises(GateFailedError) as caught:
        evaluate(replace(copied, settings=settings), begin(settings))
    assert caught.value.gate == "evaluate.unigram"
    assert caught.value.threshold == 0.1


def test_differing_tensors_are_named() -> None:
    left = {"a": torch.ones(2), "b": torch.ones(2), "c": torch.ones(2)}
    right = {"a": torch.ones(2), "b": torch.zeros(2), "d": torch.ones(2)}
    assert differing_tensors(left, right) == ["b", "c", "d"]


def test_outside_of_prefect_nothing_is_tracked() -> None:
    assert tracking() == {"prefect_flow_run_id": None, "prefect_task_run_id": None}


def test_gates_are_shown_as_a_table(finished: Finished) -> None:
    gates = finished.run.stage_records()["train"]["gates"]
    budget = [row for row in gate_rows(gates) if row["gate"] == "train.budget"]
    assert budget[0] == {
        "gate": "train.budget",
        "holds when": "exactly the planned steps were executed, or those until an early stop",
        "measured": 48.0,
        "should be": "== 48.0",
        "verdict": "pass",
    }


def test_every_stage_takes_biases_and_a_tied_head(home: Path) -> None:
    write_corpus(home / "corpus")
    settings = tiny_settings(home, QWEN2)
    run = begin(settings)
    refs = all_stages(run, settings)

    store = Store(home / "store")
    directory = store.open(refs.checkpoint).directory
    model = load_directory(directory, "cpu")
    names = {name for name, _ in model.named_parameters()}
    assert len(names) == 2 + 12 * 2
    assert "lm_head.weight" not in names
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    assert all(bias.detach().abs().max() > 0 for bias in biases)
    assert json.loads((directory / "config.json").read_text())["model_type"] == "qwen2"
    assert read_model(directory / APR)[0] == settings.model
