"""What can go wrong with an evaluation.

TaskError
+-- DifferentTokenizerError  a model is to be scored on ids that another tokenizer made
+-- OutdatedEvaluationError  an evaluation that an earlier version of assay made
+-- UnknownModelError        a path at which no model is that can be scored
"""

from dataclasses import dataclass
from pathlib import Path

from tasks.errors import TaskError


@dataclass(eq=False)
class DifferentTokenizerError(TaskError):
    """A model is to be scored on ids that another tokenizer made than its own."""

    model: str
    expected: str
    found: str
    hint = (
        "nats per token would mean nothing: import the model's tokenizer (tokenizer.kind), make "
        "shards of the same documents with it, and compare bits per byte"
    )

    def __str__(self) -> str:
        return (
            f"{self.model}: the shards' tokenizer is {self.found}..., "
            f"should be the model's {self.expected}..."
        )


@dataclass(eq=False)
class UnknownModelError(TaskError):
    """A path at which no model is that can be scored."""

    path: Path
    expected: str
    hint = "`assay runs` lists the runs; a checkpoint is named as checkpoint:DIGEST, too"

    def __str__(self) -> str:
        return f"{self.path}: no model, should be {self.expected}"


@dataclass(eq=False)
class OutdatedEvaluationError(TaskError):
    """An evaluation that an earlier version of assay made."""

    ref: str
    hint = "evaluate again: `assay evaluate` makes what is compared"

    def __str__(self) -> str:
        return f"{self.ref}: does not say on what it was measured, should be a newer one"
