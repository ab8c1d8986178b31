"""A corpus, settings and a pipeline small enough to run in a test."""

import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from evidence.refs import (
    CheckpointRef,
    EvaluationRef,
    ShardsRef,
    TokensRef,
    TraceRef,
    TrainingRef,
)
from flows.settings import PipelineSettings, load_settings
from tasks.bisection import bisect_task
from tasks.checkpoint import checkpoint_task
from tasks.errors import TaskError
from tasks.evaluate import evaluate_task
from tasks.pretokenize import pretokenize_task
from tasks.run_record import Run, finish_run, start_run
from tasks.scored_model import ScoredTraining
from tasks.shard import shard_task
from tasks.store import Artefact, Store
from tasks.train import train_task

STEPS, EPOCH_STEPS = 48, 16
DAY = "2026-01-02"

OVERRIDES = (
    'source.kind="directory"',
    'source.licence="MIT"',
    'source.include=["*.py"]',
    'filters.allowed_licences=["MIT"]',
    "tokenizer.vocab_size=300",
    'tokenizer.engine="tokenizers"',
    "pretokenize.min_distinct_ids=20",
    "pretokenize.validation_fraction=0.2",
    "shard.context_length=32",
    "model.vocab_size=300",
    "model.hidden_size=32",
    "model.num_heads=2",
    "model.num_kv_heads=1",
    "model.intermediate_size=64",
    "model.max_position_embeddings=32",
    f"train.num_steps={STEPS}",
    f"train.steps_per_epoch={EPOCH_STEPS}",
    "train.batch_rows=8",
    "train.max_passes=20",
    "train.peak_lr=1e-2",
    "code_benchmark.syntax_prompts=0",
    "code_benchmark.speed_tokens=0",
    "thresholds.max_loss_to_bigram=2.0",
    "runtime.num_threads=1",
    'runtime.device="cpu"',
)


@dataclass(frozen=True)
class Refs:
    tokens: TokensRef
    shards: ShardsRef
    training: TrainingRef
    evaluation: EvaluationRef
    checkpoint: CheckpointRef
    trace: TraceRef


@dataclass(frozen=True)
class Finished:
    """A finished run, with the home directory that holds its store and its evidence."""

    home: Path
    run: Run
    settings: PipelineSettings
    refs: Refs

    @property
    def store(self) -> Store:
        return Store(self.home / "store")

    @property
    def training(self) -> Artefact:
        return self.store.open(self.refs.training)


def write_corpus(root: Path) -> None:
    """Write forty files of made-up functions; the same ones every time."""
    words = random.Random(0)
    names = ["total", "item", "value", "index", "result", "count", "left", "right", "path", "key"]
    root.mkdir(parents=True)
    for number in range(40):
        lines = []
        for _ in range(words.randint(3, 9)):
            a, b, c = (words.choice(names) for _ in range(3))
            lines.append(f"def {a}_{b}({c}, {b}={words.randint(0, 99)}):")
            lines.append(f'    """Return the {a} of the {b}."""')
            lines.append(f"    for {a} in {c}:\n        {b} += {a} * {words.randint(2, 9)}")
            lines.append(f"    return {words.choice([b, c])}\n\n")
        (root / f"module_{number:02d}.py").write_text("\n".join(lines))


def tiny_settings(home: Path, changes: Sequence[str] = ()) -> PipelineSettings:
    overrides = (*OVERRIDES, f'source.path="{home / "corpus"}"', *changes)
    return load_settings("smoke", overrides)


@contextmanager
def at_home(home: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        point_to(patch, home)
        yield


def copy_of(finished: "Finished", home: Path) -> "Finished":
    """Copy a finished run to a home of its own."""
    shutil.copytree(finished.home, home, dirs_exist_ok=True)
    return replace(finished, home=home, run=Run(home / "evidence" / finished.run.name))


def point_to(patch: pytest.MonkeyPatch, home: Path) -> None:
    patch.setenv("ASSAY_HOME", str(home))
    patch.setenv("ASSAY_STORE", str(home / "store"))
    patch.setenv("ASSAY_EVIDENCE", str(home / "evidence"))


def begin(settings: PipelineSettings, name: str = "tiny") -> Run:
    return start_run(name, settings.as_record(), {"flow": "test"})


def train_again(run: Run, shards: ShardsRef, settings: PipelineSettings) -> TrainingRef:
    return train_task.fn(
        run, shards, settings.model, settings.train, settings.thresholds, settings.runtime
    )


def all_stages(run: Run, settings: PipelineSettings) -> Refs:
    thresholds, runtime = settings.thresholds, settings.runtime
    tokens = pretokenized(run, settings)
    shards = sharded(run, tokens, settings)
    training = train_again(run, shards, settings)
    evaluation = evaluated(run, training, shards, settings)
    checkpoint = checkpoint_task.fn(run, evaluation, settings.checkpoint, thresholds)
    trace = bisect_task.fn(run, checkpoint, thresholds, runtime)
    return Refs(tokens, shards, training, evaluation, checkpoint, trace)


def pretokenized(run: Run, settings: PipelineSettings) -> TokensRef:
    return pretokenize_task.fn(
        run,
        settings.source,
        settings.filters,
        settings.tokenizer,
        settings.pretokenize,
        settings.thresholds,
        settings.runtime,
    )


def sharded(run: Run, tokens: TokensRef, settings: PipelineSettings) -> ShardsRef:
    bounds = settings.pretokenize.bounds
    return shard_task.fn(run, tokens, settings.shard, bounds, settings.thresholds, settings.runtime)


def evaluated(
    run: Run, training: TrainingRef, shards: ShardsRef, settings: PipelineSettings
) -> EvaluationRef:
    return evaluate_task.fn(
        run,
        ScoredTraining(training),
        shards,
        settings.evaluate,
        settings.code_benchmark,
        settings.thresholds,
        settings.runtime,
    )


def make_finished(home: Path) -> Finished:
    write_corpus(home / "corpus")
    settings = tiny_settings(home)
    with at_home(home):
        run = begin(settings)
        refs = all_stages(run, settings)
        finish_run(run, "completed", None)
    return Finished(home, run, settings, refs)


def fields(error: TaskError) -> dict[str, Any]:
    return dict(vars(error))
