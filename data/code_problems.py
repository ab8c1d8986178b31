"""Problems that are solved by writing a function: a prompt, tests, and a solution.

A file has one JSON object a line, under the keys of HumanEval; it may be packed with gzip.

Source: Chen et al. 2021, arXiv:2107.03374.
"""

import ast
import gzip
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib import resources
from math import prod
from pathlib import Path
from typing import Any

from data.errors import MissingFileError, WrongProblemsError

BUILT_IN = ("HumanEval",)
STOP_SEQUENCES = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""Where a completion has left the function that it was to write."""
NONSENSE = "    return 'nonsense'\n"
"""What no test should take for a solution."""


@dataclass(frozen=True, slots=True)
class CodeProblem:
    """A function to be written."""

    task_id: str
    prompt: str
    "Ends where the body of the function begins."
    entry_point: str
    canonical_solution: str
    test: str
    "Defines `check`, which takes the function."


def problems_content(source: str) -> bytes:
    """Return the bytes of a benchmark that comes with assay, or of a file.

    Raises: MissingFileError.
    """
    if source in BUILT_IN:
        return resources.files("data").joinpath(f"benchmarks/{source}.jsonl.gz").read_bytes()
    path = Path(source)
    if not path.is_file():
        raise MissingFileError("code_benchmark.problems", path)
    return path.read_bytes()


def parse_problems(source: str, content: bytes) -> tuple[CodeProblem, ...]:
    """Read problems, refusing any that could not be solved.

    Raises: WrongProblemsError.
    """
    try:
        text = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        # Not at what else Python takes for the end of a line: a JSON string may hold it as it is.
        lines = text.decode("utf-8").split("\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise WrongProblemsError(source, 0, str(error), "lines of JSON in UTF-8") from None
    problems = [
        _parse(source, number, line) for number, line in enumerate(lines, 1) if line.strip()
    ]
    names = [problem.task_id for problem in problems]
    if not names:
        raise WrongProblemsError(source, 0, "no problem", "one at least")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise WrongProblemsError(source, 0, f"{twice} twice", "each task_id once")
    return tuple(problems)


def _parse(source: str, number: int, line: str) -> CodeProblem:
    keys = [field.name for field in fields(CodeProblem)]
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        # An integer of too many digits is a ValueError, too.
        raise WrongProblemsError(source, number, str(error), "a JSON object") from None
    texts: dict[str, Any] = {}
    if isinstance(values, dict):
        texts = {key: values.get(key) for key in keys}
    wrong = next((key for key in keys if not isinstance(texts.get(key), str)), None)
    if wrong:
        raise WrongProblemsError(source, number, f"no text under {wrong!r}", f"{', '.join(keys)}")
    problem = CodeProblem(**texts)
    try:
        ast.parse(problem.prompt)
    except (SyntaxError, ValueError) as error:
        found = f"a prompt that does not run by itself ({error})"
        raise WrongProblemsError(source, number, found, "a function with its docstring") from None
    return problem


def without_what_follows(completion: str) -> str:
    r"""Cut a completion where it leaves its function.

    >>> without_what_follows("    return 1\n\nprint(f())")
    '    return 1\n'
    """
    ends = [completion.find(stop) for stop in STOP_SEQUENCES]
    return completion[: min((end for end in ends if end >= 0), default=len(completion))]


def pass_at_k(num_samples: int, num_passed: int, k: int) -> float:
    """Estimate, without bias, how likely one of `k` samples passes.

    Source: Chen et al. 2021, arXiv:2107.03374, eq. 1, as the product in its figure 3.

    >>> pass_at_k(2, 1, 1), pass_at_k(4, 1, 2)
    (0.5, 0.5)
    """
    if not 0 <= num_passed <= num_samples or not 1 <= k <= num_samples:
        raise ValueError(f"{num_passed} of {num_samples} samples passed, {k} are drawn")
    num_failed = num_samples - num_passed
    return 1 - prod(1 - k / count for count in range(num_failed + 1, num_samples + 1))


def mean_pass_at_k(counts: Sequence[tuple[int, int]], k: int) -> float:
    """Average over problems, each given as how many samples there are and how many passed."""
    return sum(pass_at_k(*count, k) for count in counts) / len(counts)
