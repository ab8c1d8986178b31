"""The whole pipeline, tiny, through Prefect: what a run leaves, what a second run re-uses."""

import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from evidence.records import read_record
from flows.environment import prepare
from tasks.run_record import Run, all_runs, find_run
from tasks.verify import verify_run
from tests.flows.conftest import places_in
from tests.test_architecture import PROJECT

TINY = (
    "train.num_steps=8",
    "train.steps_per_epoch=4",
    "train.warmup_steps=2",
    "thresholds.max_loss_to_unigram=2.0",
)
CANARIES = {
    name: f"canary-{name.lower()}-7d1f9c"
    for name in (
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN"),
        *("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "MLFLOW_AUTH_ADMIN_PASSWORD"),
        *("MLFLOW_FLASK_SERVER_SECRET_KEY", "PREFECT_API_AUTH_STRING", "PGPASSWORD"),
        *("GITHUB_TOKEN", "OPENAI_API_KEY", "SOMETHING_OF_THEIR_OWN"),
    )
}
"Secrets as a user's environment holds them."
STAGES = ["pretokenize", "shard", "train", "evaluate", "checkpoint", "bisect"]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The pipeline flow, on a Prefect server of its own and in directories of its own."""
    with places_in(tmp_path_factory.mktemp("walk")):
        os.environ.update(CANARIES)
        prepare()
        from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
        from prefect.testing.utilities import prefect_test_harness

        from flows.pipeline import pipeline as flow

        # Without a heartbeat a flow does not end a second late.
        quick = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
        with prefect_test_harness(server_startup_timeout=180), temporary_settings(quick):
            yield flow


@pytest.fixture(scope="module")
def first(pipeline: Any) -> Run:
    state = pipeline("walk", "smoke", TINY, return_state=True)
    assert state.is_completed(), state.message
    return find_run(state.result().evidence)


def artifacts(flow_run_id: str | None = None) -> set[str]:
    """Name what Prefect shows, of one flow run or of all."""
    found = shown()
    return {each["key"] for each in found if flow_run_id in (None, each["flow_run_id"])}


def shown() -> list[dict[str, Any]]:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        found: list[dict[str, Any]] = client._client.post("/artifacts/filter", json={}).json()
    return found


def outcomes(run: Run) -> list[str]:
    return [record["outcome"] for record in run.stage_records().values()]


def test_a_run_does_all_six_stages_and_its_evidence_verifies(first: Run) -> None:
    assert list(first.stage_records()) == STAGES
    assert outcomes(first) == ["produced"] * 6
    record = first.record()
    assert record is not None
    assert record["outcome"] == "completed"
    assert {gate["verdict"] for gate in record["gates"] if gate["required"]} == {"pass"}
    report = verify_run(first)
    assert report.failures == []
    assert report.num_checks > 100


def task_states(run: Run) -> list[str]:
    """Names of the states that Prefect shows for the stages of a run."""
    from prefect.client.orchestration import get_client

    flow_run_id = run.plan()["request"]["prefect_flow_run_id"]
    with get_client(sync_client=True) as client:
        task_runs = [
            each for each in client.read_task_runs() if str(each.flow_run_id) == flow_run_id
        ]
    assert len(task_runs) == 6
    return [str(each.state_name) for each in task_runs]


def test_the_epoch_records_begin_with_the_references_nine_fields(first: Run) -> None:
    text = (first.directory / "epoch-001.metadata.json").read_text()
    keys = [line.split('"')[1] for line in text.splitlines() if line.startswith('  "')]
    assert keys[:9] == [
        "epoch",
        "train_loss",
        "val_loss",
        "train_ppl",
        "val_ppl",
        "optimizer_state_sha",
        "wall_seconds",
        "tokens_seen",
        "grad_norm_max",
    ]


def test_prefect_shows_six_named_task_runs_and_their_artifacts(first: Run) -> None:
    from prefect.client.orchestration import get_client

    flow_run_id = first.plan()["request"]["prefect_flow_run_id"]
    with get_client(sync_client=True) as client:
        task_runs = [run for run in client.read_task_runs() if str(run.flow_run_id) == flow_run_id]
    names = sorted(run.name for run in task_runs)
    assert len(names) == 6
    assert names[-1] == "train 2x64 for 8 steps"
    keys = artifacts(flow_run_id)
    assert {f"{stage}-summary" for stage in STAGES} <= keys
    assert {f"{stage}-gates" for stage in STAGES} <= keys
    assert {"gates", "evidence", "report", "mlflow", "bisect-heat-map"} <= keys
    assert {"train-progress", "train-loss"} <= keys
    progress = [each for each in shown() if each["key"] == "train-progress"]
    said = progress[0]["description"]
    assert re.match(r"train, (loss .* tokens, |validating [\d,]+ of [\d,]+ rows)", said)


HOLD = """
import sys
from prefect import flow, task
from tasks.gpu_slots import gpu_slots

@task
def hold():
    with gpu_slots(["GPU-a", "GPU-b"], "killed"):
        print("holds", flush=True)
        sys.stdin.read()

@flow
def holding():
    hold()

holding()
"""


def test_the_slots_of_a_killed_process_are_given_back_at_once(pipeline: Any) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
    from prefect.settings import PREFECT_API_URL

    from tasks.gpu_slots import LIMIT, give_back_leases

    with get_client(sync_client=True) as client:
        limit = GlobalConcurrencyLimitCreate(name=LIMIT, limit=2)
        client.create_global_concurrency_limit(limit)
        with subprocess.Popen(
            [sys.executable, "-c", HOLD],
            cwd=PROJECT,
            env={**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "holds\n"
            assert give_back_leases() == []
            held = client.read_global_concurrency_limit_by_name(LIMIT).active_slots
            process.kill()
        assert held == 2
        assert client.read_global_concurrency_limit_by_name(LIMIT).active_slots == 2
        assert give_back_leases() == ["killed"]
        assert client.read_global_concurrency_limit_by_name(LIMIT).active_slots == 0


def test_a_run_that_asks_first_waits_until_a_person_resumes_it(pipeline: Any, first: Run) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from prefect.client.orchestration import get_client

    with ThreadPoolExecutor(1) as thread, get_client(sync_client=True) as client:
        asked = thread.submit(pipeline, "asks", "smoke", TINY, True, return_state=True)
        paused = until(lambda: [run for run in client.read_flow_runs() if is_paused(run)])
        assert "asks-" not in {run.name[:5] for run in all_runs()}
        client.resume_flow_run(paused[0].id)
        assert asked.result().is_completed()
    assert outcomes(find_run("asks")) == ["reused"] * 6


def is_paused(run: Any) -> bool:
    return bool(run.state and run.state.is_paused())


def until(ask: Any) -> Any:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if found := ask():
            return found
        time.sleep(0.2)
    pytest.fail("nothing came in time")


def test_nobodys_approval_is_a_failed_run_that_says_so(
    pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.approval.wait_for_approval.__defaults__", (1,))
    before = len(all_runs())
    state = pipeline("asks", "smoke", TINY, True, return_state=True)
    assert state.is_failed()
    # In the words of Prefect's server, which ended it.
    assert "never resumed" in state.message
    assert len(all_runs()) == before


def test_prefect_is_told_of_every_epochs_snapshot(first: Run) -> None:
    from prefect.client.orchestration import get_client

    wanted = {"filter": {"event": {"name": ["assay.snapshot"]}}}
    with get_client(sync_client=True) as client:
        events = client._client.post("/events/filter", json=wanted).json()["events"]
    told = {(each["payload"]["run"], each["payload"]["snapshot"]) for each in events}
    assert {(first.name, "epoch-000"), (first.name, "epoch-001")} <= told


def test_a_second_run_reuses_every_stage_and_says_from_which_run(pipeline: Any, first: Run) -> None:
    finished = pipeline("walk", "smoke", TINY)
    again = find_run(finished.evidence)
    assert again.name == f"{first.name}-2"
    assert finished.output == first.stage_records()["checkpoint"]["output"]
    assert outcomes(again) == ["reused"] * 6
    assert {each["reused_from"] for each in again.stage_records().values()} == {first.name}
    assert set(task_states(again)) == {"Reused"}
    assert set(task_states(first)) == {"Completed"}
    assert verify_run(again).failures == []


def test_a_changed_training_reuses_tokens_and_shards(pipeline: Any, first: Run) -> None:
    changed = (*TINY, "train.peak_lr=1e-3")
    run = find_run(pipeline("walk", "smoke", changed).evidence)
    assert outcomes(run) == ["reused", "reused", "produced", "produced", "produced", "produced"]


def test_the_form_of_a_training_trains_with_what_was_filled_in(pipeline: Any, first: Run) -> None:
    from flows.train_form import TrainForm, train_form_flow

    trained = first.stage_records()
    form = TrainForm(num_steps=8, steps_per_epoch=4, warmup_steps=2)
    # So short a training passes no gate of the preset, which the form leaves alone.
    train_form_flow(trained["shard"]["output"], "form", "smoke", form, return_state=True)
    run = find_run("form")
    assert outcomes(run) == ["reused"]
    assert run.stage_records()["train"]["recipe"] == trained["train"]["recipe"]


def test_a_failed_gate_is_a_failed_run_whose_message_is_the_gates_sentence(
    pipeline: Any, first: Run
) -> None:
    strict = (*TINY[:3], "thresholds.max_loss_to_unigram=0.01")
    state = pipeline("walk", "smoke", strict, return_state=True)
    assert state.is_failed()
    assert state.message.startswith(
        "gate train.unigram: after the warm-up the model predicts better than a table of token "
        "frequencies: measured "
    )
    assert state.message.endswith(", should be <= 0.01")
    run = next(each for each in reversed(all_runs()) if "-bisect-" not in each.name)
    record = run.record()
    assert record is not None
    assert (record["outcome"], record["error"]) == ("failed", state.message)
    assert list(run.stage_records()) == STAGES[:3]
    assert verify_run(run).failures == []
    assert "bisect" in artifacts(run.plan()["request"]["prefect_flow_run_id"])
    told = read_record(run.directory / "after-failure.json")
    assert told["cause"] == "train.unigram"
    report = find_run(str(told["run"]))
    assert report.record() is not None
    assert verify_run(report).failures == []


def test_too_little_that_is_held_out_ends_a_run_before_it_is_sharded(
    pipeline: Any, first: Run
) -> None:
    greedy = (*TINY, "thresholds.min_val_batches=10000")
    state = pipeline("greedy", "smoke", greedy, return_state=True)
    assert state.is_failed()
    assert state.message.startswith(
        "pretokenize.validation_fraction is 0.2, should be larger: the "
    )
    assert list(find_run("greedy").stage_records()) == ["pretokenize"]


def test_two_models_are_bisected_in_a_flow_of_their_own(pipeline: Any, first: Run) -> None:
    from flows.bisection import bisect_models_flow

    checkpoint = first.stage_records()["checkpoint"]["output"]
    run, found = bisect_models_flow("models", checkpoint, checkpoint, tokens="1,2,3")

    assert found.verdict == "no fault"
    assert verify_run(run).failures == []
    assert {"bisection-evidence", "bisection-table", "bisection-heat-map"} <= artifacts()


def test_transformers_opens_the_sealed_checkpoint(first: Run) -> None:
    import torch
    import transformers

    from evidence.refs import parse_ref
    from tasks import places
    from tasks.models import load_apr
    from tasks.store import Store

    record = first.stage_records()["checkpoint"]
    directory = Store(places.store()).open(parse_ref(record["output"])).directory
    model = transformers.AutoModelForCausalLM.from_pretrained(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    ids = tokenizer("def main():\n    return", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        theirs, ours = model(ids).logits, load_apr(directory / "model.apr", "cpu")(ids)
    assert torch.allclose(theirs, ours, rtol=0, atol=1e-5)


def test_the_sealed_checkpoint_is_valid_and_ready_to_be_published(
    first: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.cli import run

    record = first.stage_records()["checkpoint"]
    assert record["measurements"]["weights_files"] == 4
    assert record["measurements"]["publish_faults"] == 0
    assert run(["validate", record["output"]]) == 0
    assert "checks, all hold" in capsys.readouterr().out
    assert run(["inspect", record["output"]]) == 0
    assert "assay-smoke-q4k.gguf" in capsys.readouterr().out


def test_the_sealed_model_completes_code(first: Run, capsys: pytest.CaptureFixture[str]) -> None:
    from flows.cli import run

    ref = first.stage_records()["checkpoint"]["output"]
    line = ["generate", "--checkpoint", ref, "--prompt", "def main(", "--num-tokens", "5"]
    assert run(line) == 0
    said = capsys.readouterr().out
    assert said.startswith("def main(")
    assert len(said) > len("def main(\n")


def test_the_looking_commands_tell_of_the_run(
    first: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.cli import run

    for line in (["runs"], ["status", first.name], ["inspect", first.name]):
        assert run(line) == 0
        assert first.name in capsys.readouterr().out
    assert run(["verify", first.name]) == 0
    assert "all hold" in capsys.readouterr().out


def test_a_damaged_record_does_not_hide_the_other_runs(
    first: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.cli import run

    path = first.directory / "shard.metadata.json"
    original = path.read_bytes()
    path.write_bytes(b"{")
    try:
        assert run(["runs"]) == 0
    finally:
        path.write_bytes(original)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.split()[0] == first.name] == ["damaged"]
    assert len(lines) > 2


def test_a_flipped_byte_makes_verify_exit_five_and_name_the_file(
    first: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.cli import run

    path = first.directory / "epoch-000.metadata.json"
    original = path.read_bytes()
    path.write_bytes(original.replace(b'"train_loss": ', b'"train_loss": 1', 1))
    try:
        assert run(["verify", first.name]) == 5
        said = capsys.readouterr().err
    finally:
        path.write_bytes(original)
    assert "epoch-000.metadata.json" in said
    assert "hint:" in said


def test_no_secret_of_the_environment_is_in_anything_that_runs_leave(first: Run) -> None:
    from prefect.settings import PREFECT_SERVER_DATABASE_CONNECTION_URL

    from flows.cli import run as assay

    root = first.directory.parents[1]
    assert (root / "home" / "mlflow" / "mlflow.db").is_file()
    database = Path(str(PREFECT_SERVER_DATABASE_CONNECTION_URL.value()).partition(":///")[2])
    assert first.name.encode() in database.read_bytes()
    # What the last transactions wrote is beside it.
    beside = database.parent.glob(f"{database.name}*")
    with redirect_stdout(io.StringIO()) as exported:
        for line in (["export", first.name], ["inspect", first.name, "--json"]):
            assert assay(line) == 0
    (root / "exported").write_text(exported.getvalue())
    assert assay(["report", first.name, "--out", str(root / "page.html")]) == 0
    files = [*beside, *(path for path in root.rglob("*") if path.is_file())]
    assert len(files) > 100
    words = [word.encode() for word in CANARIES.values()]
    assert [path for path in files if any(word in path.read_bytes() for word in words)] == []
