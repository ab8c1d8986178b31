"""What is found out about the model of a run that failed a gate."""

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from evidence.canonical import pretty
from evidence.errors import GateFailedError
from evidence.records import read_record, write_record
from model.apr_model import read_model, write_model
from tasks.failure_bisection import LINK, NO_SNAPSHOT, bisect_failure, link
from tasks.live import announce
from tasks.run_record import Run, finish_run
from tasks.snapshots import FILES, Snapshot, complete_snapshots
from tasks.train_measure import SETTINGS
from tasks.train_worker import work
from tasks.verify import verify_run
from tests.tasks.test_train_worker import job_of
from tests.tasks.tiny import Finished, begin

pytestmark = pytest.mark.usefixtures("own_threads")


def failed_with(finished: Finished, training: Path) -> Run:
    """Make a run whose training is known by its place alone, as one that failed."""
    job = job_of(finished, training)
    asked = {"model": asdict(job.model), "train": asdict(job.train), "shards": job.shards_ref}
    (training / SETTINGS).write_bytes(pretty(asked))
    run = begin(finished.settings, "failed")
    announce(run, training)
    return run


@pytest.fixture
def training(copied: Finished, tmp_path: Path) -> Path:
    """A copy of the finished training."""
    shutil.copytree(copied.training.directory, tmp_path / "training")
    return tmp_path / "training"


def test_a_sound_snapshot_has_no_fault_and_its_evidence_says_so(
    copied: Finished, training: Path
) -> None:
    failed = failed_with(copied, training)

    explained = bisect_failure(failed, "evaluate.unigram", "cpu")

    assert explained.verdict == "no fault: epoch-002 against transformers, 32 tokens, 35 sites"
    assert explained.run.name.startswith(f"{failed.name}-bisect-")
    found = json.loads((explained.run.directory / "failure.json").read_text())
    assert (found["snapshot"], found["sites_unlike_memory"]) == ("epoch-002", [])
    causal = read_record(explained.run.directory / "bisection.metadata.json")
    assert (causal["verdict"], causal["faulty_sites"]) == ("no fault", [])
    assert (explained.run.directory / "bisection.png").is_file()
    assert verify_run(explained.run).failures == []
    told = link(failed, "evaluate.unigram", explained, None)
    assert read_record(failed.directory / LINK) == told
    assert (told["run"], told["error"]) == (explained.run.name, None)
    record = explained.run.record() or {}
    assert told["run_record_sha256"] == record["record_sha256"]
    finish_run(failed, "failed", "gate evaluate.unigram")
    assert LINK in (failed.record() or {})["files"]
    assert verify_run(failed).failures == []


def test_a_snapshot_that_is_not_what_was_in_memory_is_named_with_its_first_operation(
    copied: Finished, training: Path
) -> None:
    snapshot = complete_snapshots(training)[-1]
    settings, tensors = read_model(snapshot.weights)
    tensors["model.layers.1.mlp.up_proj.weight"][0] = 0.0
    text = (copied.store.open(copied.refs.shards).directory / "tokenizer.json").read_text()
    write_model(snapshot.weights, settings, tensors, tokenizer_json=text, provenance={})
    resealed(snapshot)

    explained = bisect_failure(failed_with(copied, training), "train: gate train.stable", "cpu")

    first, second = explained.verdict.split("; ")
    assert first == "the snapshot is not the model that was trained, first at layers.1.ffn_up"
    assert second.startswith("no fault: epoch-002 against transformers")


def resealed(snapshot: Snapshot) -> None:
    record = {name: value for name, value in snapshot.read().items() if name != "record_sha256"}
    write_record(snapshot.record, {**record, FILES: snapshot.digests()})


def test_without_transformers_the_plain_implementation_is_the_reference(
    copied: Finished, training: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)

    explained = bisect_failure(failed_with(copied, training), "evaluate.unigram", "cpu")

    found = json.loads((explained.run.directory / "failure.json").read_text())
    assert explained.verdict.startswith("no fault: logits ")
    assert explained.verdict.endswith(" from the plain ones")
    assert 0 < found["plain_forward_error"] < 1e-5
    assert "should be so only where transformers is installed" in found["transformers"]


def test_a_training_that_failed_before_its_first_snapshot_has_nothing_to_compare(
    copied: Finished, tmp_path: Path
) -> None:
    directory = tmp_path / "early"
    with pytest.raises(GateFailedError):
        work(job_of(copied, directory, peak_lr=30.0))

    explained = bisect_failure(failed_with(copied, directory), "train: gate train.stable", "cpu")

    assert explained.verdict == NO_SNAPSHOT
    assert verify_run(explained.run).failures == []
