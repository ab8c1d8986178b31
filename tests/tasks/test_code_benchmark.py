"""Problems and continuations in an evaluation: what is kept, what is computed, what stops a run."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, NoReturn

import pandas as pd
import pytest
import torch

from data.errors import MissingFileError
from evidence.errors import GateFailedError
from evidence.refs import EvaluationRef
from flows.settings import PipelineSettings
from model.errors import WrongSettingError
from model.llama import Llama
from tasks import code_evaluation
from tasks.code_benchmark import ANSWERS, as_possible, check_ready
from tasks.code_benchmark_settings import CodeBenchmarkSettings
from tasks.errors import IsolationUnavailableError
from tasks.evaluate import STAGE
from tasks.recheck_model import evaluation_again
from tasks.recheck_written import Draw
from tasks.rechecked import Rechecked
from tasks.run_record import Run, finish_run
from tasks.sandbox import Sandbox, SandboxSettings
from tasks.scored_model import OpenModel
from tasks.store import Artefact
from tasks.syntax_benchmark import CONTINUATIONS, _is_valid
from tasks.verify import verify_run
from tests.tasks.isolation import needs_isolation
from tests.tasks.tampering import reseal, reseal_run, set_at
from tests.tasks.tiny import Finished, at_home, begin, copy_of, evaluated, tiny_settings

pytestmark = needs_isolation

PROBLEMS = [
    {
        "task_id": f"tiny/{factor}",
        "prompt": f'def times(x):\n    """Multiply x by {factor}."""\n',
        "entry_point": "times",
        "canonical_solution": f"    return {factor} * x\n",
        "test": f"def check(candidate):\n    assert candidate(2) == {2 * factor}\n",
    }
    for factor in (2, 3, 4)
]
SETTINGS = {
    "samples": 2,
    "pass_at": "[1,2]",
    "temperature": 0.8,
    "max_tokens": 8,
    "syntax_prompts": 6,
    "syntax_prompt_tokens": 4,
    "syntax_tokens": 48,
    "speed_tokens": 20,
}


def settings_with(home: Path, problems: list[dict[str, str]], **changes: object) -> Any:
    path = home / "tiny.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in problems))
    chosen = {**SETTINGS, "problems": f'"{path}"', **changes}
    return tiny_settings(home, [f"code_benchmark.{key}={value}" for key, value in chosen.items()])


def evaluation(finished: Finished, settings: PipelineSettings, run: Run) -> Artefact:
    ref = evaluated(run, finished.refs.training, finished.refs.shards, settings)
    return finished.store.open(EvaluationRef(ref.digest))


@dataclass(frozen=True)
class Judged:
    run: Run
    artefact: Artefact

    @property
    def directory(self) -> Path:
        return self.artefact.directory


@pytest.fixture(scope="module")
def finished(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Return a copy of the finished run to which these tests add runs."""
    return copy_of(finished, tmp_path_factory.mktemp("judged") / "home")


@pytest.fixture(scope="module")
def judged(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judged]:
    settings = settings_with(tmp_path_factory.mktemp("problems"), PROBLEMS)
    with at_home(finished.home):
        run = begin(settings, "code")
        artefact = evaluation(finished, settings, run)
        finish_run(run, "failed", "nothing but the evaluation was to be seen")
        yield Judged(run, artefact)


def test_every_answer_is_kept_with_its_verdict(judged: Judged) -> None:
    table = pd.read_parquet(judged.directory / ANSWERS)

    by_whom = table.groupby("answered_by")["verdict"].agg(list)
    assert by_whom["canonical"] == ["passed"] * 3
    assert by_whom["nonsense"] == ["failed assertion"] * 3
    answers = table[table["answered_by"] == "model"]
    assert list(answers["task"]) == ["tiny/2", "tiny/2", "tiny/3", "tiny/3", "tiny/4", "tiny/4"]
    assert list(answers["sample"]) == [0, 1] * 3
    assert "passed" not in set(answers["verdict"])
    assert answers["completion"].str.len().gt(0).any()


def test_figures_are_computed_from_what_is_kept(judged: Judged) -> None:
    observed = judged.run.stage_records()["evaluate"]["observed"]
    measured = STAGE.measurements(judged.artefact, observed)

    assert measured["tiny_problems"] == 3
    assert measured["tiny_answers"] == 6
    assert (measured["tiny_pass_at_1"], measured["tiny_pass_at_2"]) == (0, 0)
    assert (measured["canonical_pass_at_1"], measured["nonsense_pass_at_1"]) == (1, 0)
    assert measured["inference_failures"] == 0
    assert measured["sandbox_isolation"] == "namespaces"
    timed = observed["decoding"]
    assert len(timed["seconds"]) == 3
    assert measured["decode_tokens_per_second"] == 20 / median(timed["seconds"])
    assert 0 < min(timed["seconds"]) < 600
    assert measured["decode_device"] == "cpu"
    assert measured["syntax_completions"] == 6
    assert measured["syntax_true_share"] == 1


def test_one_pass_of_two_answers_is_half_at_one_and_all_at_two(
    judged: Judged, tmp_path: Path
) -> None:
    table = pd.read_parquet(judged.directory / ANSWERS)
    table.loc[1, "verdict"] = "passed"
    table.to_parquet(tmp_path / ANSWERS)
    measured = code_evaluation.written_measurements(replace(judged.artefact, directory=tmp_path))

    assert measured["tiny_pass_at_1"] == pytest.approx(1 / 6)
    assert measured["tiny_pass_at_2"] == pytest.approx(1 / 3)
    assert measured["tiny_pass_at_1_standard_error"] == pytest.approx(1 / 6)


def test_continuations_stand_beside_the_documents_own(judged: Judged) -> None:
    table = pd.read_parquet(judged.directory / CONTINUATIONS)

    assert all(table["prompt"].str.startswith("def "))
    assert table["is_sound"].all()
    assert table["document"].nunique() > 1


def test_what_the_model_wrote_stands_beside_the_record(judged: Judged) -> None:
    answers = pd.read_csv(judged.run.directory / "evaluate-answers.csv")
    continuations = pd.read_csv(judged.run.directory / "evaluate-continuations.csv")

    assert list(answers["task"]) == ["tiny/2", "tiny/2", "tiny/3", "tiny/3", "tiny/4", "tiny/4"]
    assert "passed" not in set(answers["verdict"])
    assert len(continuations) == 6
    assert continuations["is_true_valid"].all()


@pytest.mark.parametrize(
    ("continuation", "is_cut", "expected"),
    [
        ("    return 1\n", True, True),
        ("    return 1", False, True),
        ("    return 1", True, False),
        ("", False, False),
        ("\n\n\n", False, False),
        ("    # so\n\n    # on\n    return", True, False),
        ("    return )\n", True, False),
    ],
)
def test_a_continuation_is_valid_only_by_code_of_its_own(
    continuation: str, *, is_cut: bool, expected: bool
) -> None:
    assert _is_valid("def f():\n", continuation, is_cut=is_cut) is expected


def test_an_evaluation_of_the_same_problems_is_the_same_wherever_their_file_lies(
    finished: Finished, judged: Judged, tmp_path: Path
) -> None:
    settings = settings_with(tmp_path, PROBLEMS)
    with at_home(finished.home):
        run = begin(settings, "again")
        other = evaluation(finished, settings, run)

    assert run.stage_records()["evaluate"]["outcome"] == "produced"
    assert other.ref == judged.artefact.ref


def stopped(finished: Finished, settings: PipelineSettings, name: str) -> str:
    with at_home(finished.home), pytest.raises(GateFailedError) as caught:
        evaluation(finished, settings, begin(settings, name))
    return caught.value.gate


def test_a_wrong_canonical_solution_stops_the_run(finished: Finished, tmp_path: Path) -> None:
    wrong = [{**PROBLEMS[0], "canonical_solution": "    return x\n"}, *PROBLEMS[1:]]

    settings = settings_with(tmp_path, wrong, syntax_prompts=0, speed_tokens=0)

    assert stopped(finished, settings, "wrong") == "evaluate.canonical"


def test_tests_that_take_nonsense_stop_the_run(finished: Finished, tmp_path: Path) -> None:
    lenient = [{**PROBLEMS[0], "test": "def check(candidate):\n    candidate(2)\n"}]

    settings = settings_with(tmp_path, lenient, syntax_prompts=0, speed_tokens=0)

    assert stopped(finished, settings, "lenient") == "evaluate.nonsense"


def test_a_model_that_scores_nothing_fails_every_answer_and_stops_the_run(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = OpenModel.load

    def broken(self: OpenModel, device: str) -> Llama:
        model = load(self, device)
        with torch.no_grad():
            model.model.norm.weight.fill_(float("nan"))
        return model

    settings = settings_with(tmp_path, PROBLEMS, syntax_prompts=0, speed_tokens=0, max_tokens=9)
    losses = "tasks.evaluate.score_losses"
    kept = finished.store.open(finished.refs.evaluation)

    def scored(*_: object) -> dict[str, Any]:
        out = _[-1]
        for name in ("documents.parquet", "positions.parquet"):
            (Path(str(out)) / name).write_bytes((kept.directory / name).read_bytes())
        names = ("shards", "rows", "all_rows", "precision", "forward_error", "tokenizer_sha256",
                 "validation_sha256", "baselines")  # fmt: skip
        return {name: kept.index["content"][name] for name in names}

    monkeypatch.setattr(losses, scored)
    monkeypatch.setattr(OpenModel, "load", broken)
    assert stopped(finished, settings, "broken") == "evaluate.inference"
    monkeypatch.undo()


def test_a_run_with_problems_verifies(finished: Finished, judged: Judged) -> None:
    with at_home(finished.home):
        assert verify_run(judged.run).failures == []


@pytest.mark.parametrize("name", ["tiny_pass_at_2", "decode_tokens_per_second"])
def test_a_better_figure_in_the_record_is_found(
    finished: Finished, judged: Judged, name: str
) -> None:
    paths = [judged.run.directory / f"{name}metadata.json" for name in ("evaluate.", "")]
    originals = [path.read_bytes() for path in paths]
    true = json.loads(originals[0])["measurements"][name]
    reseal(paths[0], set_at("measurements", name, to=1e6))
    reseal_run(judged.run)
    with at_home(finished.home):
        failures = verify_run(judged.run).failures
    for path, original in zip(paths, originals, strict=True):
        path.write_bytes(original)

    assert failures == [f"evaluate.metadata.json: {name} is {true}, record says 1000000.0"]


def written_again(
    finished: Finished, judged: Judged, number: int | None = None, seed: int = 0,
    output: str | None = None,
) -> dict[str, Rechecked]:  # fmt: skip
    record = judged.run.stage_records()["evaluate"]
    with at_home(finished.home):
        found = evaluation_again(
            finished.store,
            {**record, "output": output or record["output"]},
            "cpu",
            Draw(number, seed),
        )
        return {each.check: each for each in found}


WRITTEN = re.compile("(answer|continuation) .*")


def test_a_model_writes_again_what_it_wrote_and_it_is_judged_the_same(
    finished: Finished, judged: Judged
) -> None:
    everything = written_again(finished, judged)
    assert [name for name, each in everything.items() if not each.holds] == []
    named = list(filter(WRITTEN.fullmatch, everything))
    answers = [f"answer {sample} to tiny/{n}" for n in (2, 3, 4) for sample in (0, 1)]
    assert named == answers + [f"continuation {n}" for n in range(6)]
    some = written_again(finished, judged, number=2, seed=1)
    assert all(each == everything[name] for name, each in some.items())
    drawn = list(filter(WRITTEN.fullmatch, some))
    assert len(drawn) == 4
    assert drawn == list(filter(WRITTEN.fullmatch, written_again(finished, judged, 2, seed=1)))
    assert drawn != list(filter(WRITTEN.fullmatch, written_again(finished, judged, 2, seed=2)))
    assert not any(map(WRITTEN.fullmatch, written_again(finished, judged, 0)))


@pytest.mark.parametrize(
    ("name", "row", "column", "value", "found"),
    [
        (ANSWERS, 1, "verdict", "passed", "answer 1 to tiny/2"),
        (ANSWERS, 2, "completion", "    return 3 * x\n", "answer 0 to tiny/3"),
        (ANSWERS, 3, "answered_by", "canonical", "number of answers"),
        (CONTINUATIONS, 4, "continuation", "    return\n", "continuation 4"),
        (CONTINUATIONS, 5, "is_valid", None, "continuation 5"),
    ],
)
def test_what_the_model_never_wrote_is_found(
    finished: Finished, judged: Judged, name: str, row: int, column: str, value: Any, found: str
) -> None:
    with finished.store.building("forged") as directory:
        shutil.copytree(judged.directory, directory, dirs_exist_ok=True)
        (directory / "index.json").unlink()
        table = pd.read_parquet(directory / name)
        table.loc[row, column] = (not table.loc[row, column]) if value is None else value
        table.to_parquet(directory / name, index=False)
        forged = finished.store.commit(directory, EvaluationRef, judged.artefact.index["content"])

    again = written_again(finished, judged, output=str(forged))

    assert found in [check for check, each in again.items() if not each.holds]


def test_other_problems_than_the_recorded_are_not_answered(
    finished: Finished, judged: Judged
) -> None:
    asked = judged.run.stage_records()["evaluate"]["recipe"]["settings"]["code_benchmark"]
    path = Path(asked["problems"])
    before = path.read_bytes()
    path.write_bytes(before + b"\n")
    again = written_again(finished, judged, number=1)
    path.write_bytes(before)

    assert not again["digest of the problems"].holds
    assert not any(check.startswith("answer") for check in again)


def test_missing_problems_are_refused_before_any_work(tmp_path: Path) -> None:
    settings = settings_with(tmp_path, PROBLEMS).code_benchmark
    check_ready(settings)
    (tmp_path / "tiny.jsonl").unlink()

    with pytest.raises(MissingFileError):
        check_ready(settings)


def test_where_nothing_isolates_problems_are_left_out_if_one_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = settings_with(tmp_path, PROBLEMS).code_benchmark
    settings = replace(asked, isolation="namespaces")
    assert asked.isolation == "where-possible"
    assert as_possible(settings) == as_possible(asked) == settings
    assert capsys.readouterr().err == ""

    def refuse(_settings: SandboxSettings) -> NoReturn:
        raise IsolationUnavailableError("not here")

    monkeypatch.setattr(Sandbox, "opened", refuse)
    assert as_possible(settings) == settings
    assert as_possible(asked) == replace(settings, problems="")
    assert "no generated code is run here" in capsys.readouterr().err
    with pytest.raises(IsolationUnavailableError):
        check_ready(settings)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("samples", 0),
        ("samples", 2),
        ("pass_at", ()),
        ("pass_at", (2,)),
        ("max_tokens", 0),
        ("temperature", -1.0),
        ("syntax_prompts", -1),
        ("speed_tokens", -1),
        ("isolation", "hope"),
        ("problems", "elsewhere/HumanEval.jsonl"),
        ("problems", "canonical.jsonl"),
        ("cpu_seconds", 0),
    ],
)
def test_what_cannot_be_answered_is_refused(key: str, value: object, tmp_path: Path) -> None:
    sensible: CodeBenchmarkSettings = tiny_settings(tmp_path).code_benchmark

    with pytest.raises(WrongSettingError) as caught:
        replace(sensible, **{key: value})  # type: ignore[arg-type]

    assert caught.value.setting == f"code_benchmark.{key}"
