"""Have a model write again what it wrote in an evaluation, and compare text and verdict.

Which texts is drawn by a seed. A sequence draws the same tokens whatever else is drawn, but beside
other sequences a matrix library may round otherwise, and a near tie end otherwise: where a text of
some differs, all are written again, as they were the first time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
import pandas as pd
import torch

from data.code_problems import parse_problems, problems_content, without_what_follows
from data.tokenizer import TOKENIZER, Tokenizer
from evidence.refs import parse_ref
from model.llama import Llama
from tasks.code_benchmark import (
    ANSWERS,
    MODEL,
    PASSED,
    Given,
    judge_answers,
    problems_sha256,
    read_answers,
    write_answers,
)
from tasks.code_benchmark_settings import CodeBenchmarkSettings
from tasks.code_evaluation import held_out_texts
from tasks.rechecked import Rechecked
from tasks.store import Artefact, Store
from tasks.syntax_benchmark import CONTINUATIONS, continuations, held_out_definitions

PASSES, PARSES = ("passes", "fails"), ("parses", "does not parse")


@dataclass(frozen=True, slots=True)
class Draw:
    """Which of the texts that a model wrote are written again."""

    number: int | None
    "How many answers, and how many continuations; none for all."
    seed: int

    def of(self, count: int) -> list[int]:
        """Draw places among so many, in their order."""
        if self.number is None or self.number >= count:
            return list(range(count))
        generator = np.random.default_rng(self.seed)
        return sorted(generator.choice(count, self.number, replace=False).tolist())


def written_again(
    store: Store,
    record: Mapping[str, Any],
    evaluation: Artefact,
    model: Llama,
    shards: Artefact,
    draw: Draw,
) -> Iterator[Rechecked]:
    """Have answers and continuations written again by a model whose weights are already rounded.

    Raises: NotFoundError, MissingFileError, IsolationUnavailableError, SandboxError.
    """
    recipe = record["recipe"]
    settings = CodeBenchmarkSettings.of_record(recipe["settings"]["code_benchmark"])
    tokenizer = Tokenizer.load(shards.directory / TOKENIZER)
    if (evaluation.directory / ANSWERS).is_file():
        said, found = recipe["inputs"]["problems"], f"sha256:{problems_sha256(settings)}"
        yield Rechecked(check="digest of the problems", recorded=said, measured=found, bar=0, n=1)
        if said == found:
            yield from _answers(model, tokenizer, settings, evaluation, draw)
    if (evaluation.directory / CONTINUATIONS).is_file():
        tokens = store.open(parse_ref(recipe["inputs"]["tokens"]))
        yield from _continuations(model, tokenizer, settings, evaluation, tokens, draw)


def _answers(
    model: Llama,
    tokenizer: Tokenizer,
    settings: CodeBenchmarkSettings,
    evaluation: Artefact,
    draw: Draw,
) -> Iterator[Rechecked]:
    problems = parse_problems(settings.problems, problems_content(settings.problems))
    tasks = [problem.task_id for problem in problems for _ in range(settings.samples)]
    table = read_answers(evaluation.directory)
    yield _counted("answers", len(table), len(tasks))
    recorded = table["completion"].tolist()[: len(tasks)]
    chosen = draw.of(len(recorded))

    def write(places: Sequence[int]) -> list[str]:
        written = write_answers(model, tokenizer, problems, settings, places)
        return [without_what_follows(each.text) for each in written]

    found = _decided(write, recorded, chosen)
    # The recorded texts: their verdicts are looked at whatever is written now.
    given = [Given(MODEL, tasks[place], 0, "", recorded[place]) for place in chosen]
    # Whoever made the record may have run generated code without walls.
    safely = replace(settings, isolation="namespaces")
    verdicts = judge_answers(given, problems, safely, torch.get_num_threads())
    for place, text, verdict in zip(chosen, found, verdicts, strict=True):
        row = table.iloc[place]
        yield Rechecked(
            check=f"answer {place % settings.samples} to {tasks[place]}",
            recorded=_said(PASSES, row["verdict"] == PASSED, row["task"] + row["completion"]),
            measured=_said(PASSES, verdict.outcome == PASSED, tasks[place] + text), bar=0, n=1,
        )  # fmt: skip


def _continuations(
    model: Llama,
    tokenizer: Tokenizer,
    settings: CodeBenchmarkSettings,
    evaluation: Artefact,
    tokens: Artefact,
    draw: Draw,
) -> Iterator[Rechecked]:
    table = pd.read_parquet(evaluation.directory / CONTINUATIONS)
    definitions = held_out_definitions(tokenizer, held_out_texts(tokens), settings)
    columns = (table["is_valid"], table["prompt"] + table["continuation"])
    yield _counted("definitions", len(table), len(definitions))
    recorded = [_said(PARSES, *each) for each in zip(*columns, strict=True)][: len(definitions)]
    chosen = draw.of(len(recorded))

    def write(places: Sequence[int]) -> list[str]:
        written = continuations(model, tokenizer, definitions, settings, places)
        return [_said(PARSES, each.is_valid, each.prompt + each.continuation) for each in written]

    for place, found in zip(chosen, _decided(write, recorded, chosen), strict=True):
        yield Rechecked(
            check=f"continuation {place}", recorded=recorded[place], measured=found, bar=0, n=1
        )


def _counted(what: str, recorded: int, asked: int) -> Rechecked:
    return Rechecked(check=f"number of {what}", recorded=recorded, measured=asked, bar=0, n=asked)


def _decided(
    write: Callable[[Sequence[int]], list[str]], recorded: Sequence[str], chosen: Sequence[int]
) -> list[str]:
    """Write the chosen texts again, and all of them before it is said that one differs."""
    found = write(chosen)
    if len(chosen) == len(recorded) or found == [recorded[place] for place in chosen]:
        return found
    everything = write(range(len(recorded)))
    return [everything[place] for place in chosen]


def _said(words: tuple[str, str], is_so: object, text: str) -> str:
    """Write a verdict and a text as they are compared."""
    verdict = words[0] if is_so else words[1]
    return f"{verdict}, {sha256(text.encode()).hexdigest()[:12]}"
