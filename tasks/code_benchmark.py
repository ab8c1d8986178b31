"""Problems that a model answers with code, which is run against their tests.

Two controls are judged with every model: the solutions that come with the problems, and nonsense.
Where not all of the first pass and none of the second, no figure of the model's means anything.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd

from data.code_problems import (
    NONSENSE,
    CodeProblem,
    mean_pass_at_k,
    parse_problems,
    pass_at_k,
    problems_content,
    without_what_follows,
)
from data.tokenizer import Tokenizer
from evidence.gates import Measurements
from model.llama import Llama
from model.loss_statistics import ratio
from tasks.code_benchmark_settings import CodeBenchmarkSettings
from tasks.completion import Completion, complete_all, encode
from tasks.errors import IsolationUnavailableError
from tasks.sandbox import Answer, Outcome, Sandbox, Verdict
from tasks.saying import say

ANSWERS = "answers.parquet"
MODEL, CANONICAL, NONSENSICAL = "model", "canonical", "nonsense"
PASSED: Outcome = "passed"
NOT_INFERRED: Outcome = "inference failure"


@dataclass(frozen=True, slots=True)
class Given:
    """An answer as it is recorded, before it is judged."""

    answered_by: str
    task: str
    sample: int
    prompt_sha256: str
    completion: str


def check_ready(settings: CodeBenchmarkSettings) -> None:
    """Refuse problems that cannot be read and code that could not be run, before any work.

    Raises: MissingFileError, WrongProblemsError, IsolationUnavailableError.
    """
    if settings.problems:
        parse_problems(settings.problems, problems_content(settings.problems))
        with Sandbox.opened(settings.sandbox):
            pass


def as_possible(settings: CodeBenchmarkSettings) -> CodeBenchmarkSettings:
    """Decide here and now what `where-possible` means, so that a run's plan says what it does."""
    if settings.isolation != "where-possible":
        return settings
    isolated = replace(settings, isolation="namespaces")
    if not settings.problems:
        return isolated
    try:
        with Sandbox.opened(isolated.sandbox):
            return isolated
    except IsolationUnavailableError as error:
        say(f"warning: no generated code is run here, so no problems: {error}")
        return replace(isolated, problems="")


def problems_sha256(settings: CodeBenchmarkSettings) -> str | None:
    """Digest the problems, which decide the result as any input does."""
    if not settings.problems:
        return None
    return sha256(problems_content(settings.problems)).hexdigest()


def answer_problems(
    model: Llama,
    tokenizer: Tokenizer,
    settings: CodeBenchmarkSettings,
    num_workers: int,
    out: Path,
) -> None:
    """Have every problem answered, judge the answers and the controls, and keep all of them.

    Raises: MissingFileError, WrongProblemsError, IsolationUnavailableError, SandboxError.
    """
    problems = parse_problems(settings.problems, problems_content(settings.problems))
    completions = write_answers(model, tokenizer, problems, settings)
    given = _given(problems, completions, settings.samples)
    judged = judge_answers(given, problems, settings, num_workers)
    for number, completion in enumerate(completions):
        if not completion.is_sound:
            judged[number] = Verdict(NOT_INFERRED, "scores were NaN or infinite")
    table = pd.DataFrame([asdict(each) for each in given])
    table["verdict"] = [verdict.outcome for verdict in judged]
    table["detail"] = [_storable(verdict.detail) for verdict in judged]
    table.to_parquet(out / ANSWERS, index=False)


def write_answers(
    model: Llama,
    tokenizer: Tokenizer,
    problems: Sequence[CodeProblem],
    settings: CodeBenchmarkSettings,
    chosen: Sequence[int] | None = None,
) -> list[Completion]:
    """Have the samples of all problems written, or those at the chosen places among them."""
    asked = [problem.prompt for problem in problems for _ in range(settings.samples)]
    return complete_all(
        model,
        tokenizer,
        encode(tokenizer, asked),
        num_tokens=settings.max_tokens,
        sampling=settings.sampling,
        chosen=chosen,
        is_finished=lambda text: without_what_follows(text) != text,
    )


def judge_answers(
    given: Sequence[Given],
    problems: Sequence[CodeProblem],
    settings: CodeBenchmarkSettings,
    num_workers: int,
) -> list[Verdict]:
    """Run answers against the tests of their problems.

    Raises: IsolationUnavailableError, SandboxError.
    """
    with Sandbox.opened(settings.sandbox) as sandbox:
        return sandbox.judge_all([_as_answer(each, problems) for each in given], num_workers)


def read_answers(directory: Path) -> pd.DataFrame:
    """Read what a model answered, in the order in which it was asked."""
    table = pd.read_parquet(directory / ANSWERS)
    return table[table["answered_by"] == MODEL]


def _given(
    problems: Sequence[CodeProblem],
    completions: Sequence[Completion],
    num_samples: int,
) -> list[Given]:
    """List the model's answers, then those of the controls."""
    asked = [(problem, sample) for problem in problems for sample in range(num_samples)]
    answers = [
        (MODEL, problem, sample, without_what_follows(completion.text))
        for (problem, sample), completion in zip(asked, completions, strict=True)
    ]
    answers += [(CANONICAL, problem, 0, problem.canonical_solution) for problem in problems]
    answers += [(NONSENSICAL, problem, 0, NONSENSE) for problem in problems]
    return [
        Given(by, problem.task_id, sample, sha256(problem.prompt.encode()).hexdigest(), text)
        for by, problem, sample, text in answers
    ]


def _as_answer(given: Given, problems: Sequence[CodeProblem]) -> Answer:
    problem = next(each for each in problems if each.task_id == given.task)
    return Answer(
        code=problem.prompt + given.completion,
        prompt=problem.prompt,
        test=problem.test,
        entry_point=problem.entry_point,
    )


def _storable(detail: str) -> str:
    """Keep what generated code said in a form that any file can hold, and that is the same again.

    Where an object lay in memory is another place each time.
    """
    storable = detail.encode("utf-8", errors="backslashreplace").decode()
    return re.sub(r"\bat 0x[0-9a-f]+", "at 0x...", storable)


def code_measurements(directory: Path, settings: CodeBenchmarkSettings) -> Measurements:
    """Compute every figure again from the verdicts on disk."""
    table = pd.read_parquet(directory / ANSWERS)
    name = settings.problems_name
    answers = table[table["answered_by"] == MODEL]
    counts = _counts(answers)
    each = np.array([pass_at_k(*count, 1) for count in counts])
    error = ratio(each, np.ones(len(each), np.int64)).standard_error
    return {
        f"{name}_problems": len(counts),
        f"{name}_answers": len(answers),
        **{f"{name}_pass_at_{k}": mean_pass_at_k(counts, k) for k in settings.pass_at},
        f"{name}_pass_at_1_standard_error": error,
        "canonical_pass_at_1": mean_pass_at_k(_counts(table[table.answered_by == CANONICAL]), 1),
        "nonsense_pass_at_1": mean_pass_at_k(_counts(table[table.answered_by == NONSENSICAL]), 1),
        "inference_failures": int((answers["verdict"] == NOT_INFERRED).sum()),
        "sandbox_isolation": settings.sandbox.isolation,
    }


def _counts(answers: pd.DataFrame) -> list[tuple[int, int]]:
    """Count the answers to each problem, and those of them that passed."""
    grouped = (answers["verdict"] == PASSED).groupby(answers["task"]).agg(["count", "sum"])
    return [(int(number), int(passed)) for number, passed in grouped.to_numpy()]
