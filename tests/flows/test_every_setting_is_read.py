"""A setting that no code reads is a promise that nobody keeps: run every stage and watch."""

import dataclasses
import json
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data.source import open_source
from flows.settings import PipelineSettings, load_settings
from model.errors import LossSpikeError
from tasks.acceptance import CRITERIA
from tasks.acceptance import GATES as REFERENCE_GATES
from tasks.bisection import STAGE as BISECT
from tasks.bisection import bisect_task
from tasks.checkpoint import STAGE as CHECKPOINT
from tasks.checkpoint import checkpoint_task
from tasks.evaluate import STAGE as EVALUATE
from tasks.pretokenize import STAGE as PRETOKENIZE
from tasks.run_record import start_run
from tasks.shard import STAGE as SHARD
from tasks.train import train_task
from tasks.train_measure import STAGE as TRAIN
from tests.data.sources import repositories, settings_of, write_file_rows
from tests.flows.conftest import places_in
from tests.tasks.tiny import evaluated, pretokenized, sharded

TINY = ("train.num_steps=4", "train.steps_per_epoch=2", "train.warmup_steps=1",
        "thresholds.max_loss_to_unigram=9.0")  # fmt: skip
OTHERWISE = ("train.optimizer=muon", "source.kind=directory", "train.schedule=wsd",
             "train.decay_steps=1", "train.early_stop_min_epochs=1")  # fmt: skip
SPIKING = ("train.num_steps=20", "train.steps_per_epoch=20", "train.spike_response=skip",
           "train.spike_window=2", "train.spike_deviations=1e-9", "train.max_spikes=1")  # fmt: skip
"What only another choice reads."
COPIES = {"dataclasses", "copy", "pydantic"}
"Modules that read every field whatever it means."


@pytest.fixture(scope="module")
def fields_read(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the fields, as `Class.field`, that code of ours read in two small runs."""
    read: set[str] = set()
    directory = tmp_path_factory.mktemp("read")
    with places_in(directory), pytest.MonkeyPatch.context() as patch:
        for section in dataclasses.fields(PipelineSettings):
            _watch(section.type, read, patch)
        # The worker is called here, not started as a process, so that its reads are seen too.
        patch.setattr("tasks.train.run_ranks", lambda job, _look: _work(job))
        _run_all(
            load_settings("smoke", [*TINY, f"code_benchmark.problems={_a_problem(directory)}"])
        )
        _run_all(load_settings("smoke", [*TINY, *OTHERWISE, f"source.path={_a_copy(directory)}"]))
        # Every second step spikes under these settings.
        with pytest.raises(LossSpikeError):
            _run_all(load_settings("smoke", SPIKING))
        _open_tables(directory)
    return read


def _a_copy(directory: Path) -> Path:
    """Copy the packages that the smoke preset names, as a source directory."""
    root = directory / "source"
    for name in ("json", "email", "logging", "asyncio"):
        shutil.copytree(Path(sysconfig.get_path("stdlib")) / name, root / name)
    return root


def _a_problem(directory: Path) -> Path:
    """Write a problem as small as they get."""
    path = directory / "problem.jsonl"
    problem = {
        "task_id": "one",
        "prompt": "def one():\n    'Return 1.'\n",
        "entry_point": "one",
        "canonical_solution": "    return 1\n",
        "test": "def check(candidate):\n    assert candidate() == 1\n",
    }
    path.write_text(json.dumps(problem))
    return path


def _open_tables(directory: Path) -> None:
    """Open sources of other kinds, which have settings of their own."""
    (directory / "index").mkdir()
    write_file_rows(directory / "index" / "part.parquet", repositories(10))
    for kind in ("parquet", "the-stack-v2"):
        settings = settings_of(kind, directory / "index")
        source = open_source(settings, fetching=load_settings("smoke").runtime.fetching)
        assert source.units


def _work(job: Any) -> None:
    from tasks.train_worker import work

    work(job)


def _watch(settings_type: Any, read: set[str], patch: pytest.MonkeyPatch) -> None:
    names = {field.name for field in dataclasses.fields(settings_type)}
    original = settings_type.__getattribute__

    def watched(self: object, name: str) -> object:
        if name in names:
            frame = sys._getframe(1)
            module = str(frame.f_globals.get("__name__", "")).partition(".")[0]
            # Validating a setting is not using it.
            if module not in COPIES and not _is_validation(frame):
                read.add(f"{settings_type.__name__}.{name}")
        value: object = original(self, name)
        return value

    patch.setattr(settings_type, "__getattribute__", watched)


def _is_validation(frame: Any) -> bool:
    return "__post_init__" in (frame.f_code.co_name, frame.f_back.f_code.co_name)


def _run_all(settings: PipelineSettings) -> None:
    thresholds, runtime = settings.thresholds, settings.runtime
    run = start_run("read", settings.as_record(), {})
    tokens = pretokenized(run, settings)
    shards = sharded(run, tokens, settings)
    training = train_task.fn(run, shards, settings.model, settings.train, thresholds, runtime)
    evaluation = evaluated(run, training, shards, settings)
    checkpoint = checkpoint_task.fn(run, evaluation, settings.checkpoint, thresholds)
    bisect_task.fn(run, checkpoint, thresholds, runtime)


def _in_gates() -> Iterator[str]:
    """Thresholds are read by name: a gate that names one reads it."""
    for stage in (PRETOKENIZE, SHARD, TRAIN, EVALUATE, CHECKPOINT, BISECT):
        for gate in stage.gates:
            if isinstance(gate.threshold, str) and gate.threshold.startswith("thresholds."):
                yield gate.threshold.replace("thresholds", "Thresholds")
    for gate in (*CRITERIA, *REFERENCE_GATES):
        if isinstance(gate.threshold, str) and gate.threshold.startswith("acceptance."):
            yield gate.threshold.replace("acceptance", "Acceptance")


def _all_fields() -> list[str]:
    return [
        f"{section.type.__name__}.{field.name}"  # type: ignore[union-attr]
        for section in dataclasses.fields(PipelineSettings)
        for field in dataclasses.fields(section.type)  # type: ignore[arg-type]
    ]


@pytest.mark.parametrize("name", _all_fields())
def test_a_setting_is_read_by_some_code(name: str, fields_read: set[str]) -> None:
    assert name in fields_read | set(_in_gates())


def test_the_watch_sees_a_read_and_ignores_a_copy() -> None:
    settings = load_settings("smoke").shard
    read: set[str] = set()
    with pytest.MonkeyPatch.context() as patch:
        _watch(type(settings), read, patch)
        dataclasses.asdict(settings)
        assert read == set()
        assert settings.seed == 1
    assert read == {"ShardSettings.seed"}
