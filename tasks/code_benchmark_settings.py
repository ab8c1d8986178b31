"""What is asked of a model that writes code."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from data.code_problems import BUILT_IN
from model.errors import WrongSettingError
from model.sampling import Sampling
from tasks.sandbox import Isolation, SandboxSettings

_TAKEN_NAMES = {*(name.lower() for name in BUILT_IN), "canonical", "nonsense"}
"""What figures of other problems begin with; those of a file must not be taken for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeBenchmarkSettings:
    """Problems whose answers are run, and held-out code whose continuations are parsed."""

    problems: str
    "`HumanEval`, or a file of the same shape; empty leaves problems out."
    samples: int
    "Answers to each problem."
    pass_at: tuple[int, ...]
    "How many answers one has, for each figure that is reported."
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    syntax_prompts: int
    "Held-out definitions that are continued; 0 leaves them out."
    syntax_prompt_tokens: int
    syntax_tokens: int
    speed_tokens: int
    "Drawn for one sequence alone, to time them; 0 leaves that out."
    isolation: Isolation | Literal["where-possible"]
    """`none` runs generated code as this user, who may be harmed; the record says so.
    `where-possible` leaves problems out on a machine on which `namespaces` is refused."""
    cpu_seconds: int
    wall_seconds: float
    memory_bytes: int
    "Of each of the two processes that judge an answer."

    def __post_init__(self) -> None:
        """Refuse what cannot be answered or counted.

        Raises: WrongSettingError.
        """
        least = {
            "samples": 1,
            "max_tokens": 1,
            "syntax_prompts": 0,
            "syntax_prompt_tokens": 1,
            "syntax_tokens": 1,
            "speed_tokens": 0,
        }
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise _wrong(name, getattr(self, name), f"at least {bound}")
        if not self.pass_at or not all(1 <= k <= self.samples for k in self.pass_at):
            expected = f"one or more numbers from 1 to code_benchmark.samples ({self.samples})"
            raise _wrong("pass_at", list(self.pass_at), expected)
        if self.samples > 1 and self.temperature == 0:
            raise _wrong("samples", self.samples, "1 at temperature 0, where all are the same")
        if self.problems not in BUILT_IN and self.problems_name in _TAKEN_NAMES:
            expected = f"{' or '.join(BUILT_IN)}, or a file of another name"
            raise _wrong("problems", self.problems, expected)
        try:
            _ = self.sampling, self.sandbox
        except WrongSettingError as error:
            raise _wrong(error.setting, error.found, error.expected) from None

    @property
    def problems_name(self) -> str:
        """What figures about the problems begin with."""
        return Path(self.problems).name.partition(".")[0].lower()

    @classmethod
    def of_record(cls, recorded: Mapping[str, Any]) -> "CodeBenchmarkSettings":
        """Read settings from where JSON has no tuples."""
        return cls(**{**recorded, "pass_at": tuple(recorded["pass_at"])})

    def as_kept(self) -> dict[str, Any]:
        """Write the settings as an evaluation keeps them: where a file lies decides nothing."""
        if self.problems in BUILT_IN:
            return asdict(self)
        return {**asdict(self), "problems": self.problems_name}

    @property
    def sampling(self) -> Sampling:
        """How tokens of answers are chosen."""
        return Sampling(temperature=self.temperature, top_p=self.top_p, seed=self.seed)

    @property
    def sandbox(self) -> SandboxSettings:
        """Where answers are run."""
        return SandboxSettings(
            isolation="namespaces" if self.isolation == "where-possible" else self.isolation,
            cpu_seconds=self.cpu_seconds,
            wall_seconds=self.wall_seconds,
            memory_bytes=self.memory_bytes,
        )


def _wrong(name: str, found: object, expected: str) -> WrongSettingError:
    return WrongSettingError(f"code_benchmark.{name}", found, expected)
