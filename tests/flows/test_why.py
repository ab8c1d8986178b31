"""`assay why` names what makes a stage run again, and from which run it is reused."""

import json
import shutil

import pytest

from flows.cli import run
from tasks import train
from tests.tasks.tiny import OVERRIDES, Finished, tiny_settings

pytestmark = pytest.mark.usefixtures("reading", "as_it_is")


@pytest.fixture
def as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave to the machine what the finished run, which no flow made, left to it."""
    monkeypatch.setattr("flows.settings.possible_here", lambda settings: settings)


def why(capsys: pytest.CaptureFixture[str], stage: str, finished: Finished, *changes: str) -> str:
    settings = (*OVERRIDES, f'source.path="{finished.home / "corpus"}"', *changes)
    line = ["why", stage, "--preset", "smoke"]
    assert run([*line, *(word for each in settings for word in ("--set", each))]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("stage", ["pretokenize", "shard", "train", "evaluate", "bisect"])
def test_what_has_been_made_is_reused_because_the_recipe_is_the_same(
    finished: Finished, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    record = finished.run.stage_records()[stage]
    assert why(capsys, stage, finished) == (
        f"{stage}: reused from {finished.run.name}, which made {record['output']}\n"
        f"because the recipe is the same: {record['recipe_sha256']}\n"
    )


def test_the_setting_that_makes_a_stage_run_again_is_named(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    said = why(capsys, "train", finished, "train.peak_lr=5e-3").splitlines()
    assert said[0] == f"train: runs; the closest recipe is that of {finished.run.name}"
    assert [line.split() for line in said[1:]] == [
        ["differs", finished.run.name, "here"],
        ["settings.train.peak_lr", "0.01", "0.005"],
    ]


def test_an_interrupted_training_goes_on_from_its_snapshot(
    copied: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = tiny_settings(copied.home, ["train.peak_lr=5e-3"])
    wanted = train.recipe(str(copied.refs.shards), changed.model, changed.train)
    work = copied.home / "store" / "tmp" / f"train-{wanted.digest[:16]}"
    shutil.copytree(copied.training.directory, work)
    (work / "ckpt" / "epoch-002.metadata.json").unlink()

    saved = f"step 32 of 48, snapshot epoch-001 in {work}"
    said = why(capsys, "train", copied, "train.peak_lr=5e-3").splitlines()
    assert said[0] == f"train: an interrupted one of the same recipe goes on from {saved}"
    assert said[1] == f"train: runs; the closest recipe is that of {copied.run.name}"
    with copied.store.resuming(work.name):
        said = why(capsys, "train", copied, "train.peak_lr=5e-3").splitlines()
        assert said[0] == f"train: a process is at it; last saved: {saved}"
    for path in (work / "ckpt").glob("*.metadata.json"):
        path.unlink()
    assert "interrupted" not in why(capsys, "train", copied, "train.peak_lr=5e-3")


def test_an_input_that_is_not_made_yet_is_named(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    said = why(capsys, "evaluate", finished, "train.peak_lr=5e-3").splitlines()
    assert said[2].split(maxsplit=2)[:2] == [
        "inputs.training",
        str(finished.refs.training),
    ]
    assert said[2].endswith("what train would make")
    assert len(said) == 3


def test_a_recorded_stage_is_explained_too(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["why", "train", "--run", finished.run.name, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["stage"], found["reused_from"], found["closest_run"]) == ("train", None, None)


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("why training", 2, "the stage is training, should be one of pretokenize, shard"),
        ("why train --run nobody", 3, "no run nobody"),
        ("why train --preset nope", 2, "preset nope does not exist"),
    ],
)
def test_what_cannot_be_explained_is_refused(
    capsys: pytest.CaptureFixture[str], line: str, code: int, said: str
) -> None:
    assert run(line.split()) == code
    assert said in capsys.readouterr().err
