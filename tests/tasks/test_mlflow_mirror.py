"""Mirrors of one finished run; importing MLflow costs seconds, so this is the one module of it."""

import json
import shutil
import time
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest
from mlflow import MlflowClient

from evidence.chain import Line, read_chain
from evidence.records import STAGES, flatten
from evidence.refs import TokensRef
from tasks import mirroring, mlflow_mirror, places
from tasks.errors import MirrorError
from tasks.mirror_state import Sent
from tasks.mirroring import mirror_now, mirrored
from tasks.mlflow_mirror import mirror
from tasks.mlflow_pins import pinned_heads
from tasks.run_record import Run, finish_run
from tasks.training_log import read_rows
from tasks.verify_chain import verify_chain
from tests.tasks.tiny import STEPS, Finished, at_home, begin, point_to, tiny_settings

NOWHERE = "http://127.0.0.1:9"


@dataclass(frozen=True)
class Mirrored:
    finished: Finished
    client: MlflowClient
    sent: Sent

    def run(self, stage: str | None = None) -> Any:  # MLflow has no types
        run_id = self.sent.stage_run_ids[stage] if stage else self.sent.run_id
        return self.client.get_run(run_id)

    def history(self, stage: str, key: str) -> list[tuple[int, float]]:
        found = self.client.get_metric_history(self.sent.stage_run_ids[stage], key)
        return [(metric.step, metric.value) for metric in found]


@pytest.fixture(scope="module")
def sent(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Mirrored:
    """The finished run, mirrored into a fresh database."""
    home = tmp_path_factory.mktemp("mirrored") / "home"
    shutil.copytree(finished.home, home)
    ours = Finished(
        home, Run(home / "evidence" / finished.run.name), finished.settings, finished.refs
    )
    with at_home(home), pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        first = mirror(ours.run)
        return Mirrored(ours, MlflowClient(places.mlflow_uri()), first)


def all_runs(client: MlflowClient) -> list[Any]:
    experiment = client.get_experiment_by_name("assay")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def test_a_run_becomes_a_parent_with_six_children(sent: Mirrored) -> None:
    runs = all_runs(sent.client)
    assert len(runs) == 7
    parent = sent.run()
    assert parent.info.run_name == sent.finished.run.name
    assert parent.info.status == "FINISHED"
    assert list(sent.sent.stage_run_ids) == ["train", *(s for s in STAGES if s != "train")]
    for stage in STAGES:
        child = sent.run(stage)
        assert child.info.run_name == f"{sent.finished.run.name}: {stage}"
        assert child.info.status == "FINISHED"
        assert child.data.tags["mlflow.parentRunId"] == sent.sent.run_id


@pytest.mark.parametrize(
    "key", ["train_loss", "grad_norm", "learning_rate", "tokens_per_second", "tokens_seen"]
)
def test_the_metrics_of_every_step_are_those_of_the_log(sent: Mirrored, key: str) -> None:
    rows = read_rows(sent.finished.training.directory / "train.jsonl")
    assert sent.history("train", key) == [(row["step"], row[key]) for row in rows]
    assert len(rows) == STEPS


def test_the_metrics_of_every_epoch_are_those_of_its_record(sent: Mirrored) -> None:
    records = [
        json.loads((sent.finished.run.directory / f"epoch-00{epoch}.metadata.json").read_text())
        for epoch in range(3)
    ]
    for key in ("val_loss", "val_bits_per_byte", "val_loss_standard_error", "corpus_passes"):
        assert sent.history("train", key) == [(each["step"], each[key]) for each in records]


def test_the_parameters_are_the_planned_settings(sent: Mirrored) -> None:
    settings = sent.finished.run.plan()["settings"]
    assert sent.run().data.params == {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in flatten(settings).items()
    }
    assert sent.run("train").data.params["train.peak_lr"] == "0.01"
    own = {"evaluate.rows": "0", "evaluate.precision": "float32"}
    evaluated = sent.run("evaluate").data.params
    assert {key: evaluated[key] for key in own} == own
    assert {key.partition(".")[0] for key in evaluated} == {"evaluate", "code_benchmark"}


def test_the_measurements_of_every_stage_are_on_its_run_and_on_the_parent(sent: Mirrored) -> None:
    parent = sent.run().data.metrics
    for stage, record in sent.finished.run.stage_records().items():
        child = sent.run(stage).data.metrics
        for name, value in record["measurements"].items():
            if not isinstance(value, str):
                assert child[f"{stage}.{name}"] == parent[f"{stage}.{name}"] == value


def test_the_inputs_are_datasets_with_their_digests(sent: Mirrored) -> None:
    found = {
        entry.dataset.name: entry.dataset.digest
        for entry in sent.run("evaluate").inputs.dataset_inputs
    }
    assert found == {
        "training": sent.finished.refs.training.digest[:36],
        "shards": sent.finished.refs.shards.digest[:36],
        "tokens": sent.finished.refs.tokens.digest[:36],
    }


def test_the_tags_say_where_the_evidence_is(sent: Mirrored) -> None:
    run, tags = sent.finished.run, sent.run().data.tags
    record = run.record()
    assert record is not None
    assert tags["assay.run"] == run.name
    assert tags["assay.evidence"] == str(run.directory)
    assert tags["assay.outcome"] == "completed"
    assert tags["assay.settings_sha256"] == record["settings_sha256"]
    assert tags["assay.record_sha256"] == record["record_sha256"]
    child = sent.run("shard").data.tags
    assert child["assay.stage"] == "shard"
    assert child["assay.outcome"] == "produced"
    assert child["assay.output"] == str(sent.finished.refs.shards)
    assert child["assay.recipe_sha256"] == record["recipes"]["shard"]


def test_the_records_are_artifacts(sent: Mirrored) -> None:
    def names(run_id: str) -> list[str]:
        return sorted(each.path for each in sent.client.list_artifacts(run_id))

    page = f"{sent.finished.run.name}.html"
    assert names(sent.sent.run_id) == ["metadata.json", "plan.json", page]
    assert names(sent.sent.stage_run_ids["train"]) == [
        "epoch-000.metadata.json",
        "epoch-001.metadata.json",
        "epoch-002.metadata.json",
        "train-loss.png",
        "train.metadata.json",
    ]
    assert names(sent.sent.stage_run_ids["bisect"]) == [
        "bisect-heat-map.png",
        "bisect.metadata.json",
        "trace.txt",
    ]


def test_a_page_that_fails_keeps_no_run_back(
    sent: Mirrored, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: Run) -> Any:
        raise RuntimeError("no ink")

    monkeypatch.setattr(mlflow_mirror, "write_report", fail)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with at_home(sent.finished.home):
        mlflow_mirror.Mirror(sent.finished.run)._send_report()
    said = capsys.readouterr().err
    assert said == f"{sent.finished.run.name}: no report: RuntimeError: no ink\n"


def test_the_checkpoint_is_a_logged_model(sent: Mirrored) -> None:
    (found,) = logged(sent, "assay-smoke")
    assert found.tags["assay.ref"] == str(sent.finished.refs.checkpoint)
    assert str(found.status) == "READY"
    scored = {metric.key: metric for metric in found.metrics}
    measured = sent.finished.run.stage_records()["evaluate"]["measurements"]
    assert scored["evaluate.val_loss"].value == measured["val_loss"]
    assert scored["evaluate.val_loss"].dataset_digest == sent.finished.refs.evaluation.digest[:36]


def logged(sent: Mirrored, beginning: str) -> list[Any]:
    found = sent.client.search_logged_models([sent.sent.experiment_id])
    return sorted(
        (model for model in found if model.name.startswith(beginning)), key=lambda each: each.name
    )


def test_every_epochs_snapshot_is_a_logged_model_with_its_step_and_metrics(sent: Mirrored) -> None:
    run = sent.finished.run
    models = logged(sent, f"{run.name}-epoch-")
    assert len(models) == 3
    for epoch, model in enumerate(models):
        record = json.loads((run.directory / f"epoch-00{epoch}.metadata.json").read_text())
        assert model.name == f"{run.name}-epoch-00{epoch}"
        assert str(model.status) == "READY"
        assert model.params == {"step": str(record["step"]), "epoch": str(epoch)}
        assert model.tags["assay.sha256"] == record["files"][f"epoch-00{epoch}.apr"]
        measured = {each.key: (each.step, each.value) for each in model.metrics}
        assert measured["val_loss"] == (record["step"], record["val_loss"])
        digests = {each.dataset_digest for each in model.metrics}
        assert digests == {sent.finished.refs.shards.digest[:36]}


def test_the_first_checkpoint_of_a_name_is_candidate_and_champion(sent: Mirrored) -> None:
    registered = sent.client.get_registered_model("assay-smoke")
    assert set(registered.aliases) == {"candidate", "champion"}
    assert {str(version) for version in registered.aliases.values()} == {"1"}
    version = sent.client.get_model_version("assay-smoke", "1")
    assert version.run_id == sent.sent.stage_run_ids["checkpoint"]
    assert f"/{sent.sent.model_id}/" in version.source
    assert version.tags["assay.run"] == sent.finished.run.name
    assert version.tags["assay.ref"] == str(sent.finished.refs.checkpoint)
    (gate,) = json.loads(version.tags["assay.candidate"])
    assert (gate["id"], gate["verdict"]) == ("registry.gates", "pass")


def test_what_was_sent_is_remembered(sent: Mirrored) -> None:
    known = sent.sent
    assert (known.last_step, known.last_epoch, known.complete) == (STEPS, 2, True)
    assert sorted(known.finished_stages) == sorted(STAGES)
    path = sent.finished.home / "mirror" / f"{sent.finished.run.name}.json"
    assert json.loads(path.read_text())["run_id"] == known.run_id


def content(client: MlflowClient) -> dict[str, Any]:
    return {
        run.info.run_id: (
            run.data.to_dictionary(),
            {key: len(client.get_metric_history(run.info.run_id, key)) for key in run.data.metrics},
            len(run.inputs.dataset_inputs),
            run.info.end_time,
        )
        for run in all_runs(client)
    }


def test_mirroring_twice_adds_nothing(sent: Mirrored) -> None:
    before = content(sent.client)
    with at_home(sent.finished.home):
        again = mirror(sent.finished.run)
    assert again == sent.sent
    assert content(sent.client) == before
    assert len(sent.client.search_logged_models([sent.sent.experiment_id])) == 4
    assert len(sent.client.search_model_versions("name = 'assay-smoke'")) == 1


@pytest.fixture
def ours(copied: Finished, sent: Mirrored, monkeypatch: pytest.MonkeyPatch) -> Finished:
    """A copy of the finished run with a copy of the database that has been made already."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copytree(sent.finished.home / "mlflow", copied.home / "mlflow")
    return copied


def test_without_its_memory_the_mirror_sends_everything_again(ours: Finished) -> None:
    first = mirror(ours.run)
    (ours.home / "mirror" / f"{ours.run.name}.json").unlink()
    second = mirror(ours.run)
    assert second.complete
    assert second.run_id != first.run_id
    client = MlflowClient(places.mlflow_uri())
    left, right = (client.get_run(run_id).data for run_id in (first.run_id, second.run_id))
    assert (left.params, left.metrics) == (right.params, right.metrics)
    for stage in STAGES:
        one, other = (client.get_run(each.stage_run_ids[stage]) for each in (first, second))
        assert one.data.metrics == other.data.metrics


def test_a_deleted_mlflow_run_is_mirrored_again(ours: Finished) -> None:
    first = mirror(ours.run)
    MlflowClient(places.mlflow_uri()).delete_run(first.run_id)
    second = mirror(ours.run)
    assert second.complete
    assert second.run_id != first.run_id


def test_a_failed_run_is_failed_in_mlflow_too(ours: Finished) -> None:
    run = begin(tiny_settings(ours.home), "failing")
    finish_run(run, "failed", "the reason")
    known = mirror(run)
    found = MlflowClient(places.mlflow_uri()).get_run(known.run_id)
    assert (found.info.status, found.data.tags["assay.outcome"]) == ("FAILED", "failed")


def test_what_a_run_that_is_no_stage_found_is_an_artifact_of_it(ours: Finished) -> None:
    run = begin(ours.settings, "bisect")
    names = ["bisection.json", "bisection.md", "bisection.png", "bisection.txt", "replay.json"]
    for name in [*names, "after-failure.json"]:
        (run.directory / name).write_text("{}")
    finish_run(run, "completed", None)

    sent = mirror(run)

    client = MlflowClient(places.mlflow_uri())
    assert sorted(each.path for each in client.list_artifacts(sent.run_id)) == [
        "after-failure.json",
        f"{run.name}.html",
        *names[:4],
        "metadata.json",
        "plan.json",
        "replay.json",
    ]


def test_a_run_that_goes_on_is_sent_as_far_as_it_is(ours: Finished) -> None:
    (ours.run.directory / "metadata.json").unlink()
    (ours.run.directory / "bisect.metadata.json").unlink()
    known = mirror(ours.run)
    assert not known.complete
    assert "bisect" not in known.stage_run_ids
    found = MlflowClient(places.mlflow_uri()).get_run(known.run_id)
    assert found.info.status == "RUNNING"


def test_an_unreachable_mlflow_is_an_error_and_a_working_one_catches_up(
    ours: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
    with pytest.raises(MirrorError) as caught:
        mirror_now(ours.run)
    assert caught.value.uri == NOWHERE
    assert "refused" in caught.value.reason
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    known = mirror_now(ours.run)
    assert (known["complete"], known["last_step"]) == (True, STEPS)


class Refusing(BaseHTTPRequestHandler):
    """An MLflow that wants another login."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        pass


def test_an_mlflow_that_refuses_the_login_is_an_error_that_says_what_to_set(
    ours: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(MirrorError) as caught:
            mirror_now(ours.run)
        server.shutdown()
    assert "401" in caught.value.reason
    assert caught.value.hint.startswith("set MLFLOW_TRACKING_USERNAME")


def test_a_run_waits_for_an_unreachable_mlflow_only_so_long(
    ours: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
    monkeypatch.setattr(mirroring, "PATIENCE_SECONDS", 0.5)
    begun = time.monotonic()
    with mirrored(ours.run) as state:
        entered = time.monotonic() - begun
    assert not state.complete
    assert entered < 1.0
    assert time.monotonic() - begun < 5.0


def test_a_mirror_beside_a_run_ends_when_the_record_is_sent(ours: Finished) -> None:
    with mirrored(ours.run) as state:
        assert not state.complete
    assert state.complete


def test_a_dataset_ref_is_whole_in_its_source(sent: Mirrored) -> None:
    source = sent.run("shard").inputs.dataset_inputs[0].dataset.source
    ref: TokensRef = sent.finished.refs.tokens
    assert json.loads(source) == {"ref": str(ref)}


def test_mlflow_keeps_the_head_of_the_chain_and_contradicts_a_rewritten_one(
    sent: Mirrored, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_to(monkeypatch, sent.finished.home)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    directory = sent.finished.run.directory.parent
    chain = read_chain(directory)
    pins = pinned_heads(directory)
    assert list(pins.values()) == [chain.lines[0].head]
    assert verify_chain(directory, pins).failures == []
    assert pinned_heads(directory / "elsewhere") == {}
    rewritten = chain.lines[0].encoded().replace(b"2026", b"2027")
    forged = replace(chain, lines=(Line(**json.loads(rewritten)),))
    assert forged.contradiction(*pins.values()) is not None
